//! What a run says and draws: a line an epoch, `metrics.csv` and the same for TensorBoard, `mix.png`, `curves.png`,
//! `summary.json`.

use std::time::Instant;

use indicatif::{FormattedDuration, HumanCount};
use patchmix::MixPlan;
use patchmix::checkpoint::write_whole;
use tch::{Device, Kind};

use crate::events::EventFile;
use crate::images::Images;
use crate::metrics::{self, EpochRow, METRICS, SUMMARY, Summary};
use crate::pictures::curves::curves_picture;
use crate::pictures::mixes::{MixRow, mix_picture};
use crate::pictures::tiles::resized;
use crate::progress::Progress;
use crate::settings::Settings;
use crate::state::{Position, RunFolder};
use crate::{Learner, Rates, Result};

const MIX: &str = "mix.png";

/// Below this share of the spread that features in all directions have, they count as alike.
const COLLAPSED: f64 = 0.02;

pub(crate) struct Report<'a> {
    folder: &'a RunFolder,
    settings: &'a Settings,
    rows: Vec<EpochRow>,
    summary: Summary,
    /// Begun at the end of the first epoch of this process.
    events: Option<EventFile>,
    pub(crate) progress: Progress,
    started: Instant,
}

impl<'a> Report<'a> {
    /// Says what is going to happen. A run that goes on takes up the rows of the epochs it has behind it.
    pub(crate) fn start(
        folder: &'a RunFolder,
        settings: &'a Settings,
        images: &Images,
        learner: &Learner,
        position: &Position,
    ) -> Result<Report<'a>> {
        let parameters: usize = learner.store.trainable_variables().iter().map(tch::Tensor::numel).sum();
        let device = match learner.store.device() {
            Device::Cpu => format!("the CPU (threads: {})", tch::get_num_threads()),
            device => format!("{device:?}"),
        };
        let groups = settings.groups.iter().map(ToString::to_string).collect::<Vec<_>>().join(" or ");
        eprintln!("images   {} to train on, {} to measure on", images.train.len(), images.test.len());
        eprintln!(
            "model    ViT of width {}, {} blocks, {} heads, patch {}; {} parameters with its heads",
            settings.width,
            settings.depth,
            settings.heads,
            settings.patch_size,
            HumanCount(parameters as u64)
        );
        eprintln!(
            "method   {groups} images in a mixed one, batch {}, {} epochs, {}",
            settings.batch_size,
            settings.epochs,
            if settings.momentum_encoder > 0.0 { "momentum encoder" } else { "no momentum encoder" },
        );
        eprintln!("device   {device}");
        eprintln!("folder   {}\n", folder.path.display());
        let mut report = Report {
            folder,
            settings,
            rows: metrics::read(&folder.file(METRICS), position.epoch)?,
            summary: Summary::default(),
            events: None,
            progress: Progress::new(settings),
            started: Instant::now(),
        };
        if !folder.file(MIX).exists() {
            report.draw_mix(images)?;
        }
        report.measure_before_training(images, learner, position)?;
        Ok(report)
    }

    /// The accuracies that training has to beat; a run that goes on has them from its beginning.
    fn measure_before_training(&mut self, images: &Images, learner: &Learner, position: &Position) -> Result<()> {
        if (position.epoch, position.batch) != (0, 0) {
            self.summary = Summary::read(&self.folder.path);
            return Ok(());
        }
        let pixels = images.knn_of_pixels()?;
        let untrained = images.knn_of_encoder(&learner.model.network.encoder)?;
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
        let (images_per_second, data_wait_share) = (self.progress.images_per_second(), self.progress.data_wait_share());
        let reading = position.meter.read()?;
        let [loss, origin_to_origin, mix_to_origin, mix_to_mix, gradient_norm, feature_std] = reading.means;
        let epoch = position.epoch + 1;
        let mut knn_top1 = None;
        if epoch.is_multiple_of(self.settings.knn_every) || epoch == self.settings.epochs {
            self.progress.say("measuring kNN accuracy");
            knn_top1 = Some(images.knn_of_encoder(&learner.model.network.encoder)?);
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
            gradient_norm,
            feature_std,
            skipped_steps: reading.skipped_steps,
            knn_top1,
            images_per_second,
            data_wait_share,
        };
        self.progress.clear();
        let epochs = self.settings.epochs;
        let width = epochs.to_string().len();
        let knn = row.knn_top1.map_or_else(|| " ".repeat(12), |knn| format!("  kNN {knn:>4.1} %"));
        let left = self.progress.time_for((epochs - epoch) * position.batch);
        eprintln!(
            "epoch {:>width$}/{epochs}  loss {:.3} = {:.3} + ({:.3} + {:.3})/2{knn}  {:>6.0} images/s  {left:#} left",
            row.epoch, row.loss, row.origin_to_origin, row.mix_to_origin, row.mix_to_mix, row.images_per_second,
        );
        if let Some(warning) = collapse(feature_std) {
            eprintln!("warning: {warning}");
        }
        self.rows.push(row.clone());
        metrics::write(&self.folder.file(METRICS), &self.rows)?;
        self.write_events(&row, position.batch)?;
        self.draw_curves()?;
        Ok(knn_top1)
    }

    /// The end of the run in a few lines.
    pub(crate) fn finish(&mut self, images: &Images, learner: &Learner) -> Result<()> {
        let trained = match self.rows.last().and_then(|row| row.knn_top1) {
            Some(knn) => knn,
            None => images.knn_of_encoder(&learner.model.network.encoder)?,
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
            self.folder.path.display()
        );
        Ok(())
    }

    /// The run was asked to stop and has saved.
    pub(crate) fn stopped(&self) {
        self.progress.clear();
        let folder = self.folder.path.display().to_string().replace('\'', "'\\''");
        eprintln!("saved; go on with\n  cargo run --example pretrain_cifar --release -- --resume --out '{folder}'");
    }

    /// Adds a row to TensorBoard's file, which begins with the picture of the mixes.
    fn write_events(&mut self, row: &EpochRow, epoch_steps: u64) -> Result<()> {
        let mut events = match self.events.take() {
            Some(events) => events,
            None => {
                let mut events = EventFile::create(&self.folder.path, row.step - epoch_steps + 1)?;
                events.add_picture("mix", row.step, &self.folder.file(MIX))?;
                events
            }
        };
        events.add_row(row)?;
        self.events = Some(events);
        Ok(())
    }

    fn write_summary(&self) -> Result<()> {
        let text = serde_json::to_string_pretty(&self.summary)? + "\n";
        Ok(write_whole(&self.folder.file(SUMMARY), text.as_bytes())?)
    }

    fn draw_curves(&self) -> Result<()> {
        curves_picture(&self.folder.file("curves.png"), &metrics::curves(&self.rows, &self.summary))
    }

    /// `mix.png`: eight images, mixed by 2, 4 and 8 groups.
    fn draw_mix(&self, images: &Images) -> Result<()> {
        let shown = images.train.len().min(8);
        let originals = images.train.images.f_narrow(0, 0, shown)?.f_to_device(Device::Cpu)?;
        let originals = resized(&originals, self.settings.image_size)?;
        let (patch, patches) = (self.settings.patch_size, self.settings.vit().patches());
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
        mix_picture(&self.folder.file(MIX), &originals, patch, &rows)
    }
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
