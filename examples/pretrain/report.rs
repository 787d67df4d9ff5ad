//! What a run says and draws: a line an epoch, `metrics.csv` and the same for TensorBoard, `mix.png`, `curves.png`,
//! `summary.json`.

use std::time::Instant;

use indicatif::FormattedDuration;
use patchmix::MixPlan;
use patchmix::checkpoint::write_whole;
use tch::{Device, Kind};

use super::announcement::announce;
use super::events::EventFile;
use super::images::Images;
use super::metrics::{self, EpochRow, METRICS, SUMMARY, Summary};
use super::pictures::curves::curves_picture;
use super::pictures::mixes::{MixRow, mix_picture};
use super::pictures::tiles::resized;
use super::progress::Progress;
use super::state::Position;
use super::{Learner, Rates, Result, Run};

const MIX: &str = "mix.png";

/// Below this share of the spread that features in all directions have, they count as alike.
const COLLAPSED: f64 = 0.02;

pub(crate) struct Report<'a> {
    run: Run<'a>,
    rows: Vec<EpochRow>,
    summary: Summary,
    /// Begun at the end of the first epoch of this process.
    events: Option<EventFile>,
    pub(crate) progress: Progress,
    started: Instant,
}

impl<'a> Report<'a> {
    /// Says what is going to happen. A run that goes on takes up the rows of the epochs it has behind it. Of several ranks
    /// the first alone speaks and writes.
    pub(crate) fn start(run: Run<'a>, images: &Images, learner: &Learner, position: &Position) -> Result<Report<'a>> {
        let mut report = Report {
            run,
            rows: Vec::new(),
            summary: Summary::default(),
            events: None,
            progress: Progress::new(run.settings, run.world),
            started: Instant::now(),
        };
        if !run.world.leads() {
            return Ok(report);
        }
        announce(&run, images, learner);
        report.rows = metrics::read(&run.folder.file(METRICS), position.epoch)?;
        if !run.folder.file(MIX).exists() {
            report.draw_mix(images)?;
        }
        report.measure_before_training(images, learner, position)?;
        Ok(report)
    }

    /// The accuracies that training has to beat; a run that goes on has them from its beginning.
    fn measure_before_training(&mut self, images: &Images, learner: &Learner, position: &Position) -> Result<()> {
        if (position.epoch, position.batch) != (0, 0) {
            self.summary = Summary::read(&self.run.folder.path);
            return Ok(());
        }
        let pixels = images.knn_of_pixels(self.run.settings)?;
        let untrained = self.knn(images, learner)?;
        self.summary = Summary {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            device: format!("{:?}", learner.store.device()),
            threads: tch::get_num_threads(),
            knn_raw_pixels: Some(pixels),
            knn_untrained: Some(untrained),
            knn_trained: None,
        };
        self.write_summary()?;
        eprintln!("before training: kNN {pixels:.1} % on raw pixels, {untrained:.1} % on the untrained encoder");
        Ok(())
    }

    /// Ends an epoch: its kNN accuracy where it is asked for, its line, its row, and the curves so far. Returns the
    /// accuracy.
    pub(crate) fn end_epoch(
        &mut self,
        position: &Position,
        rates: Rates,
        images: &Images,
        learner: &Learner,
    ) -> Result<Option<f64>> {
        if !self.run.world.leads() {
            return Ok(None);
        }
        let (images_per_second, data_wait_share) = (self.progress.images_per_second(), self.progress.data_wait_share());
        let reading = position.meter.read()?;
        let [loss, origin_to_origin, mix_to_origin, mix_to_mix, local, local_mix, gradient_norm, feature_std] =
            reading.means;
        let has_local = self.run.settings.local_crops > 0;
        let epoch = position.epoch + 1;
        let mut knn_top1 = None;
        if epoch.is_multiple_of(self.run.settings.knn_every) || epoch == self.run.settings.epochs {
            self.progress.say("measuring kNN accuracy");
            knn_top1 = Some(self.knn(images, learner)?);
        }
        let row = EpochRow {
            epoch,
            step: epoch * position.batch,
            lr: rates.learning,
            weight_decay: rates.decay,
            loss,
            origin_to_origin,
            mix_to_origin,
            mix_to_mix,
            local_to_origin: has_local.then_some(local),
            local_mix_to_origin: has_local.then_some(local_mix),
            gradient_norm,
            feature_std,
            skipped_steps: reading.skipped_steps,
            broken_images: position.broken_images,
            knn_top1,
            images_per_second,
            data_wait_share,
        };
        self.progress.clear();
        let epochs = self.run.settings.epochs;
        let width = epochs.to_string().len();
        let knn = row.knn_top1.map_or_else(|| " ".repeat(12), |knn| format!("  kNN {knn:>4.1} %"));
        let left = self.progress.time_for((epochs - epoch) * position.batch);
        eprintln!(
            "epoch {:>width$}/{epochs}  loss {}{knn}  {:>6.0} images/s  {left:#} left",
            row.epoch,
            loss_in_parts(&reading.means, has_local),
            row.images_per_second,
        );
        if let Some(warning) = collapse(feature_std) {
            eprintln!("warning: {warning}");
        }
        self.rows.push(row.clone());
        metrics::write(&self.run.folder.file(METRICS), &self.rows)?;
        self.write_events(&row, position.batch)?;
        self.draw_curves()?;
        Ok(knn_top1)
    }

    /// The end of the run in a few lines.
    pub(crate) fn finish(&mut self, images: &Images, learner: &Learner) -> Result<()> {
        if !self.run.world.leads() {
            return Ok(());
        }
        let trained = match self.rows.last().and_then(|row| row.knn_top1) {
            Some(knn) => knn,
            None => self.knn(images, learner)?,
        };
        self.summary.knn_trained = Some(trained);
        self.write_summary()?;
        eprintln!("\nfinished in {}", FormattedDuration(self.started.elapsed()));
        if let (Some(first), Some(last)) = (self.rows.first(), self.rows.last()) {
            println!("loss   {:.3} in the first epoch, {:.3} in the last", first.loss, last.loss);
        }
        let percent = |accuracy: Option<f64>| accuracy.map_or("unknown".to_owned(), |share| format!("{share:.1} %"));
        let Summary { knn_raw_pixels, knn_untrained, .. } = self.summary;
        let (pixels, untrained) = (percent(knn_raw_pixels), percent(knn_untrained));
        println!("kNN    {pixels} raw pixels, {untrained} untrained encoder, {trained:.1} % trained encoder");
        println!(
            "files  {}: metrics.csv, curves.png, mix.png, config.json, checkpoints/, TensorBoard events",
            self.run.folder.path.display()
        );
        Ok(())
    }

    fn knn(&self, images: &Images, learner: &Learner) -> Result<f64> {
        images.knn_of_encoder(&learner.model.network.encoder, self.run.settings)
    }

    /// The run was asked to stop and has saved.
    pub(crate) fn stopped(&self) {
        if !self.run.world.leads() {
            return;
        }
        self.progress.clear();
        let folder = self.run.folder.path.display().to_string().replace('\'', "'\\''");
        let program = self.run.program.name();
        eprintln!("saved; go on with\n  cargo run --example {program} --release -- --resume --out '{folder}'");
    }

    /// Adds a row to TensorBoard's file, which begins with the picture of the mixes.
    fn write_events(&mut self, row: &EpochRow, epoch_steps: u64) -> Result<()> {
        let mut events = match self.events.take() {
            Some(events) => events,
            None => {
                let mut events = EventFile::create(&self.run.folder.path, row.step - epoch_steps + 1)?;
                events.add_picture("mix", row.step, &self.run.folder.file(MIX))?;
                events
            }
        };
        events.add_row(row)?;
        self.events = Some(events);
        Ok(())
    }

    fn write_summary(&self) -> Result<()> {
        let text = serde_json::to_string_pretty(&self.summary)? + "\n";
        Ok(write_whole(&self.run.folder.file(SUMMARY), text.as_bytes())?)
    }

    fn draw_curves(&self) -> Result<()> {
        curves_picture(&self.run.folder.file("curves.png"), &metrics::curves(&self.rows, &self.summary))
    }

    /// `mix.png`: eight images, mixed by 2, 4 and 8 groups.
    fn draw_mix(&self, images: &Images) -> Result<()> {
        let originals = resized(&images.shown(8, self.run.settings.image_size)?, self.run.settings.image_size)?;
        let shown = originals.size()[0];
        let (patch, patches) = (self.run.settings.patch_size, self.run.settings.vit().patches());
        let rows = [2, 4, 8].into_iter().filter(|groups| *groups <= patches.min(shown)).map(|groups| {
            let plan = MixPlan::random(patches, groups, 1)?;
            let targets = plan.targets(shown, Kind::Float, Device::Cpu)?;
            Ok(MixRow {
                groups,
                mixed: plan.mix_images(&originals, patch)?,
                mix_to_origin: targets.mix_to_origin()?,
                mix_to_mix: targets.mix_to_mix()?,
            })
        });
        let rows = rows.collect::<std::result::Result<Vec<_>, patchmix::Error>>()?;
        mix_picture(&self.run.folder.file(MIX), &originals, patch, &rows)
    }
}

/// The loss and what it is the sum of, from means in the order of [`MEASURED`](super::meter::MEASURED).
pub(crate) fn loss_in_parts(means: &[f64; 8], has_local: bool) -> String {
    let [loss, origin_to_origin, mix_to_origin, mix_to_mix, local, local_mix, ..] = means;
    let local = if has_local { format!(" + {local:.3} + {local_mix:.3}") } else { String::new() };
    format!("{loss:.3} = {origin_to_origin:.3} + ({mix_to_origin:.3} + {mix_to_mix:.3})/2{local}")
}

/// What to say where the features of all images are nearly alike.
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
