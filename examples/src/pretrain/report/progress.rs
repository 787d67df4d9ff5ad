//! The live line of an epoch, and its speed.

use std::time::{Duration, Instant};

use indicatif::{HumanDuration, ProgressBar, ProgressDrawTarget, ProgressStyle};
use patchmix::contrast::Term;

use super::super::position::Position;
use super::super::world::World;
use crate::Result;
use crate::settings::Settings;

/// How often losses are read: on a GPU, reading waits for the steps that were issued.
const REFRESH: Duration = Duration::from_secs(1);

pub(in super::super) struct Progress {
    epochs: u64,
    batch_size: i64,
    terms: Vec<Term>,
    is_shown: bool,
    bar: ProgressBar,
    training_started: Option<Instant>,
    epoch_started: Instant,
    /// Batches done in this process since the epoch began, and since it started.
    epoch_batches: u64,
    batches: u64,
    /// Time of this epoch that the loop waited for the loader.
    waited: Duration,
    /// The same of all epochs of this process.
    waited_in_all: Duration,
    losses: String,
    losses_read: Option<Instant>,
}

impl Progress {
    /// Of several ranks, only the first shows it.
    pub(in super::super) fn new(settings: &Settings, world: &World) -> Progress {
        Progress {
            epochs: settings.epochs,
            batch_size: settings.batch_size,
            terms: settings.terms().collect(),
            is_shown: world.leads(),
            bar: ProgressBar::hidden(),
            training_started: None,
            epoch_started: Instant::now(),
            epoch_batches: 0,
            batches: 0,
            waited: Duration::ZERO,
            waited_in_all: Duration::ZERO,
            losses: String::new(),
            losses_read: None,
        }
    }

    pub(in super::super) fn begin_epoch(&mut self, position: &Position, batches: u64) {
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

    /// Runs `get`, which takes a batch from its loader, and counts the time as waiting for images to be decoded (none
    /// for images in memory). `get` must not issue work to a GPU: the loop runs ahead of the GPU, and any call may wait
    /// for room in its queue.
    pub(in super::super) fn getting_data<T>(&mut self, get: impl FnOnce() -> T) -> T {
        let started = Instant::now();
        let data = get();
        let waited = started.elapsed();
        self.waited += waited;
        self.waited_in_all += waited;
        data
    }

    pub(in super::super) fn batch_done(&mut self, position: &Position, learning_rate: f64) -> Result<()> {
        self.epoch_batches += 1;
        self.batches += 1;
        self.bar.inc(1);
        if self.bar.is_hidden() {
            return Ok(());
        }
        if self.losses_read.is_none_or(|read| read.elapsed() >= REFRESH) {
            self.losses = format!("loss {}", position.meter.read()?.describe_loss(&self.terms));
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

    /// Shows what is done instead of a batch.
    pub(in super::super) fn say(&self, what: &'static str) {
        self.bar.set_message(what);
    }

    pub(in super::super) fn clear(&self) {
        self.bar.finish_and_clear();
    }

    pub(in super::super) fn images_per_second(&self) -> f64 {
        let images = self.epoch_batches as f64 * self.batch_size as f64;
        images / self.epoch_started.elapsed().as_secs_f64().max(1e-9)
    }

    /// Share of the epoch's time that the loop spent in [`Progress::getting_data`].
    pub(in super::super) fn data_wait_share(&self) -> f64 {
        self.waited.as_secs_f64() / self.epoch_started.elapsed().as_secs_f64().max(1e-9)
    }

    /// The time that the loop spent in [`Progress::getting_data`], in all epochs of this process.
    pub(in super::super) fn waited_for_data(&self) -> Duration {
        self.waited_in_all
    }

    /// The time that so many batches take, judged by those that were done, evaluation included.
    pub(in super::super) fn time_for(&self, batches: u64) -> HumanDuration {
        let elapsed = self.training_started.map_or(Duration::ZERO, |started| started.elapsed());
        let each = elapsed.as_secs_f64() / self.batches.max(1) as f64;
        HumanDuration(Duration::from_secs_f64((each * batches as f64).min(1e9)))
    }
}
