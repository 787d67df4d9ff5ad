//! What is trained, and the losses of one batch.
//!
//! Two global views of every image, and any number of smaller local ones, are contrasted by [`losses`].
//!
//! # Batches larger than memory
//!
//! Contrast is between the images of a batch: the other ones are the negatives, and the heads' batch normalisation
//! takes its statistics over all of them. Gradients accumulated over small batches are therefore *not* those of the
//! large one: they come of fewer negatives, and of statistics over fewer images.
//!
//! With [`LossConfig::images_at_a_time`] the batch stays whole, and only the encoder works through it in parts, which
//! is exact, as nothing in the encoder mixes images. The first pass keeps the features and forgets how they were made;
//! heads and losses see all of them at once; [`Losses::backward`] computes each part a second time and carries the
//! features' gradient through it. Memory is that of the activations of one part; the cost is one more forward pass of
//! the queries, a quarter to a third more time. This is gradient accumulation and activation checkpointing in one.
//!
//! # Several ranks
//!
//! Each rank has its own part of the batch, of the same size. Keys of all ranks are compared with, and the heads' batch
//! normalisation is over the images of all ranks; images are mixed within a rank. The loss of a rank is the mean over
//! its own queries, that of the run the mean over the ranks: average the gradients over the ranks after the backward
//! pass.

mod batch_norm;
mod forward;
mod head;
mod network;
mod passes;
mod view;

use tch::{Device, Kind, Tensor};

use crate::error::Result;
use crate::loss::{Keys, Target};
use crate::mix::MixPlan;
use crate::numbers::scalar;
use crate::ranks::Ranks;
use crate::target::SoftTarget;
use passes::Passes;

pub use head::{Head, HeadConfig};
pub use network::{KeyNetwork, Model, MomentumNetwork};
pub use view::View;

/// Temperature and label smoothing of the losses, and how they are computed.
#[derive(Debug, Clone, PartialEq)]
pub struct LossConfig {
    /// The logits' divisor.
    pub temperature: f64,
    /// Label smoothing of the targets of unmixed queries; the published runs have 0.1.
    pub origin_smoothing: f64,
    /// Label smoothing of the targets of mixed queries; the published runs have 0.
    pub mix_smoothing: f64,
    /// How many images the encoder works on at a time, at least 1; `None` for whole batches. See
    /// [the module](self#batches-larger-than-memory).
    pub images_at_a_time: Option<i64>,
}

impl Default for LossConfig {
    /// The published 0.2, 0.1 and 0, on whole batches.
    fn default() -> LossConfig {
        LossConfig { temperature: 0.2, origin_smoothing: 0.1, mix_smoothing: 0.0, images_at_a_time: None }
    }
}

/// The networks that contrast, and who takes part.
#[derive(Clone, Copy)]
pub struct Networks<'a> {
    /// Makes the queries, and the keys where there is no momentum network.
    pub model: &'a Model,
    /// Makes the keys.
    pub momentum: Option<&'a MomentumNetwork>,
    /// The ranks that train together; `None` for a run of one process.
    pub ranks: Option<&'a dyn Ranks>,
}

impl Networks<'_> {
    fn rank(&self) -> i64 {
        self.ranks.map_or(0, Ranks::rank)
    }

    fn world_size(&self) -> i64 {
        self.ranks.map_or(1, Ranks::world_size)
    }
}

/// The losses of one batch: scalars, on the device.
#[derive(Debug)]
pub struct Losses<'a> {
    /// Unmixed against unmixed.
    pub origin_to_origin: Tensor,
    /// Mixed against unmixed, not yet halved.
    pub mix_to_origin: Tensor,
    /// Mixed against mixed, not yet halved.
    pub mix_to_mix: Tensor,
    /// Unmixed local views against both unmixed global ones, summed over the two and meaned over the local views.
    pub local_to_origin: Option<Tensor>,
    /// Mixed local views against both unmixed global ones, summed over the two and meaned over the local views.
    pub local_mix_to_origin: Option<Tensor>,
    /// How far the encoder's features of the second view differ from image to image: the standard deviation of a
    /// coordinate of L2-normalised features, in units of `1 / √width`. Near 1 for features in all directions, 0 for an
    /// encoder that has collapsed and sees all images alike.
    pub feature_std: Tensor,
    passes: Passes<'a>,
}

impl Losses<'_> {
    /// `origin_to_origin + (mix_to_origin + mix_to_mix) / 2`, and the losses of the local views where there are some.
    ///
    /// For the gradient take [`Losses::backward`]: that of this tensor stops at the features if
    /// [`LossConfig::images_at_a_time`] is set.
    ///
    /// # Errors
    ///
    /// [`Error::Torch`](crate::Error::Torch), which scalars on one device do not cause.
    pub fn total(&self) -> Result<Tensor> {
        let mixed = self.mix_to_origin.f_add(&self.mix_to_mix)?.f_div(&scalar(2.0)?)?;
        let mut total = self.origin_to_origin.f_add(&mixed)?;
        for local in [&self.local_to_origin, &self.local_mix_to_origin].into_iter().flatten() {
            total = total.f_add(local)?;
        }
        Ok(total)
    }

    /// Adds the gradient of [`Losses::total`] to those of the model's weights; once only.
    ///
    /// # Errors
    ///
    /// [`Error::Torch`](crate::Error::Torch) the second time, if no weight is trained, or if there is no memory for it;
    /// what [`Ranks::sum`] makes of a rank that is lost.
    pub fn backward(&self) -> Result<()> {
        self.total()?.f_backward()?;
        self.passes.backward()
    }
}

/// The losses of a batch, in the published order of forward passes.
///
/// `global` are two views of the same images. Their plans may hold the positions of their groups differently, as the
/// published training draws them, but must agree in the number of groups and the stride: these alone decide the
/// targets. Keys come from the momentum network where there is one, otherwise from the model itself, without gradient in both
/// cases.
///
/// `local` are further views of these images, usually smaller, all of one size, each with a plan of its own of the same
/// number of groups and stride. They make queries only, plain and mixed, which look for both global views:
/// with `n` of them, the cross-entropies are `local_to_origin = (1/n) Σ_l [CE(q_l, k_1, I) + CE(q_l, k_2, I)]`, and
/// `local_mix_to_origin` the same of the mixed queries and the shares that *their* patches have. All local views go
/// through the networks in one pass, and all mixed ones in another.
///
/// Drop path follows [`tch::manual_seed`]. With [`LossConfig::images_at_a_time`], one draw from the generator decides
/// it, and this and [`Losses::backward`] leave the generator seeded anew as a function of that draw; no other thread
/// may draw from the generator meanwhile, or the second pass of a part leaves out other paths than the first.
///
/// # Errors
///
/// [`Error::Shape`](crate::Error::Shape) if the views do not fit together, [`Error::Value`](crate::Error::Value) if the
/// plans do not, or for 0 images at a time; those of [`MixPlan::mix_images`], of the losses
/// and of the ranks.
pub fn losses<'a>(
    networks: &Networks<'a>,
    global: [View<'_>; 2],
    local: &[View<'_>],
    config: &LossConfig,
) -> Result<Losses<'a>> {
    view::check(&global, local)?;
    let batch_size = global[1].images.size()[0];
    let mut passes = Passes::new(&networks.model.network.encoder, config.images_at_a_time)?;
    let (queries, keys) = forward::global(networks, &mut passes, global)?;
    let identity = SoftTarget::identity(batch_size)?.smoothed(config.origin_smoothing)?;
    let identity = identity.gathered(networks.rank(), networks.world_size())?;
    let mix_targets = |plan: &MixPlan| {
        // Held sparse, they need no kind and no device.
        let targets = plan.targets(batch_size, Kind::Float, Device::Cpu)?.smoothed(config.mix_smoothing)?;
        targets.gathered(networks.rank(), networks.world_size())
    };
    let targets = mix_targets(global[1].plan)?;
    let cross_entropy = |keys: &Keys, query: &Tensor, target: &SoftTarget| {
        keys.soft_cross_entropy(query, Target::Sparse(target), config.temperature)
    };
    let mut losses = Losses {
        origin_to_origin: cross_entropy(&keys.key_2, &queries.plain, &identity)?,
        mix_to_origin: cross_entropy(&keys.key_1, &queries.mixed, targets.sparse_mix_to_origin())?,
        mix_to_mix: cross_entropy(&keys.mixed_key_1, &queries.mixed, targets.sparse_mix_to_mix())?,
        local_to_origin: None,
        local_mix_to_origin: None,
        feature_std: keys.feature_std.shallow_clone(),
        passes,
    };
    if let Some(View { plan, .. }) = local.first() {
        let queries = forward::local(networks, &mut losses.passes, local)?;
        // The plans' targets are the same, and the mean over the rows of all views is the mean over the views.
        let against_both = |query: &Tensor, target: &SoftTarget| -> Result<Tensor> {
            let target = target.clone().repeated(local.len() as i64)?;
            Ok(cross_entropy(&keys.key_1, query, &target)?.f_add(&cross_entropy(&keys.key_2, query, &target)?)?)
        };
        losses.local_to_origin = Some(against_both(&queries.plain, &identity)?);
        let targets = mix_targets(plan)?;
        losses.local_mix_to_origin = Some(against_both(&queries.mixed, targets.sparse_mix_to_origin())?);
    }
    Ok(losses)
}
