//! The accuracy of the classifier on the test images, with the last weights and with the averaged ones.

use indicatif::ProgressBar;
use patchmix::Error;
use patchmix::augment::{normalize, resize};
use patchmix::data::Split;
use patchmix::eval::{Accuracy, accuracy};
use patchmix::finetune::Classifier;
use patchmix::vit::Pooling;
use serde_json::{Value, json};
use tch::Tensor;

use super::super::report::{accuracy_json, percent};
use super::super::subject::Subject;
use super::learner::Learner;
use crate::Result;
use crate::encoder::Frozen;
use crate::terminal::say;

/// Loss and accuracy at the end of an epoch.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Measurement {
    /// Counted from 1.
    pub(super) epoch: u64,
    /// Mean over the epoch.
    pub(super) loss: f64,
    pub(super) averaged_weights: Accuracy,
    pub(super) last_weights: Accuracy,
}

impl Measurement {
    pub(super) fn take(subject: &Subject, learner: &Learner, epoch: u64, loss: f64) -> Result<Measurement> {
        let averaged_weights = test_accuracy(subject, &learner.averaged)?;
        Ok(Measurement { epoch, loss, averaged_weights, last_weights: test_accuracy(subject, &learner.classifier)? })
    }

    /// The end of the line of its epoch.
    pub(super) fn describe(&self) -> String {
        let [averaged, last] = [self.averaged_weights, self.last_weights].map(|accuracy| percent(accuracy.top1));
        format!("  top-1 {averaged} averaged weights, {last} last weights")
    }

    /// Its numbers, for the state.
    pub(super) fn to_numbers(self) -> [f64; 6] {
        let Measurement { averaged_weights: averaged, last_weights: last, .. } = self;
        [self.epoch as f64, self.loss, averaged.top1, averaged.top5, last.top1, last.top5]
    }

    /// The measurement with these numbers.
    pub(super) fn from_numbers(numbers: &[f64; 6]) -> Measurement {
        let accuracy = |first: usize| Accuracy { top1: numbers[first], top5: numbers[first + 1] };
        let (averaged_weights, last_weights) = (accuracy(2), accuracy(4));
        Measurement { epoch: numbers[0] as u64, loss: numbers[1], averaged_weights, last_weights }
    }
}

/// How the test images are prepared, in words.
pub(super) fn preparation(subject: &Subject) -> Result<String> {
    if subject.images.is_folder() {
        return Ok(subject.preparation());
    }
    let size = subject.encoder.encoder.config().image_size;
    let own = subject.images.dataset(Split::Test, 1, size)?.images.size()[3];
    Ok(if own == size { "whole".to_owned() } else { format!("whole, scaled from {own} to {size} px") })
}

/// The published test view: images in memory at their own size (32 pixels for CIFAR), not the enlarged center that kNN
/// and the linear probe look at; images in files as for those.
fn test_accuracy(subject: &Subject, classifier: &Classifier) -> Result<Accuracy> {
    let _no_grad = tch::no_grad_guard();
    let Subject { images, encoder, encoder_batch, .. } = subject;
    let (mean, std) = (encoder.mean, encoder.std);
    let (features, labels) = if images.is_folder() {
        let frozen = Frozen { encoder: &classifier.encoder, mean, std };
        let (poolings, bar) = ([Pooling::ClassToken], ProgressBar::hidden());
        let mut of_files = images.features(frozen, &poolings, Split::Test, 0, *encoder_batch, &bar)?;
        (of_files.features.remove(0), of_files.labels)
    } else {
        let image_size = classifier.encoder.config().image_size;
        let test = images.dataset(Split::Test, 0, image_size)?;
        let batches = test.images.f_split(*encoder_batch, 0)?;
        let features = batches.iter().map(|images| -> Result<Tensor> {
            let images = resize(&normalize(images, mean, std)?, image_size)?;
            Ok(classifier.encoder.forward(&images, false)?)
        });
        (Tensor::f_cat(&features.collect::<Result<Vec<_>>>()?, 0)?, test.labels)
    };
    match accuracy(&classifier.logits(&features)?, &labels) {
        Err(Error::Value { name: "scores", .. }) => Err("the weights are not finite; a lower --lr may help".into()),
        measured => Ok(measured?),
    }
}

/// Which of the two weights.
type Weights = fn(&Measurement) -> Accuracy;

const AVERAGED: Weights = |measurement| measurement.averaged_weights;
const LAST: Weights = |measurement| measurement.last_weights;

/// The measurement with the best top-1 accuracy, the earliest of several.
fn best(measurements: &[Measurement], weights: Weights) -> Option<&Measurement> {
    let better =
        |a: &&Measurement, b: &&Measurement| weights(a).top1.total_cmp(&weights(b).top1).then(b.epoch.cmp(&a.epoch));
    measurements.iter().max_by(better)
}

/// The accuracies for the file of results.
pub(super) fn summary(measurements: &[Measurement]) -> Value {
    let of = |weights: Weights| {
        let last = measurements.last().map(|measurement| accuracy_json(weights(measurement)));
        let best = best(measurements, weights)
            .map(|best| json!({ "epoch": best.epoch, "accuracy": accuracy_json(weights(best)) }));
        json!({ "last_epoch": last, "best_epoch": best })
    };
    let epochs: Vec<Value> = measurements
        .iter()
        .map(|measurement| {
            json!({
                "epoch": measurement.epoch, "loss": measurement.loss,
                "averaged_weights": accuracy_json(measurement.averaged_weights),
                "last_weights": accuracy_json(measurement.last_weights),
            })
        })
        .collect();
    json!({ "averaged_weights": of(AVERAGED), "last_weights": of(LAST), "epochs": epochs })
}

/// Prints last and best epoch of both weights.
pub(super) fn print(measurements: &[Measurement]) {
    for (name, weights) in [("averaged weights", AVERAGED), ("last weights", LAST)] {
        let shown = |accuracy: Accuracy| format!("top-1 {}  top-5 {}", percent(accuracy.top1), percent(accuracy.top5));
        if let (Some(last), Some(best)) = (measurements.last(), best(measurements, weights)) {
            say!("{name:<16}  {}  after the last epoch", shown(weights(last)));
            say!("{:16}  {}  after epoch {}, the best on the test images", "", shown(weights(best)), best.epoch);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_epoch_is_the_first_of_the_highest() {
        let measured = |epoch, top1| {
            let accuracy = Accuracy { top1, top5: 1.0 };
            Measurement {
                epoch,
                loss: 1.0 / 3.0,
                averaged_weights: accuracy,
                last_weights: Accuracy { top1: 0.5, ..accuracy },
            }
        };
        let measurements = [measured(1, 0.25), measured(2, 0.75), measured(3, 0.75), measured(4, 0.5)];
        assert_eq!(best(&measurements, AVERAGED).map(|best| best.epoch), Some(2));
        assert_eq!(best(&measurements, LAST).map(|best| best.epoch), Some(1));
        assert_eq!(summary(&measurements)["averaged_weights"]["last_epoch"]["top1"], 0.5);
        assert!(best(&[], LAST).is_none());
        assert_eq!(Measurement::from_numbers(&measurements[2].to_numbers()), measurements[2]);
    }
}
