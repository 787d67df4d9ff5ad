//! kNN accuracy of the encoders, and of the pixels themselves, as a measure of progress.

use std::fmt;

use indicatif::ProgressBar;
use patchmix::augment::{IMAGENET_MEAN, IMAGENET_STD, normalize};
use patchmix::data::Split;
use patchmix::eval::{knn_accuracy, knn_accuracy_among};
use patchmix::vit::{Pooling, Vit};
use tch::Tensor;

use super::super::learner::Learner;
use crate::Result;
use crate::encoder::Frozen;
use crate::images::{ENCODER_BATCH, Images, Voters};
use crate::run::metrics::{KNN, KNN_MOMENTUM, Row};

/// The published classifier: k = 20 neighbors, temperature 0.07.
pub(super) const NEIGHBORS: i64 = 20;
const TEMPERATURE: f64 = 0.07;

/// Side of the views whose pixels are compared, and the maximum number of image files, to bound memory.
const SMALL: i64 = 32;
const MAX_SMALL: i64 = 50_000;

/// Features or pixels `[N, D]` of images, and their classes `[N]`.
type Labeled = (Tensor, Tensor);
/// Those of training images, if they vote, and those of test images.
type Measured = (Option<Labeled>, Labeled);

/// Top-1 accuracies in percent of the encoders of a run.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Knn {
    pub(super) trained: f64,
    /// Of the momentum encoder, if the run has one.
    pub(super) momentum: Option<f64>,
}

impl Knn {
    /// Measures all encoders on at most `count` images of each part (0 for all).
    pub(super) fn measure(images: &Images, learner: &Learner, count: i64) -> Result<Knn> {
        let trained = of_encoder(images, &learner.model.network.encoder, count)?;
        Ok(Knn { trained, momentum: Knn::of_momentum(images, learner, count)? })
    }

    /// Measures the momentum encoder, if there is one.
    pub(super) fn of_momentum(images: &Images, learner: &Learner, count: i64) -> Result<Option<f64>> {
        learner.momentum.as_ref().map(|momentum| of_encoder(images, momentum.encoder(), count)).transpose()
    }

    /// The accuracies in a row of `metrics.csv`, if they were measured there.
    pub(super) fn of_row(row: &Row) -> Option<Knn> {
        Some(Knn { trained: row.get(KNN)?, momentum: row.get(KNN_MOMENTUM) })
    }

    /// That of the encoder that evaluations take by default.
    pub(super) fn of_default(self) -> f64 {
        self.momentum.unwrap_or(self.trained)
    }
}

/// `45.6 % (momentum 46.1 %)`.
impl fmt::Display for Knn {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:>4.1} %", self.trained)?;
        self.momentum.map_or(Ok(()), |momentum| write!(formatter, " (momentum {momentum:>4.1} %)"))
    }
}

/// Top-1 accuracy in percent of the encoder's features, of at most `count` images of each part (0 for all).
pub(super) fn of_encoder(images: &Images, encoder: &Vit, count: i64) -> Result<f64> {
    of_features(&features(images, encoder, count)?, images.classes())
}

/// The encoder's features of at most `count` images of each part (0 for all).
pub(super) fn features(images: &Images, encoder: &Vit, count: i64) -> Result<Measured> {
    let frozen = Frozen { encoder, mean: IMAGENET_MEAN, std: IMAGENET_STD };
    let features = |split| -> Result<Labeled> {
        let poolings = [Pooling::ClassToken];
        let all = images.features(frozen, &poolings, split, count, ENCODER_BATCH, &ProgressBar::hidden())?;
        Ok((all.features.into_iter().next().ok_or("an encoder has features")?, all.labels))
    };
    let training = match images.voters() {
        Voters::Training => Some(features(Split::Train)?),
        _ => None,
    };
    Ok((training, features(Split::Test)?))
}

/// Top-1 accuracy in percent of the pixels themselves.
pub(super) fn of_pixels(images: &Images, count: i64) -> Result<f64> {
    let count = match (images.is_folder(), count) {
        (false, count) => count,
        (true, 0) => MAX_SMALL,
        (true, count) => count.min(MAX_SMALL),
    };
    let pixels = |split| -> Result<Labeled> {
        let dataset = images.dataset(split, count, SMALL)?;
        let views = images.evaluated(&dataset.images, SMALL)?;
        Ok((normalize(&views, IMAGENET_MEAN, IMAGENET_STD)?.f_flatten(1, -1)?, dataset.labels))
    };
    let training = match images.voters() {
        Voters::Training => Some(pixels(Split::Train)?),
        _ => None,
    };
    of_features(&(training, pixels(Split::Test)?), images.classes())
}

/// Top-1 accuracy in percent of the features, or pixels, of test images, by the votes of training images or of each
/// other.
pub(super) fn of_features((training, (test, test_labels)): &Measured, classes: i64) -> Result<f64> {
    let test = (test, test_labels);
    let accuracy = match training {
        Some((training, labels)) => knn_accuracy((training, labels), test, classes, &[NEIGHBORS], TEMPERATURE)?,
        None => knn_accuracy_among(test, classes, &[NEIGHBORS], TEMPERATURE)?,
    };
    Ok(percent(accuracy.first().map_or(f64::NAN, |accuracy| accuracy.top1)))
}

/// A share in percent, with two decimals.
pub(super) fn percent(share: f64) -> f64 {
    (share * 10_000.0).round() / 100.0
}
