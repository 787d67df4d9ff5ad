//! The networks of contrastive training, and the losses of one batch.
//!
//! [`losses`] contrasts two global views of every image, and any number of smaller local views.
//!
//! # Batches larger than memory
//!
//! The images of a batch are each other's negatives, and the batch normalization of the heads takes its statistics
//! over all of them. Gradients accumulated over small batches are therefore *not* those of the large batch: they see
//! fewer negatives, and statistics over fewer images.
//!
//! With [`LossConfig::micro_batch`], the batch stays whole and only the encoder processes it in parts. This is exact,
//! since nothing in the encoder mixes images. The first pass keeps the features and drops the graph. Heads and losses
//! see all features at once. [`Losses::backward`] then computes every part a second time and carries the gradient of
//! its features through it. Memory is that of the activations of one part. The cost is one more forward pass for the
//! queries, a quarter to a third more time. It is gradient accumulation and activation checkpointing in one.
//!
//! # Several ranks
//!
//! Each rank has its own part of the batch, of the same size. Queries are compared with the keys of all ranks, and the
//! batch normalization of the heads takes its statistics over all ranks; images are mixed within a rank. The loss of a
//! rank is averaged over its own queries. After the backward pass, average the gradients over the ranks.

mod batch_norm;
mod forward;
mod head;
mod network;
mod passes;
mod view;

use tch::Tensor;

use crate::error::Result;
use crate::loss::Keys;
use crate::mix::MixPlan;
use crate::numbers::scalar;
use crate::ranks::Ranks;
use crate::target::SoftTarget;
use passes::Passes;

pub use head::{Head, HeadConfig};
pub use network::{KeyNetwork, Model, MomentumNetwork};
pub use view::View;

/// Temperature, label smoothing and micro-batch of [`losses`].
#[derive(Debug, Clone, PartialEq)]
pub struct LossConfig {
    /// The divisor of the logits.
    pub temperature: f64,
    /// Label smoothing for plain queries; 0.1 in the published runs.
    pub origin_smoothing: f64,
    /// Label smoothing for mixed queries; 0 in the published runs.
    pub mix_smoothing: f64,
    /// How many images the encoder processes at a time, at least 1; `None` for whole batches. See
    /// [the module](self#batches-larger-than-memory).
    pub micro_batch: Option<i64>,
}

impl Default for LossConfig {
    /// The published 0.2, 0.1 and 0, with whole batches.
    fn default() -> LossConfig {
        LossConfig { temperature: 0.2, origin_smoothing: 0.1, mix_smoothing: 0.0, micro_batch: None }
    }
}

/// The networks and the ranks that take part in a step.
#[derive(Clone, Copy)]
pub struct Networks<'a> {
    /// Makes the queries, and also the keys if there is no momentum network.
    pub model: &'a Model,
    /// Makes the keys.
    pub momentum: Option<&'a MomentumNetwork>,
    /// The ranks that train together; `None` for a single process.
    pub ranks: Option<&'a dyn Ranks>,
}

impl<'a> Networks<'a> {
    fn key_network(&self) -> &'a KeyNetwork {
        match self.momentum {
            Some(momentum) => &momentum.network,
            None => &self.model.network,
        }
    }

    fn rank(&self) -> i64 {
        self.ranks.map_or(0, Ranks::rank)
    }

    fn world_size(&self) -> i64 {
        self.ranks.map_or(1, Ranks::world_size)
    }
}

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

/// The losses of one batch: scalars, on the device of the model.
#[derive(Debug)]
pub struct Losses<'a> {
    /// Plain queries against plain keys.
    pub origin_to_origin: Tensor,
    /// Mixed queries against plain keys, without its weight.
    pub mix_to_origin: Tensor,
    /// Mixed queries against mixed keys, without its weight.
    pub mix_to_mix: Tensor,
    /// Plain local views against both plain global views: summed over the two, averaged over the local views.
    pub local_to_origin: Option<Tensor>,
    /// Mixed local views against both plain global views: summed over the two, averaged over the local views.
    pub local_mix_to_origin: Option<Tensor>,
    /// How much the encoder's features of the second view vary between images: the standard deviation of a coordinate
    /// of L2-normalized features, in units of `1 / √width`. Near 1 if the features point in all directions, 0 if the
    /// encoder has collapsed and maps all images to one point.
    pub feature_std: Tensor,
    /// The encoder's features `[B, width]` of the first view, as its plain queries are made of, without gradient: for a
    /// probe that watches the encoder and does not teach it.
    pub features: Tensor,
    passes: Passes<'a>,
}

impl Losses<'_> {
    /// The terms of the total loss, in the order of [`Losses::terms`].
    pub const TERMS: [Term; 5] = [
        Term { name: "origin_to_origin", weight: 1.0, local: false },
        Term { name: "mix_to_origin", weight: 0.5, local: false },
        Term { name: "mix_to_mix", weight: 0.5, local: false },
        Term { name: "local_to_origin", weight: 1.0, local: true },
        Term { name: "local_mix_to_origin", weight: 1.0, local: true },
    ];

    /// Every term of the total with its loss, without the weight. Terms of local views are left out if there are none.
    pub fn terms(&self) -> impl Iterator<Item = (Term, &Tensor)> {
        let losses = [
            Some(&self.origin_to_origin),
            Some(&self.mix_to_origin),
            Some(&self.mix_to_mix),
            self.local_to_origin.as_ref(),
            self.local_mix_to_origin.as_ref(),
        ];
        Losses::TERMS.into_iter().zip(losses).filter_map(|(term, loss)| Some((term, loss?)))
    }

    /// The weighted sum of the [terms](Losses::terms).
    ///
    /// For the gradient, call [`Losses::backward`]: with [`LossConfig::micro_batch`], the graph of this tensor ends at
    /// the features.
    pub fn total(&self) -> Result<Tensor> {
        // The first term has the weight 1.
        let mut total = self.origin_to_origin.shallow_clone();
        for (Term { weight, .. }, loss) in self.terms().skip(1) {
            total = match weight {
                1.0 => total.f_add(loss)?,
                weight => total.f_add(&loss.f_mul(&scalar(weight)?.f_to_kind(loss.f_kind()?)?)?)?,
            };
        }
        Ok(total)
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

/// The losses of a batch, with the forward passes in the published order.
///
/// `global` are two views of the same images. Their plans may partition the positions differently, as in the published
/// training, but must agree in the number of groups and the stride, which determine the targets. Keys come from the
/// momentum network if there is one, else from the model itself, without gradient in both cases.
///
/// `local` are further views of the same images, usually smaller, all of one size, each with its own plan; all plans
/// have the same number of groups and stride. They make queries only, plain and mixed, which are compared with both
/// global views. With `n` of them, `local_to_origin = (1/n) Σ_l [CE(q_l, k_1, I) + CE(q_l, k_2, I)]`.
/// `local_mix_to_origin` is the same for the mixed queries, with the shares of *their* patches as the target. All plain
/// local views go through the networks in one pass, and all mixed ones in another.
///
/// Drop path follows [`tch::manual_seed`]. It acts on the queries, and on the keys if there is no momentum network.
/// With [`LossConfig::micro_batch`], this function draws a seed from the generator, and both passes of the `n`-th part
/// begin with [`seed_for`](crate::random::seed_for)`(seed, [n])`, counted from 1 over all batches of queries. No other
/// thread may use the generator meanwhile, or the second pass of a part drops other paths than the first.
///
/// # Errors
///
/// [`Error::Shape`](crate::Error::Shape) if the views do not fit together; [`Error::Value`](crate::Error::Value) if
/// their plans do not, or if the micro-batch is below 1; those of [`MixPlan::mix_images`], of the losses and of the
/// ranks.
pub fn losses<'a>(
    networks: &Networks<'a>,
    global: [View<'_>; 2],
    local: &[View<'_>],
    config: &LossConfig,
) -> Result<Losses<'a>> {
    view::check(&global, local)?;
    let batch_size = global[1].images.size()[0];
    let mut passes = Passes::new(&networks.model.network.encoder, config.micro_batch)?;
    let (queries, keys, features) = forward::global(networks, &mut passes, global)?;
    let (rank, world_size) = (networks.rank(), networks.world_size());
    let identity = SoftTarget::identity(batch_size)?.smoothed(config.origin_smoothing)?.gathered(rank, world_size)?;
    let mix_targets =
        |plan: &MixPlan| plan.targets(batch_size)?.smoothed(config.mix_smoothing)?.gathered(rank, world_size);
    let targets = mix_targets(global[1].plan)?;
    let cross_entropy =
        |query: &Tensor, keys: &Keys, target: &SoftTarget| keys.soft_cross_entropy(query, target, config.temperature);
    let mut losses = Losses {
        origin_to_origin: cross_entropy(&queries.plain, &keys.key_2, &identity)?,
        mix_to_origin: cross_entropy(&queries.mixed, &keys.key_1, &targets.mix_to_origin)?,
        mix_to_mix: cross_entropy(&queries.mixed, &keys.mixed_key_1, &targets.mix_to_mix)?,
        local_to_origin: None,
        local_mix_to_origin: None,
        feature_std: keys.feature_std.shallow_clone(),
        features,
        passes,
    };
    if let Some(View { plan, .. }) = local.first() {
        let queries = forward::local(networks, &mut losses.passes, local)?;
        // All local plans have the same target, and the average over the rows of all views is the average over views.
        let against_both = |query: &Tensor, target: SoftTarget| -> Result<Tensor> {
            let target = target.repeated(local.len() as i64)?;
            Ok(cross_entropy(query, &keys.key_1, &target)?.f_add(&cross_entropy(query, &keys.key_2, &target)?)?)
        };
        losses.local_to_origin = Some(against_both(&queries.plain, identity)?);
        losses.local_mix_to_origin = Some(against_both(&queries.mixed, mix_targets(plan)?.mix_to_origin)?);
    }
    Ok(losses)
}
