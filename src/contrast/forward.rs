//! The forward passes of a step, in the published order.
//!
//! Batches may share a pass through the encoder, but never through the heads: the batch statistics of the heads are
//! those of one kind of view.

use tch::{Kind, Tensor, no_grad_guard};

use super::needs::{self, Needs, Side};
use super::passes::Passes;
use super::view::View;
use super::{KeyNetwork, Model, Networks};
use crate::error::Result;
use crate::loss::{self, Keys};

/// Something for every [`Side`] that needs it, in the order of [`Side::ALL`].
type PerSide<T> = [Option<T>; 4];

/// What the global views make.
pub(super) struct Global {
    /// Before normalization, `[B, D]`.
    pub(super) queries: PerSide<Tensor>,
    /// Those of all ranks, unless they were not to be gathered.
    pub(super) keys: PerSide<Keys>,
    /// See [`Losses::feature_std`](super::Losses::feature_std).
    pub(super) feature_std: Tensor,
    /// Of the first view, if it makes queries; without gradient.
    pub(super) features: Option<Tensor>,
}

/// The queries and keys of the global views that `needs` asks for. `gathers` says whether ranks exchange keys.
pub(super) fn global(
    networks: &Networks<'_>,
    passes: &mut Passes<'_>,
    views: [View<'_>; 2],
    needs: &Needs,
    gathers: bool,
    patch_size: i64,
) -> Result<Global> {
    let images = per_side(|side| match (needs.is_query(side) || needs.is_key(side), side.mixed) {
        (false, _) => Ok(None),
        (true, false) => Ok(Some(views[side.view].images.shallow_clone())),
        (true, true) => Ok(Some(views[side.view].mixed(patch_size)?)),
    })?;
    let features = of_sides(&images, |side| needs.is_query(side), |images| passes.features(images))?;
    // A projection may serve as a key too. Those of mixed images that do not come after the keys, as published.
    let is_shared = |side| networks.momentum.is_none() && needs.is_key(side);
    let project = |features: &Tensor| networks.model.network.projector.train(features, networks.ranks);
    let project_if = |wanted: &dyn Fn(Side) -> bool| {
        per_side(|side| features[side.index()].as_ref().filter(|_| wanted(side)).map(project).transpose())
    };
    let early = project_if(&|side| !side.mixed || is_shared(side))?;
    let (keys, feature_std) = global_keys(networks, passes, &images, needs, gathers, (&features, &early))?;
    let late = project_if(&|side| early[side.index()].is_none())?;
    let queries = per_side(|side| {
        let projection = early[side.index()].as_ref().or(late[side.index()].as_ref());
        projection.map(|projection| networks.model.predictor.train(projection, networks.ranks)).transpose()
    })?;
    let first = features[Side::PLAIN[0].index()].as_ref();
    let features = first.map(Tensor::f_detach).transpose()?;
    Ok(Global { queries, keys, feature_std, features })
}

/// The keys, and the standard deviation of the features that they are made of. Without a momentum network, the
/// features and projections of `queries` serve as keys as well.
fn global_keys(
    networks: &Networks<'_>,
    passes: &Passes<'_>,
    images: &PerSide<Tensor>,
    needs: &Needs,
    gathers: bool,
    queries: (&PerSide<Tensor>, &PerSide<Tensor>),
) -> Result<(PerSide<Keys>, Tensor)> {
    let _no_grad = no_grad_guard();
    let KeyNetwork { encoder, projector } = networks.key_network();
    let own = |side: Side| queries.1[side.index()].as_ref().filter(|_| networks.momentum.is_none());
    let features = of_sides(
        images,
        |side| needs.is_key(side) && own(side).is_none(),
        |images| passes.key_features(encoder, images),
    )?;
    let projections = per_side(|side| match (needs.is_key(side), own(side), &features[side.index()]) {
        (true, Some(own), _) => Ok(Some(own.f_detach()?)),
        (true, None, Some(features)) => Ok(Some(projector.train(features, networks.ranks)?)),
        _ => Ok(None),
    })?;
    let keys = per_side(|side| {
        let keys = projections[side.index()].as_ref().map(Keys::new).transpose()?;
        match (keys, networks.ranks) {
            (Some(keys), Some(ranks)) if gathers => Ok(Some(keys.gathered(ranks)?)),
            (keys, _) => Ok(keys),
        }
    })?;
    let [plain_1, plain_2, mixed_1, mixed_2] = Side::ALL;
    let first_key = [plain_2, plain_1, mixed_1, mixed_2].into_iter().find(|side| needs.is_key(*side));
    let of_key = |side: Side| features[side.index()].as_ref().or(queries.0[side.index()].as_ref());
    let features = first_key.and_then(of_key).ok_or_else(needs::no_term)?; // every term has keys
    Ok((keys, feature_std(features)?))
}

/// Queries of all local views, plain and mixed, each if `wanted`: view by view along the rows, `[n * B, D]`. Plain
/// views share one pass, mixed views another.
pub(super) fn local(
    networks: &Networks<'_>,
    passes: &mut Passes<'_>,
    local: &[View<'_>],
    wanted: [bool; 2],
    patch_size: i64,
) -> Result<[Option<Tensor>; 2]> {
    let Model { network, predictor } = networks.model;
    let mut images = Vec::new();
    if wanted[0] {
        let plain: Vec<&Tensor> = local.iter().map(|view| view.images).collect();
        images.push(Tensor::f_cat(&plain, 0)?);
    }
    if wanted[1] {
        let mixed = local.iter().map(|view| view.mixed(patch_size)).collect::<Result<Vec<_>>>()?;
        images.push(Tensor::f_cat(&mixed, 0)?);
    }
    let mut features = passes.features(&images.iter().collect::<Vec<_>>())?.into_iter();
    let mut query = |wanted: bool| match wanted.then(|| features.next()).flatten() {
        Some(features) => {
            predictor.train(&network.projector.train(&features, networks.ranks)?, networks.ranks).map(Some)
        }
        None => Ok(None),
    };
    Ok([query(wanted[0])?, query(wanted[1])?])
}

fn per_side<T>(mut of: impl FnMut(Side) -> Result<Option<T>>) -> Result<PerSide<T>> {
    let [plain_1, plain_2, mixed_1, mixed_2] = Side::ALL;
    Ok([of(plain_1)?, of(plain_2)?, of(mixed_1)?, of(mixed_2)?])
}

/// Features of the images of the `wanted` sides, which `encode` makes of all of them at once.
fn of_sides(
    images: &PerSide<Tensor>,
    wanted: impl Fn(Side) -> bool,
    encode: impl FnOnce(&[&Tensor]) -> Result<Vec<Tensor>>,
) -> Result<PerSide<Tensor>> {
    let images = |side: Side| images[side.index()].as_ref().filter(|_| wanted(side));
    let mut features = encode(&Side::ALL.into_iter().filter_map(images).collect::<Vec<_>>())?.into_iter();
    per_side(|side| Ok(images(side).and_then(|_| features.next())))
}

/// The standard deviation over the rows of normalized features `[B, D]`, averaged over the columns, times `√D`.
fn feature_std(features: &Tensor) -> Result<Tensor> {
    let normalized = loss::normalize_rows(features, Kind::Float)?;
    let width = features.size()[1] as f64;
    Ok(normalized.f_std_dim(0, false, false)?.f_mean(Kind::Float)?.f_mul_scalar(width.sqrt())?)
}
