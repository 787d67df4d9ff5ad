//! What is measured of the networks every few epochs.

use std::fmt;
use std::time::Instant;

use super::super::learner::Learner;
use super::Report;
use super::knn::{self, Knn};
use super::spread::Spread;
use crate::Result;

/// The measures of an epoch.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Measures {
    pub(super) knn: Knn,
    /// Top-1 accuracy of the online probe in percent, on the trained encoder's features.
    pub(super) probe: Option<f64>,
    pub(super) spread: Spread,
}

/// The accuracies: `  kNN 45.6 %  probe 44.1 %`.
impl fmt::Display for Measures {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "  kNN {}", self.knn)?;
        self.probe.map_or(Ok(()), |probe| write!(formatter, "  probe {probe:>5.1} %"))
    }
}

impl Report<'_> {
    /// Measures the networks. The trained encoder's features are computed once for all measures but the alignment.
    pub(super) fn measure(&mut self, learner: &Learner) -> Result<Measures> {
        let (images, settings) = (self.images, self.run.settings);
        let encoder = &learner.model.network.encoder;
        let started = Instant::now();
        let features = knn::features(images, encoder, settings.knn_images)?;
        let trained = knn::of_features(&features, images.classes())?;
        let knn = Knn { trained, momentum: Knn::of_momentum(images, learner, settings.knn_images)? };
        self.times.knn += started.elapsed();

        let started = Instant::now();
        let (test, labels) = &features[1];
        let probe = learner.probe.as_ref().map(|probe| probe.accuracy(test, labels)).transpose()?;
        self.times.probe += started.elapsed();

        let started = Instant::now();
        let spread = Spread::measure(images, encoder, test, settings)?;
        self.times.representation += started.elapsed();
        Ok(Measures { knn, probe: probe.map(knn::percent), spread })
    }
}
