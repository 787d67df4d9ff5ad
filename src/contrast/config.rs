//! The settings of the losses of a batch.

use super::terms::Losses;
use crate::error::{Result, check_in};

/// Temperature, label smoothing and micro-batch of [`losses`](super::losses), and variants of the method.
#[derive(Debug, Clone, PartialEq)]
pub struct LossConfig {
    /// The divisor of the logits.
    pub temperature: f64,
    /// Label smoothing for plain queries; 0.1 in the published runs.
    pub origin_smoothing: f64,
    /// Label smoothing for mixed queries; 0 in the published runs.
    pub mix_smoothing: f64,
    /// How many images the encoder processes at a time, at least 1; `None` for whole batches. See
    /// [the module](super#batches-larger-than-memory).
    pub micro_batch: Option<i64>,
    /// The factors of the terms in the total.
    pub weights: LossWeights,
    /// Whether both global views make plain and mixed queries, and a term is the average over the two directions. The
    /// published form has one direction. Local views always meet both global views.
    pub symmetric: bool,
    /// Whether queries are compared with the keys of other images too. Without them, a term is
    /// [the distance to the target's keys](crate::loss::Keys::squared_distance), as in BYOL and SimSiam; temperature
    /// and label smoothing have no part in it, and ranks exchange no keys.
    pub negatives: bool,
    /// The side in pixels of the blocks that plans mix; `None` for the encoder's patches.
    pub mix_patch_size: Option<i64>,
}

impl Default for LossConfig {
    /// The published 0.2, 0.1, 0 and weights, with whole batches.
    fn default() -> LossConfig {
        LossConfig {
            temperature: 0.2,
            origin_smoothing: 0.1,
            mix_smoothing: 0.0,
            micro_batch: None,
            weights: LossWeights::default(),
            symmetric: false,
            negatives: true,
            mix_patch_size: None,
        }
    }
}

/// The factors of the terms in the total, with the names of [`Losses`]. A term of weight 0 is not computed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LossWeights {
    /// Of [`Losses::origin_to_origin`]; 1 as published.
    pub origin_to_origin: f64,
    /// Of [`Losses::mix_to_origin`]; 1/2 as published.
    pub mix_to_origin: f64,
    /// Of [`Losses::mix_to_mix`]; 1/2 as published.
    pub mix_to_mix: f64,
    /// Of [`Losses::local_to_origin`]; 1 as published.
    pub local_to_origin: f64,
    /// Of [`Losses::local_mix_to_origin`]; 1 as published.
    pub local_mix_to_origin: f64,
}

impl Default for LossWeights {
    /// The published weights.
    fn default() -> LossWeights {
        LossWeights::from(Losses::TERMS.map(|term| term.weight))
    }
}

impl From<[f64; 5]> for LossWeights {
    /// From weights in the order of [`Losses::TERMS`].
    fn from(weights: [f64; 5]) -> LossWeights {
        let [origin_to_origin, mix_to_origin, mix_to_mix, local_to_origin, local_mix_to_origin] = weights;
        LossWeights { origin_to_origin, mix_to_origin, mix_to_mix, local_to_origin, local_mix_to_origin }
    }
}

impl LossWeights {
    /// The weights in the order of [`Losses::TERMS`].
    pub fn to_array(self) -> [f64; 5] {
        let LossWeights { origin_to_origin, mix_to_origin, mix_to_mix, local_to_origin, local_mix_to_origin } = self;
        [origin_to_origin, mix_to_origin, mix_to_mix, local_to_origin, local_mix_to_origin]
    }

    /// An error unless all weights are finite and not negative.
    pub(super) fn check(self) -> Result<()> {
        Losses::TERMS
            .iter()
            .zip(self.to_array())
            .try_for_each(|(term, weight)| check_in(term.name, weight, 0.0..=f64::MAX))
    }
}
