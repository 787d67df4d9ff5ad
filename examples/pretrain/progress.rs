//! The live line of an epoch, and how fast it goes.

use std::time::{Duration, Instant};

use indicatif::{HumanDuration, ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::Result;
use super::report::loss_in_parts;
use super::settings::Settings;
use super::state::Position;
use super::world::World;

/// Losses are read this often: on a GPU, that waits for the steps that are under way.
const REFRESH: Duration = Duration::from_secs(1);

pub(crate) struct Progress {
    epochs: u64,
    batch_size: i64,
    has_local: bool,
    is_shown: bool,
    bar: ProgressBar,
    training_started: Option<Instant>,
    epoch_started: Instant,
    /// Batches done in this process since the epoch began, and since it started.
    epoch_batches: u64,
    batches: u64,
    /// Time of this epoch in which the loop waited for the loader.
    waited: Duration,
    losses: String,
    losses_read: Option<Instant>,
}

impl Progress {
    /// Of several ranks, only the first shows it.
    pub(crate) fn new(settings: &Settings, world: &World) -> Progress {
        Progress {
            epochs: settings.epochs,
            batch_size: settings.batch_size,
            has_local: settings.local_crops > 0,
            is_shown: world.leads(),
            bar: ProgressBar::hidden(),
            training_started: None,
            epoch_started: Instant::now(),
            epoch_batches: 0,
            batches: 0,
            waited: Duration::ZERO,
            losses: String::new(),
            losses_read: None,
        }
    }

    pub(crate) fn begin_epoch(&mut self, position: &Position, batches: u64) {
        let target = if self.is_shown { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        self.bar = ProgressBar::with_draw_target(Some(batches), target);
        if let Ok(style) = ProgressStyle::with_template("{prefix} {bar:20} {pos}/{len}  {msg}") {
            self.bar.set_style(style);
        }
        let width = self.epochs.to_string().len();
        self.bar.set_prefix(format!("epoch {:>width$}/{}", position.epoch + 1, self.epochs));
        self.bar.set_position(position.batch);
        let now = Instant::now();
        self.training_started.get_or_insert(now);
        (self.epoch_started, self.epoch_batches, self.waited) = (now, 0, Duration::ZERO);
        (self.losses, self.losses_read) = (String::new(), None);
    }

    /// Runs what gets a batch from its loader, and counts the time: what the loop waits for images to be decoded. Of
    /// images in memory that is nothing. What goes to a GPU must not be in `get`: the loop runs ahead of the GPU, and
    /// any call may wait for room in its queue.
    pub(crate) fn getting_data<T>(&mut self, get: impl FnOnce() -> T) -> T {
        let started = Instant::now();
        let data = get();
        self.waited += started.elapsed();
        data
    }

    pub(crate) fn batch_done(&mut self, position: &Position, learning_rate: f64) -> Result<()> {
        self.epoch_batches += 1;
        self.batches += 1;
        self.bar.inc(1);
        if self.bar.is_hidden() {
            return Ok(());
        }
        if self.losses_read.is_none_or(|read| read.elapsed() >= REFRESH) {
            self.losses = format!("loss {}", loss_in_parts(&position.meter.read()?.means, self.has_local));
            self.losses_read = Some(Instant::now());
        }
        let batches = self.bar.length().unwrap_or(0);
        let left = batches.saturating_sub(position.batch) + (self.epochs - position.epoch - 1) * batches;
        self.bar.set_message(format!(
            "{:.0} images/s, {:#} left\n{}  lr {learning_rate:.1e}  {:.1} % waiting for data",
            self.images_per_second(),
            self.time_for(left),
            self.losses,
            100.0 * self.data_wait_share(),
        ));
        Ok(())
    }

    /// What is done instead of a batch.
    pub(crate) fn say(&self, what: &'static str) {
        self.bar.set_message(what);
    }

    pub(crate) fn clear(&self) {
        self.bar.finish_and_clear();
    }

    pub(crate) fn images_per_second(&self) -> f64 {
        let images = self.epoch_batches as f64 * self.batch_size as f64;
        images / self.epoch_started.elapsed().as_secs_f64().max(1e-9)
    }

    /// Share of the epoch, by the clock of the host, that the loop waited in [`Progress::getting_data`].
    pub(crate) fn data_wait_share(&self) -> f64 {
        self.waited.as_secs_f64() / self.epoch_started.elapsed().as_secs_f64().max(1e-9)
    }

    /// How long so many batches take, judged by all that were done, evaluation included.
    pub(crate) fn time_for(&self, batches: u64) -> HumanDuration {
        let elapsed = self.training_started.map_or(Duration::ZERO, |started| started.elapsed());
        let each = elapsed.as_secs_f64() / self.batches.max(1) as f64;
        HumanDuration(Duration::from_secs_f64((each * batches as f64).min(1e9)))
    }
}
