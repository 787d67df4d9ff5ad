//! The end of an epoch: its measurements, and then its words.

use patchmix::contrast::Losses;

use super::super::learner::{Learner, Rates};
use super::super::meter::Reading;
use super::super::position::Position;
use super::knn::Knn;
use super::measures::Measures;
use super::spread::Spread;
use super::{CURVES, Report, goes_on_without};
use crate::Result;
use crate::images::Voters;
use crate::pictures::draw::curves::curves_picture;
use crate::run::metrics::{self, KNN, KNN_MOMENTUM, PROBE, Row};
use crate::terminal::log;

/// Features have collapsed if their spread is below this share of that of features in all directions.
const COLLAPSED: f64 = 0.02;

/// What a run says and writes of an epoch that has ended; nothing on other ranks than the first.
pub(in super::super) struct Ended(Option<Epoch>);

struct Epoch {
    /// Counted from 1.
    epoch: u64,
    /// Steps in an epoch.
    steps: u64,
    reading: Reading,
    measures: Option<Measures>,
    row: Row,
    images_per_second: f64,
    /// Whether the row is on the disk.
    written: Result<()>,
}

impl Ended {
    /// The accuracy of the encoder that evaluations take by default, if it was measured.
    pub(in super::super) fn knn_top1(&self) -> Option<f64> {
        self.0.as_ref()?.measures?.knn.map(Knn::of_default)
    }
}

impl Report<'_> {
    /// Ends an epoch: measures the networks if that is due, and writes its row.
    pub(in super::super) fn end_epoch(
        &mut self,
        position: &Position,
        rates: Rates,
        learner: &Learner,
    ) -> Result<Ended> {
        if !self.run.world.leads() {
            return Ok(Ended(None));
        }
        let images_per_second = self.progress.images_per_second();
        let speed = [
            ("images_per_second", Some(images_per_second)),
            ("data_wait_share", Some(self.progress.data_wait_share())),
        ];
        let (epoch, settings) = (position.epoch + 1, self.run.settings);
        let (steps, reading) = (position.batch, position.meter.read()?);
        let mut measures = None;
        let is_labeled = self.images.voters() != Voters::Nobody;
        if epoch.is_multiple_of(settings.knn_every) || epoch == settings.epochs {
            self.progress.say("measuring the features");
            measures = match self.measure(learner) {
                // Weights that make no finite loss make no finite features. The row may end by itself.
                Err(error) if reading.skipped_in_a_row > 0 => {
                    log!("no accuracy after {} skipped steps in a row: {error}", reading.skipped_in_a_row);
                    None
                }
                measured => Some(measured?),
            };
        }
        let knn = measures.and_then(|measures| measures.knn);
        let row: Row = self
            .measurements(position, &reading, rates)
            .into_iter()
            .chain(is_labeled.then(|| (KNN, knn.map(|knn| knn.trained))))
            .chain((is_labeled && learner.momentum.is_some()).then(|| (KNN_MOMENTUM, knn.and_then(|knn| knn.momentum))))
            .chain(learner.probe.is_some().then(|| (PROBE, measures.and_then(|measures| measures.probe))))
            .chain(Spread::columns(measures.map(|measures| measures.spread)))
            .chain(speed)
            .collect();
        self.rows.push(row.clone());
        // A row that cannot be written ends the run, but only when the epoch is saved.
        let written = metrics::write(&self.run.folder.path, &self.rows);
        Ok(Ended(Some(Epoch { epoch, steps, reading, measures, row, images_per_second, written })))
    }

    /// Shows an epoch that has ended and is saved: in the curves, in TensorBoard, and in a line.
    pub(in super::super) fn show_epoch(&mut self, Ended(epoch): Ended) -> Result<()> {
        let Some(epoch) = epoch else { return Ok(()) };
        self.progress.clear();
        let step_of = |row: &Row| row.get("step").unwrap_or_default() as u64;
        let step = step_of(&epoch.row);
        // Batches that grew within the epoch count for more than the steps before them.
        let before = self.rows.iter().rev().nth(1).map_or(0, step_of).max(step.saturating_sub(epoch.steps));
        let events = self.write_events(&epoch.row, step, before + 1);
        goes_on_without(events);
        goes_on_without(curves_picture(&self.run.folder.file(CURVES), &self.rows, &self.summary));
        self.print_epoch(&epoch);
        epoch.written
    }

    /// The columns of an epoch's row up to its kNN accuracy.
    fn measurements(&self, position: &Position, reading: &Reading, rates: Rates) -> Vec<(&'static str, Option<f64>)> {
        let is_computed = |name| self.run.settings.terms().any(|term| term.name == name);
        let is_absent = |name| Losses::TERMS.iter().any(|term| term.name == name) && !is_computed(name);
        let mut columns = vec![
            ("epoch", Some((position.epoch + 1) as f64)),
            ("step", Some(position.step as f64)),
            ("lr", Some(rates.learning)),
            ("weight_decay", Some(rates.decay)),
        ];
        columns.extend(self.run.settings.has_temperature_warmup().then_some(("temperature", Some(rates.temperature))));
        columns.extend(reading.averages().map(|(name, average)| (name, (!is_absent(name)).then_some(average))));
        columns.push(("skipped_steps", Some(reading.skipped_steps as f64)));
        columns.push(("broken_images", Some(position.broken_images as f64)));
        columns
    }

    fn print_epoch(&self, Epoch { epoch, steps, reading, measures, images_per_second, .. }: &Epoch) {
        let settings = self.run.settings;
        let epochs = settings.epochs;
        let width = epochs.to_string().len();
        let left = self.progress.time_for((epochs - epoch) * steps);
        // Lines without an accuracy are as long as those with one.
        let knn = match (self.images.voters(), settings.momentum_encoder > 0.0) {
            (Voters::Nobody, _) => 0,
            (_, true) => 30,
            (_, false) => 12,
        };
        let blank = knn + if settings.online_probe { 15 } else { 0 };
        let accuracies = measures.map_or_else(|| " ".repeat(blank), |measures| measures.to_string());
        log!(
            "epoch {epoch:>width$}/{epochs}  loss {}{accuracies}  {images_per_second:>6.0} images/s  {left:#} left",
            reading.describe_loss(&settings.terms().collect::<Vec<_>>()),
        );
        if let Some(warning) = collapse(reading.feature_std()) {
            log!("warning: {warning}");
        }
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
