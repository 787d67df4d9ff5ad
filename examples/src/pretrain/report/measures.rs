//! What is measured of the networks every few epochs.

use std::fmt;
use std::time::Instant;

use patchmix::vit::Vit;
use tch::Tensor;

use super::super::learner::Learner;
use super::Report;
use super::knn::{self, Knn};
use super::spread::Spread;
use crate::Result;
use crate::images::Voters;

/// The measures of an epoch.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Measures {
    /// Nothing without labeled images.
    pub(super) knn: Option<Knn>,
    /// Top-1 accuracy of the online probe in percent, on the trained encoder's features.
    pub(super) probe: Option<f64>,
    pub(super) spread: Spread,
}

/// The accuracies: `  kNN 45.6 %  probe 44.1 %`.
impl fmt::Display for Measures {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.knn.map_or(Ok(()), |knn| write!(formatter, "  kNN {knn}"))?;
        self.probe.map_or(Ok(()), |probe| write!(formatter, "  probe {probe:>5.1} %"))
    }
}

impl Report<'_> {
    /// Measures the networks. The trained encoder's features are computed once for all measures but the alignment.
    pub(super) fn measure(&mut self, learner: &Learner) -> Result<Measures> {
        let (images, settings) = (self.images, self.run.settings);
        let encoder = &learner.model.network.encoder;
        if images.voters() == Voters::Nobody {
            let spread = self.spread(encoder, None)?;
            return Ok(Measures { knn: None, probe: None, spread });
        }
        let started = Instant::now();
        let features = knn::features(images, encoder, settings.knn_images)?;
        let trained = knn::of_features(&features, images.classes())?;
        let knn = Knn { trained, momentum: Knn::of_momentum(images, learner, settings.knn_images)? };
        self.times.knn += started.elapsed();

        let started = Instant::now();
        let (_, (test, labels)) = &features;
        let probe = learner.probe.as_ref().map(|probe| probe.accuracy(test, labels)).transpose()?;
        self.times.probe += started.elapsed();
        let spread = self.spread(encoder, Some(test))?;
        Ok(Measures { knn: Some(knn), probe: probe.map(knn::percent), spread })
    }

    /// How features spread, those of test images if there are some.
    fn spread(&mut self, encoder: &Vit, test: Option<&Tensor>) -> Result<Spread> {
        let started = Instant::now();
        let spread = Spread::measure(self.images, encoder, test, self.run.settings)?;
        self.times.representation += started.elapsed();
        Ok(spread)
    }
}
