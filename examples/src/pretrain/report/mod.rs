//! Everything a run prints, draws and measures: a line per epoch, `metrics.csv` and the same for TensorBoard,
//! `mix.png`, `curves.png`, `summary.json`.

mod announcement;
mod baselines;
mod estimate;
mod knn;
mod progress;

use std::time::Instant;

use indicatif::FormattedDuration;
use patchmix::MixPlan;
use patchmix::contrast::Losses;
use patchmix::data::Split;
use tch::{Device, Kind, Tensor};

use super::folder::Run;
use super::learner::{Learner, Rates};
use super::meter::Reading;
use super::position::Position;
use crate::Result;
use crate::images::Images;
use crate::pictures::draw::curves::curves_picture;
use crate::pictures::draw::mix::{MixRow, mix_picture};
use crate::pictures::draw::tiles::resized;
use crate::run::metrics::{self, KNN, KNN_MOMENTUM, LOSS, Row, Summary};
use crate::tensorboard::EventFile;
use crate::terminal::{log, resume_command, say};
use announcement::announce;
use knn::Knn;
use progress::Progress;

pub(super) use estimate::{explained, remedy};

pub(super) const MIX: &str = "mix.png";
pub(super) const CURVES: &str = "curves.png";

/// Features have collapsed if their spread is below this share of that of features in all directions.
const COLLAPSED: f64 = 0.02;

/// What a run says and writes of an epoch that has ended; nothing on other ranks than the first.
pub(super) struct Ended(Option<Epoch>);

struct Epoch {
    /// Counted from 1.
    epoch: u64,
    /// Steps in an epoch.
    steps: u64,
    reading: Reading,
    knn: Option<Knn>,
    row: Row,
    images_per_second: f64,
    /// Whether the row is on the disk.
    written: Result<()>,
}

impl Ended {
    /// The accuracy of the encoder that evaluations take by default, if it was measured.
    pub(super) fn knn_top1(&self) -> Option<f64> {
        self.0.as_ref().and_then(|epoch| epoch.knn).map(Knn::of_default)
    }
}

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
}

impl<'a> Report<'a> {
    /// Announces the run. A run that resumes continues the rows of its finished epochs.
    pub(super) fn start(
        run: Run<'a>,
        images: &'a Images,
        learner: &Learner,
        position: &Position,
    ) -> Result<Report<'a>> {
        let mut report = Report {
            run,
            images,
            rows: Vec::new(),
            summary: Summary::default(),
            events: None,
            progress: Progress::new(run.settings, run.world),
            started: Instant::now(),
        };
        if !run.world.leads() {
            return Ok(report);
        }
        announce(run, images, learner);
        let (rows, problem) = metrics::recover(&run.folder.path, position.epoch);
        report.rows = rows;
        if let Some(problem) = problem {
            log!("{problem}");
        }
        if !run.folder.file(MIX).exists() {
            let drawn = report.draw_mix();
            goes_on_without(drawn);
        }
        report.take_baselines(learner, position)?;
        Ok(report)
    }

    /// Ends an epoch: measures its kNN accuracy if that is due, and writes its row.
    pub(super) fn end_epoch(&mut self, position: &Position, rates: Rates, learner: &Learner) -> Result<Ended> {
        if !self.run.world.leads() {
            return Ok(Ended(None));
        }
        let images_per_second = self.progress.images_per_second();
        let speed = [
            ("images_per_second", Some(images_per_second)),
            ("data_wait_share", Some(self.progress.data_wait_share())),
        ];
        let (epoch, settings) = (position.epoch + 1, self.run.settings);
        let mut knn = None;
        if epoch.is_multiple_of(settings.knn_every) || epoch == settings.epochs {
            self.progress.say("measuring kNN accuracy");
            knn = Some(self.knn(learner)?);
        }
        let (steps, reading) = (position.batch, position.meter.read()?);
        let row: Row = self
            .measurements(position, &reading, rates, epoch * steps)
            .into_iter()
            .chain([(KNN, knn.map(|knn| knn.trained))])
            .chain(learner.momentum.is_some().then(|| (KNN_MOMENTUM, knn.and_then(|knn| knn.momentum))))
            .chain(speed)
            .collect();
        self.rows.push(row.clone());
        // A row that cannot be written ends the run, but only when the epoch is saved.
        let written = metrics::write(&self.run.folder.path, &self.rows);
        Ok(Ended(Some(Epoch { epoch, steps, reading, knn, row, images_per_second, written })))
    }

    /// Shows an epoch that has ended and is saved: in the curves, in TensorBoard, and in a line.
    pub(super) fn show_epoch(&mut self, Ended(epoch): Ended) -> Result<()> {
        let Some(epoch) = epoch else { return Ok(()) };
        self.progress.clear();
        let events = self.write_events(&epoch.row, epoch.epoch * epoch.steps, epoch.steps);
        goes_on_without(events);
        goes_on_without(curves_picture(&self.run.folder.file(CURVES), &self.rows, &self.summary));
        self.print_epoch(&epoch);
        epoch.written
    }

    /// The columns of an epoch's row up to its kNN accuracy.
    fn measurements(
        &self,
        position: &Position,
        reading: &Reading,
        rates: Rates,
        step: u64,
    ) -> Vec<(&'static str, Option<f64>)> {
        let has_local_views = self.run.settings.has_local_views();
        let is_absent = |name| Losses::TERMS.iter().any(|term| term.name == name && term.local && !has_local_views);
        let mut columns = vec![
            ("epoch", Some((position.epoch + 1) as f64)),
            ("step", Some(step as f64)),
            ("lr", Some(rates.learning)),
            ("weight_decay", Some(rates.decay)),
        ];
        columns.extend(reading.averages().map(|(name, average)| (name, (!is_absent(name)).then_some(average))));
        columns.push(("skipped_steps", Some(reading.skipped_steps as f64)));
        columns.push(("broken_images", Some(position.broken_images as f64)));
        columns
    }

    fn print_epoch(&self, Epoch { epoch, steps, reading, knn, images_per_second, .. }: &Epoch) {
        let epochs = self.run.settings.epochs;
        let width = epochs.to_string().len();
        let left = self.progress.time_for((epochs - epoch) * steps);
        // Lines without an accuracy are as long as those with one.
        let blank = if self.run.settings.momentum_encoder > 0.0 { 30 } else { 12 };
        let knn = knn.map_or_else(|| " ".repeat(blank), |knn| format!("  kNN {knn}"));
        log!(
            "epoch {epoch:>width$}/{epochs}  loss {}{knn}  {images_per_second:>6.0} images/s  {left:#} left",
            reading.describe_loss(self.run.settings.has_local_views()),
        );
        if let Some(warning) = collapse(reading.feature_std()) {
            log!("warning: {warning}");
        }
    }

    /// The end of the run in a few lines.
    pub(super) fn finish(&mut self, learner: &Learner) -> Result<()> {
        if !self.run.world.leads() {
            return Ok(());
        }
        let row_of = |epoch: u64| self.rows.iter().find(|row| row.get("epoch") == Some(epoch as f64));
        let epochs = self.run.settings.epochs;
        let Knn { trained, momentum } = match row_of(epochs).and_then(Knn::of_row) {
            Some(knn) => knn,
            None => self.knn(learner)?,
        };
        (self.summary.knn_trained, self.summary.knn_momentum) = (Some(trained), momentum);
        self.summary.write(&self.run.folder.path)?;
        let losses = (row_of(1).and_then(|row| row.get(LOSS)), row_of(epochs).and_then(|row| row.get(LOSS)));
        log!("\nfinished in {}", FormattedDuration(self.started.elapsed()));
        if let (Some(first), Some(last)) = losses {
            say!("loss   {first:.3} in the first epoch, {last:.3} in the last");
        }
        let percent = |accuracy: Option<f64>| accuracy.map_or("unknown".to_owned(), |share| format!("{share:.1} %"));
        let Summary { knn_raw_pixels, knn_untrained, .. } = self.summary;
        let (pixels, untrained) = (percent(knn_raw_pixels), percent(knn_untrained));
        let momentum = momentum.map_or_else(String::new, |knn| format!(", {knn:.1} % momentum encoder"));
        say!("kNN    {pixels} raw pixels, {untrained} untrained encoder, {trained:.1} % trained encoder{momentum}");
        say!(
            "files  {}: metrics.csv, curves.png, mix.png, config.json, checkpoints/, TensorBoard events",
            self.run.folder.path.display()
        );
        Ok(())
    }

    fn knn(&self, learner: &Learner) -> Result<Knn> {
        Knn::measure(self.images, learner, self.run.settings.knn_images)
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
                "not saved, as the last {skipped} steps were skipped: their loss or gradient is not finite. Resume from \
                 the last checkpoint, which is from before, with{command}"
            ),
        }
    }

    /// Adds a row to TensorBoard's file, which begins with the picture of the mixes.
    fn write_events(&mut self, row: &Row, step: u64, epoch_steps: u64) -> Result<()> {
        let mut events = match self.events.take() {
            Some(events) => events,
            None => {
                let mut events = EventFile::create(&self.run.folder.path, step - epoch_steps + 1)?;
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
        let (patch, patches) = (self.run.settings.patch_size, self.run.settings.vit().patches());
        let rows = [2, 4, 8].into_iter().filter(|groups| *groups <= patches.min(shown)).map(|groups| {
            let plan = MixPlan::random(patches, groups, 1)?;
            let targets = plan.targets(shown)?;
            Ok(MixRow {
                groups,
                mixed: plan.mix_images(&originals, patch)?,
                mix_to_origin: targets.mix_to_origin.dense(Kind::Float, Device::Cpu)?,
                mix_to_mix: targets.mix_to_mix.dense(Kind::Float, Device::Cpu)?,
            })
        });
        let rows = rows.collect::<std::result::Result<Vec<_>, patchmix::Error>>()?;
        mix_picture(&self.run.folder.file(MIX), &originals, patch, &rows)
    }

    /// At most `count` training images, `[count, 3, H, W]` of `Uint8`, on the CPU.
    fn some_images(&self, count: i64, size: i64) -> Result<Tensor> {
        // Some files may be broken.
        let looked_at = if self.images.is_folder() { 8 * count } else { count };
        let images = self.images.dataset(Split::Train, looked_at, size)?.images;
        Ok(images.f_narrow(0, 0, count.min(images.size()[0]))?.f_to_device(Device::Cpu)?)
    }
}

/// A picture or an event that cannot be written must not end a run.
fn goes_on_without(written: Result<()>) {
    if let Err(error) = written {
        log!("warning: {error}; the run goes on without it");
    }
}

/// A warning if the features of all images are nearly alike.
fn collapse(feature_std: f64) -> Option<String> {
    (feature_std < COLLAPSED).then(|| {
        format!(
            "the encoder has collapsed: the features of all images are nearly alike (they differ by {feature_std:.4}, \
             where 1 is all directions); a lower --lr or a larger --batch-size may help"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_features_that_are_alike_are_called_collapsed() {
        assert!(collapse(0.001).is_some_and(|warning| warning.contains("collapsed") && warning.contains("0.0010")));
        assert_eq!(collapse(0.3), None);
    }
}
