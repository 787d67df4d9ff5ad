//! The forward passes of a step, in the published order.
//!
//! Batches may share a pass through the encoder, but never through the heads: the batch statistics of the heads are
//! those of one kind of view.

use tch::{Kind, Tensor, no_grad_guard};

use super::passes::Passes;
use super::view::View;
use super::{KeyNetwork, Model, Networks};
use crate::error::Result;
use crate::loss::{self, Keys};

/// Queries of plain images and of mixed ones, before normalization: `[rows, D]`.
pub(super) struct Queries {
    pub(super) plain: Tensor,
    pub(super) mixed: Tensor,
}

/// The keys of all ranks: of both global views, and of the mixed first view.
pub(super) struct GlobalKeys {
    pub(super) key_1: Keys,
    pub(super) key_2: Keys,
    pub(super) mixed_key_1: Keys,
    /// See [`Losses::feature_std`](super::Losses::feature_std).
    pub(super) feature_std: Tensor,
}

/// Queries of the first view and of the mixed second view, all keys, and the features of the first view.
pub(super) fn global(
    networks: &Networks<'_>,
    passes: &mut Passes<'_>,
    [view_1, view_2]: [View<'_>; 2],
) -> Result<(Queries, GlobalKeys, Tensor)> {
    let Model { network: KeyNetwork { encoder, projector }, predictor } = networks.model;
    let patch_size = encoder.config().patch_size;
    let (mixed_1, mixed_2) = (view_1.mixed(patch_size)?, view_2.mixed(patch_size)?);
    let [features_1, mixed_features_2] = passes.features([view_1.images, &mixed_2])?;
    let projection_1 = projector.train(&features_1, networks.ranks)?;
    let plain = predictor.train(&projection_1, networks.ranks)?;
    let keys = global_keys(networks, passes, [view_1.images, view_2.images, &mixed_1], &projection_1)?;
    Ok((Queries { plain, mixed: query(networks, &mixed_features_2)? }, keys, features_1.f_detach()?))
}

/// `projection_1` serves as the keys of the first view if there is no momentum network.
fn global_keys(
    networks: &Networks<'_>,
    passes: &Passes<'_>,
    [view_1, view_2, mixed_1]: [&Tensor; 3],
    projection_1: &Tensor,
) -> Result<GlobalKeys> {
    let _no_grad = no_grad_guard();
    let ranks = networks.ranks;
    let KeyNetwork { encoder, projector } = networks.key_network();
    let (key_1, [features_2, mixed_features_1]) = if networks.momentum.is_some() {
        let [features_1, features_2, mixed_features_1] = passes.key_features(encoder, [view_1, view_2, mixed_1])?;
        (projector.train(&features_1, ranks)?, [features_2, mixed_features_1])
    } else {
        (projection_1.f_detach()?, passes.key_features(encoder, [view_2, mixed_1])?)
    };
    let key_2 = projector.train(&features_2, ranks)?;
    let mixed_key_1 = projector.train(&mixed_features_1, ranks)?;
    let keys = |key: &Tensor| match ranks {
        Some(ranks) => Keys::new(key)?.gathered(ranks),
        None => Keys::new(key),
    };
    Ok(GlobalKeys {
        key_1: keys(&key_1)?,
        key_2: keys(&key_2)?,
        mixed_key_1: keys(&mixed_key_1)?,
        feature_std: feature_std(&features_2)?,
    })
}

/// Queries of all local views, view by view along the rows. Plain views share one pass, mixed views another.
pub(super) fn local(networks: &Networks<'_>, passes: &mut Passes<'_>, local: &[View<'_>]) -> Result<Queries> {
    let patch_size = networks.model.network.encoder.config().patch_size;
    let plain: Vec<&Tensor> = local.iter().map(|view| view.images).collect();
    let plain = Tensor::f_cat(&plain, 0)?; // [n * B, 3, h, w]
    let mixed = local.iter().map(|view| view.mixed(patch_size)).collect::<Result<Vec<_>>>()?;
    let mixed = Tensor::f_cat(&mixed, 0)?; // [n * B, 3, h, w]
    let [features, mixed_features] = passes.features([&plain, &mixed])?;
    Ok(Queries { plain: query(networks, &features)?, mixed: query(networks, &mixed_features)? })
}

fn query(networks: &Networks<'_>, features: &Tensor) -> Result<Tensor> {
    let Model { network, predictor } = networks.model;
    predictor.train(&network.projector.train(features, networks.ranks)?, networks.ranks)
}

/// The standard deviation over the rows of normalized features `[B, D]`, averaged over the columns, times `√D`.
fn feature_std(features: &Tensor) -> Result<Tensor> {
    let normalized = loss::normalize_rows(features, Kind::Float)?;
    let width = features.size()[1] as f64;
    Ok(normalized.f_std_dim(0, false, false)?.f_mean(Kind::Float)?.f_mul_scalar(width.sqrt())?)
}
