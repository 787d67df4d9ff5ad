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
mod config;
mod forward;
mod head;
mod needs;
mod network;
mod passes;
mod terms;
mod view;

use tch::Tensor;

use crate::error::Result;
use crate::loss::Keys;
use crate::mix::MixPlan;
use crate::native::layers::CastsOnce;
use crate::numbers::scalar;
use crate::ranks::Ranks;
use crate::target::SoftTarget;
use needs::{Needs, Side, Target};
use passes::Passes;

pub use config::{LossConfig, LossWeights};
pub use head::{Head, HeadConfig};
pub use network::{KeyNetwork, Model, MomentumNetwork};
pub use terms::{Losses, Term};
pub use view::View;

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
/// A term of weight 0 is not computed, and neither are the passes that only it needs; [`LossConfig`] has this and other
/// variants of the method.
///
/// Drop path follows [`tch::manual_seed`]. It acts on the queries, and on the keys if there is no momentum network.
/// With [`LossConfig::micro_batch`], this function draws a seed from the generator, and both passes of the `n`-th part
/// begin with [`seed_for`](crate::random::seed_for)`(seed, [n])`, counted from 1 over all batches of queries. No other
/// thread may use the generator meanwhile, or the second pass of a part drops other paths than the first.
///
/// # Errors
///
/// [`Error::Shape`](crate::Error::Shape) if the views do not fit together; [`Error::Value`](crate::Error::Value) if
/// their plans do not, if the micro-batch is below 1, or for weights that are negative, not finite, or 0 for all terms
/// of these views; those of the losses and of the ranks, and with mixed terms those of [`MixPlan::mix_images`].
pub fn losses<'a>(
    networks: &Networks<'a>,
    global: [View<'_>; 2],
    local: &[View<'_>],
    config: &LossConfig,
) -> Result<Losses<'a>> {
    view::check(&global, local)?;
    let _casts = CastsOnce::begin();
    let needs = Needs::new(config, !local.is_empty())?;
    let patch_size = config.mix_patch_size.unwrap_or(networks.model.network.encoder.config().patch_size);
    let mut passes = Passes::new(&networks.model.network.encoder, config.micro_batch)?;
    let forward::Global { queries, keys, feature_std, features } =
        forward::global(networks, &mut passes, global, &needs, config.negatives, patch_size)?;

    let batch_size = global[1].images.size()[0];
    let contrast = Contrast { config, rank: networks.rank(), world_size: networks.world_size() };
    let mut terms = [const { None }; 5];
    for term in needs::GLOBAL.into_iter().filter(|term| needs.has_term(*term)) {
        let target = contrast.target(term, global[1].plan, batch_size)?;
        let pairs = needs.pairs(term).map(|(query, key)| (&queries[query.index()], &keys[key.index()]));
        let pairs = pairs.filter_map(|(query, keys)| query.as_ref().zip(keys.as_ref()));
        let directions = pairs.map(|(query, keys)| contrast.loss(query, keys, &target)).collect::<Result<Vec<_>>>()?;
        terms[term] = average(directions)?;
    }
    if let Some(View { plan, .. }) = local.first() {
        let wanted = needs::LOCAL.map(|term| needs.has_term(term));
        let queries = forward::local(networks, &mut passes, local, wanted, patch_size)?;
        let keys = Side::PLAIN.map(|side| keys[side.index()].as_ref());
        for (term, query) in needs::LOCAL.into_iter().zip(queries) {
            if let (Some(query), [Some(key_1), Some(key_2)]) = (query, keys) {
                // All local plans have the same target, and the average over the rows of all views is that over views.
                let target = contrast.target(term, plan, batch_size)?.repeated(local.len() as i64)?;
                let one = contrast.loss(&query, key_1, &target)?;
                terms[term] = Some(one.f_add(&contrast.loss(&query, key_2, &target)?)?);
            }
        }
    }
    Ok(Losses::new(terms, &config.weights, (feature_std, features), passes))
}

/// How queries are compared with keys.
struct Contrast<'a> {
    config: &'a LossConfig,
    rank: i64,
    world_size: i64,
}

impl Contrast<'_> {
    /// The target of a term for images mixed by `plan`. A plain term does not ask whether they can be mixed. With
    /// negatives, a target is smoothed and has the keys of all ranks for columns.
    fn target(&self, term: usize, plan: &MixPlan, batch_size: i64) -> Result<SoftTarget> {
        let (target, smoothing) = match needs::target(term) {
            Target::Itself => (SoftTarget::identity(batch_size)?, self.config.origin_smoothing),
            Target::Sources => (plan.targets(batch_size)?.mix_to_origin, self.config.mix_smoothing),
            Target::Mixed => (plan.targets(batch_size)?.mix_to_mix, self.config.mix_smoothing),
        };
        match self.config.negatives {
            true => target.smoothed(smoothing)?.gathered(self.rank, self.world_size),
            false => Ok(target),
        }
    }

    fn loss(&self, query: &Tensor, keys: &Keys, target: &SoftTarget) -> Result<Tensor> {
        match self.config.negatives {
            true => keys.soft_cross_entropy(query, target, self.config.temperature),
            false => keys.squared_distance(query, target),
        }
    }
}

/// The average of the two directions of a term, or the only one; `None` if it is not computed.
fn average(directions: Vec<Tensor>) -> Result<Option<Tensor>> {
    let mut directions = directions.into_iter();
    Ok(match (directions.next(), directions.next()) {
        (Some(one), Some(other)) => {
            let half = scalar(0.5)?.f_to_kind(one.f_kind()?)?;
            Some(one.f_add(&other)?.f_mul(&half)?)
        }
        (one, _) => one,
    })
}
