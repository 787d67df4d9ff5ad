//! The terms of the total loss.

use tch::Tensor;

use super::config::LossWeights;
use super::needs;
use super::passes::Passes;
use crate::error::Result;
use crate::numbers::scalar;
#[cfg(doc)]
use {super::config::LossConfig, crate::ranks::Ranks};

/// A term of the total loss.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Term {
    /// The name of its field in [`Losses`].
    pub name: &'static str,
    /// Its factor in the total.
    pub weight: f64,
    /// Whether it exists only with local views.
    pub local: bool,
}

/// The losses of one batch: scalars, on the device of the model. Terms of weight 0 are `None`, and those of local views
/// if there are none.
#[derive(Debug)]
pub struct Losses<'a> {
    /// Plain queries against plain keys.
    pub origin_to_origin: Option<Tensor>,
    /// Mixed queries against plain keys, without its weight.
    pub mix_to_origin: Option<Tensor>,
    /// Mixed queries against mixed keys, without its weight.
    pub mix_to_mix: Option<Tensor>,
    /// Plain local views against both plain global views: summed over the two, averaged over the local views.
    pub local_to_origin: Option<Tensor>,
    /// Mixed local views against both plain global views: summed over the two, averaged over the local views.
    pub local_mix_to_origin: Option<Tensor>,
    /// How much the encoder's features of the second view vary between images: the standard deviation of a coordinate
    /// of L2-normalized features, in units of `1 / √width`. Near 1 if the features point in all directions, 0 if the
    /// encoder has collapsed and maps all images to one point. If no term needs keys of the second view, the features
    /// are those of the first, or of the mixed images.
    pub feature_std: Tensor,
    /// The encoder's features `[B, width]` of the first view, without gradient, for a probe that watches the encoder
    /// and does not teach it; `None` if no term has plain queries of that view.
    pub features: Option<Tensor>,
    weights: LossWeights,
    passes: Passes<'a>,
}

impl<'a> Losses<'a> {
    /// The terms of the total loss with their published weights, in the order of [`Losses::terms`].
    pub const TERMS: [Term; 5] = [
        Term { name: "origin_to_origin", weight: 1.0, local: false },
        Term { name: "mix_to_origin", weight: 0.5, local: false },
        Term { name: "mix_to_mix", weight: 0.5, local: false },
        Term { name: "local_to_origin", weight: 1.0, local: true },
        Term { name: "local_mix_to_origin", weight: 1.0, local: true },
    ];

    /// From the terms that are computed, in the order of [`Losses::TERMS`].
    pub(super) fn new(
        terms: [Option<Tensor>; 5],
        weights: &LossWeights,
        (feature_std, features): (Tensor, Option<Tensor>),
        passes: Passes<'a>,
    ) -> Losses<'a> {
        let [origin_to_origin, mix_to_origin, mix_to_mix, local_to_origin, local_mix_to_origin] = terms;
        Losses {
            origin_to_origin,
            mix_to_origin,
            mix_to_mix,
            local_to_origin,
            local_mix_to_origin,
            feature_std,
            features,
            weights: *weights,
            passes,
        }
    }

    /// Every term that is computed, with its weight in the total and its loss without the weight.
    pub fn terms(&self) -> impl Iterator<Item = (Term, &Tensor)> {
        let losses = [
            &self.origin_to_origin,
            &self.mix_to_origin,
            &self.mix_to_mix,
            &self.local_to_origin,
            &self.local_mix_to_origin,
        ];
        let terms = Losses::TERMS.into_iter().zip(self.weights.to_array());
        let terms = terms.map(|(term, weight)| Term { weight, ..term });
        terms.zip(losses).filter_map(|(term, loss)| Some((term, loss.as_ref()?)))
    }

    /// The weighted sum of the [terms](Losses::terms).
    ///
    /// For the gradient, call [`Losses::backward`]: with [`LossConfig::micro_batch`], the graph of this tensor ends at
    /// the features.
    pub fn total(&self) -> Result<Tensor> {
        let mut total: Option<Tensor> = None;
        for (Term { weight, .. }, loss) in self.terms() {
            let weighted = match weight {
                1.0 => loss.shallow_clone(),
                weight => loss.f_mul(&scalar(weight)?.f_to_kind(loss.f_kind()?)?)?,
            };
            total = Some(match total {
                Some(total) => total.f_add(&weighted)?,
                None => weighted,
            });
        }
        total.ok_or_else(needs::no_term) // which `losses` has refused
    }

    /// Adds the gradient of [`Losses::total`] to the gradients of the model's weights. Call it once.
    ///
    /// # Errors
    ///
    /// [`Error::Torch`](crate::Error::Torch) on a second call, if no weight is trained, or if memory runs out; those of
    /// [`Ranks::sum`].
    pub fn backward(&self) -> Result<()> {
        self.total()?.f_backward()?;
        self.passes.backward()
    }
}
