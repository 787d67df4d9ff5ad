//! Everything a run prints, draws and measures: a line per epoch, `metrics.csv` and the same for TensorBoard,
//! `mix.png`, `curves.png`, `summary.json`.

mod announcement;
mod baselines;
mod epoch;
mod estimate;
mod knn;
mod measures;
mod progress;
mod spread;
mod times;

use std::time::{Duration, Instant};

use indicatif::FormattedDuration;
use tch::{Device, Kind, Tensor};

use super::folder::Run;
use super::learner::Learner;
use super::mixing::draw_plan;
use super::position::Position;
use super::probe::Probe;
use crate::Result;
use crate::images::{Images, Voters};
use crate::pictures::draw::mix::{MixRow, mix_picture};
use crate::pictures::draw::tiles::resized;
use crate::run::metrics::{self, LOSS, PROBE, Row, Summary};
use crate::tensorboard::EventFile;
use crate::terminal::{log, resume_command, say, shown};
use announcement::announce;
use baselines::{percent, untrained_encoder};
use knn::Knn;
use progress::Progress;
use times::{Times, shares};

pub(super) use estimate::{explained, remedy};

pub(super) const MIX: &str = "mix.png";
pub(super) const CURVES: &str = "curves.png";

/// The reports of a run. Of several ranks, only the first prints and writes.
pub(super) struct Report<'a> {
    run: Run<'a>,
    images: &'a Images,
    rows: Vec<Row>,
    summary: Summary,
    /// Begun at the end of the first epoch of this process.
    events: Option<EventFile>,
    pub(super) progress: Progress,
    started: Instant,
    times: Times,
    /// Whether the run had begun before this process.
    resumed: bool,
}

impl<'a> Report<'a> {
    /// Announces the run, with the `notes` on its start. A run that resumes continues the rows of its finished epochs.
    pub(super) fn start(
        run: Run<'a>,
        images: &'a Images,
        learner: &Learner,
        position: &Position,
        notes: &[String],
    ) -> Result<Report<'a>> {
        let mut report = Report {
            run,
            images,
            rows: Vec::new(),
            summary: Summary::default(),
            events: None,
            progress: Progress::new(run.settings, run.world),
            started: Instant::now(),
            times: Times::default(),
            resumed: (position.epoch, position.batch) != (0, 0),
        };
        if !run.world.leads() {
            return Ok(report);
        }
        announce(run, images, learner, notes);
        let (rows, problem) = metrics::recover(&run.folder.path, position.epoch);
        report.rows = rows;
        if let Some(problem) = problem {
            log!("{problem}");
        }
        if !run.folder.file(MIX).exists() {
            let drawn = report.draw_mix();
            goes_on_without(drawn);
        }
        let started = Instant::now();
        report.take_baselines(learner, position)?;
        if images.voters() != Voters::Nobody {
            report.times.knn += started.elapsed();
        }
        Ok(report)
    }

    /// The end of the run in a few lines; `saving` is the time that it has waited for its checkpoints.
    pub(super) fn finish(&mut self, learner: &Learner, saving: Duration) -> Result<()> {
        if !self.run.world.leads() {
            return Ok(());
        }
        let row_of = |epoch: u64| self.rows.iter().find(|row| row.get("epoch") == Some(epoch as f64));
        let epochs = self.run.settings.epochs;
        let knn = match row_of(epochs).and_then(Knn::of_row) {
            _ if self.images.voters() == Voters::Nobody => None,
            Some(knn) => Some(knn),
            None => Some(Knn::measure(self.images, learner, self.run.settings.knn_images)?),
        };
        self.summary.knn_trained = knn.map(|knn| knn.trained);
        self.summary.knn_momentum = knn.and_then(|knn| knn.momentum);
        self.summary.write(&self.run.folder.path)?;
        let losses = (row_of(1).and_then(|row| row.get(LOSS)), row_of(epochs).and_then(|row| row.get(LOSS)));
        log!("\nfinished in {}", FormattedDuration(self.started.elapsed()));
        if let (Some(first), Some(last)) = losses {
            say!("loss   {first:.3} in the first epoch, {last:.3} in the last");
        }
        match knn {
            Some(knn) => self.say_knn(knn),
            None => say!("kNN    left out, without labeled images"),
        }
        if let Some(probe) = row_of(epochs).and_then(|row| row.get(PROBE)) {
            say!("probe  {probe:.1} % trained encoder, by the linear classifier beside it");
        }
        say!("time   {}", self.describe_times(learner, saving));
        say!(
            "files  {}: metrics.csv, curves.png, mix.png, config.json, checkpoints/, TensorBoard events",
            shown(&self.run.folder.path)
        );
        Ok(())
    }

    /// The accuracies at the end, beside those that training had to beat.
    fn say_knn(&self, Knn { trained, momentum }: Knn) {
        let Summary { knn_raw_pixels, knn_untrained, .. } = self.summary;
        let (pixels, untrained) = (percent(knn_raw_pixels), percent(knn_untrained));
        let momentum = momentum.map_or_else(String::new, |knn| format!(", {knn:.1} % momentum encoder"));
        let before = untrained_encoder(self.run.settings);
        say!("kNN    {pixels} raw pixels, {untrained} {before}, {trained:.1} % trained encoder{momentum}");
    }

    /// Where the time of this process went.
    fn describe_times(&self, learner: &Learner, saving: Duration) -> String {
        let Times { knn, probe, representation } = self.times;
        let stepping = learner.probe.as_ref().map_or(Duration::ZERO, Probe::spent);
        let parts = [
            ("waiting for data", self.progress.waited_for_data()),
            ("kNN", knn),
            ("probe", probe + stepping),
            ("representation", representation),
            ("saving", saving),
        ];
        let shares = shares(self.started.elapsed(), "training", &parts);
        if self.resumed { format!("{shares}, since the run was resumed") } else { shares }
    }

    /// Says that the run was asked to stop, and what is saved: nothing after `skipped` skipped steps in a row.
    pub(super) fn stopped(&self, skipped: u64) {
        if !self.run.world.leads() {
            return;
        }
        self.progress.clear();
        let command = resume_command(self.run.program.name(), "", &self.run.folder.path);
        match skipped {
            0 => log!("saved; resume with{command}"),
            skipped => log!(
                "not saved, as the last {skipped} steps were skipped: their loss or gradient is not finite. {}; resume \
                 with{command}",
                self.run.folder.last_checkpoint()
            ),
        }
    }

    /// Adds the row of an epoch that began with the step `first` to TensorBoard's file, which begins with the picture of
    /// the mixes.
    fn write_events(&mut self, row: &Row, step: u64, first: u64) -> Result<()> {
        let mut events = match self.events.take() {
            Some(events) => events,
            None => {
                let mut events = EventFile::create(&self.run.folder.path, first)?;
                goes_on_without(events.add_picture("mix", step, &self.run.folder.file(MIX)));
                events
            }
        };
        events.add_row(step, row)?;
        self.events = Some(events);
        Ok(())
    }

    /// `mix.png`: eight images, mixed by 2, 4 and 8 groups.
    fn draw_mix(&self) -> Result<()> {
        let size = self.run.settings.image_size;
        let originals = resized(&self.some_images(8, size)?, size)?;
        let shown = originals.size()[0];
        let block = self.run.settings.mix_block();
        let blocks = (size / block) * (size / block);
        let rows = [2, 4, 8].into_iter().filter(|groups| *groups <= blocks.min(shown)).map(|groups| {
            let plan = draw_plan(self.run.settings, size, groups, 1)?;
            let targets = plan.targets(shown)?;
            Ok(MixRow {
                groups,
                mixed: plan.mix_images(&originals, block)?,
                mix_to_origin: targets.mix_to_origin.dense(Kind::Float, Device::Cpu)?,
                mix_to_mix: targets.mix_to_mix.dense(Kind::Float, Device::Cpu)?,
            })
        });
        let rows = rows.collect::<std::result::Result<Vec<_>, patchmix::Error>>()?;
        mix_picture(&self.run.folder.file(MIX), &originals, block, &rows)
    }

    /// At most `count` training images, `[count, 3, H, W]` of `Uint8`, on the CPU.
    fn some_images(&self, count: i64, size: i64) -> Result<Tensor> {
        // Some files may be broken.
        let looked_at = if self.images.is_folder() { 8 * count } else { count };
        let images = self.images.examples(looked_at, size)?;
        Ok(images.f_narrow(0, 0, count.min(images.size()[0]))?.f_to_device(Device::Cpu)?)
    }
}

/// A picture or an event that cannot be written must not end a run.
fn goes_on_without(written: Result<()>) {
    if let Err(error) = written {
        log!("warning: {error}; the run goes on without it");
    }
}
