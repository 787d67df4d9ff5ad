//! The three contrastive losses of the paper, and the negative-free form.
//!
//! All of them compare queries `q` `[B, D]`, the predictor's output, with keys `k` `[N, D]`, the projector's output for
//! the same batch (`N = B`) or for all ranks (`N = world_size * B`, in rank order). Rows are L2-normalized here. The
//! logits are `q kᵀ / temperature`, and the loss is the cross-entropy against a soft target, averaged over the rows:
//!
//! `L = -(1/B) Σ_i Σ_j target[i, j] log softmax(logits)[i, j]`
//!
//! Keys are constants: no gradient flows into them. Inputs may have any floating-point kind; the loss is computed in
//! `Float`, or in `Double` if one side is `Double`, and has that kind. Nothing is copied back from a GPU. The gradient
//! is computed together with the value, tile by tile, so memory grows with `B + N` and not with `B * N`. A second
//! derivative is an error of libtorch's backward pass.
//!
//! The paper's total is `origin_to_origin + (mix_to_origin + mix_to_mix) / 2`.
//!
//! ```no_run
//! use patchmix::{MixPlan, loss};
//! use tch::{Tensor, kind::FLOAT_CPU};
//! # let (encode_query, encode_key) = (|x: &Tensor| x.flatten(1, -1), |x: &Tensor| x.flatten(1, -1));
//! # let (view_1, view_2) = (Tensor::rand([8, 3, 32, 32], FLOAT_CPU), Tensor::rand([8, 3, 32, 32], FLOAT_CPU));
//! let plan = MixPlan::for_images(&view_1, 2, 2, 1)?; // patches of 2 x 2 pixels, 2 images per mix, stride 1
//! let targets = plan.targets(8)?;
//! let (mixed_1, mixed_2) = (plan.mix_images(&view_1, 2)?, plan.mix_images(&view_2, 2)?);
//! let origin_to_origin = loss::origin_to_origin(&encode_query(&view_1), &encode_key(&view_2), 0.2)?;
//! let query = encode_query(&mixed_2);
//! let mix_to_origin = loss::mix_to_origin(&query, &encode_key(&view_1), &targets.mix_to_origin, 0.2)?;
//! let mix_to_mix = loss::mix_to_mix(&query, &encode_key(&mixed_1), &targets.mix_to_mix, 0.2)?;
//! let total = origin_to_origin + (mix_to_origin + mix_to_mix) / 2.0;
//! # Ok::<(), patchmix::Error>(())
//! ```

mod cross_entropy;
mod distance;

use tch::Tensor;

use crate::error::{Error, Result, check_device, check_float, check_shape};
use crate::target::SoftTarget;

use cross_entropy::common_kind;
pub(crate) use cross_entropy::normalize_rows;
pub use cross_entropy::{Keys, soft_cross_entropy};

/// The target of a loss: a dense matrix or a sparse [`SoftTarget`]. Losses take either as a reference.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub enum Target<'a> {
    /// `[B, N]`, of any floating-point kind. Rows need not sum to 1.
    Dense(&'a Tensor),
    /// A sparse target with B rows and N columns.
    Sparse(&'a SoftTarget),
}

impl<'a> From<&'a Tensor> for Target<'a> {
    fn from(target: &'a Tensor) -> Target<'a> {
        Target::Dense(target)
    }
}

impl<'a> From<&'a SoftTarget> for Target<'a> {
    fn from(target: &'a SoftTarget) -> Target<'a> {
        Target::Sparse(target)
    }
}

/// Origin-to-origin contrast: query `i` of one view should match key `i` of the other.
///
/// `q` and `k` are both `[B, D]`. For label smoothing, or for keys gathered from several ranks, use
/// [`soft_cross_entropy`] with [`SoftTarget::identity`].
///
/// # Errors
///
/// [`Error::Shape`], [`Error::Kind`] or [`Error::Device`] if `q` and `k` do not fit together, [`Error::Value`] unless
/// the temperature is positive and finite.
pub fn origin_to_origin(q: &Tensor, k: &Tensor, temperature: f64) -> Result<Tensor> {
    check_pairs(q, k)?;
    soft_cross_entropy(q, k, &SoftTarget::identity(q.size()[0])?, temperature)
}

/// Mix-to-origin contrast: queries of mixed images against the keys of the images that they are made of.
///
/// `q_mixed` is `[B, D]`, `k` is `[N, D]`, and `target` is [`MixTargets::mix_to_origin`](crate::MixTargets) or a dense
/// `[B, N]` tensor.
///
/// # Errors
///
/// Those of [`soft_cross_entropy`].
pub fn mix_to_origin<'a>(
    q_mixed: &Tensor,
    k: &Tensor,
    target: impl Into<Target<'a>>,
    temperature: f64,
) -> Result<Tensor> {
    soft_cross_entropy(q_mixed, k, target, temperature)
}

/// Mix-to-mix contrast: queries of mixed images against the keys of the other view's images, mixed alike.
///
/// `q_mixed` is `[B, D]`, `k_mixed` is `[N, D]`, and `target` is [`MixTargets::mix_to_mix`](crate::MixTargets) or a
/// dense `[B, N]` tensor.
///
/// # Errors
///
/// Those of [`soft_cross_entropy`].
pub fn mix_to_mix<'a>(
    q_mixed: &Tensor,
    k_mixed: &Tensor,
    target: impl Into<Target<'a>>,
    temperature: f64,
) -> Result<Tensor> {
    soft_cross_entropy(q_mixed, k_mixed, target, temperature)
}

/// The negative-free form: minus the cosine of query `i` and key `i`, averaged over the rows.
///
/// `q` and `k` are both `[B, D]`. For mixed queries and their targets, see [`Keys::squared_distance`], which is
/// `2 + 2 negative_free` for plain ones.
///
/// # Errors
///
/// [`Error::Shape`], [`Error::Kind`] or [`Error::Device`] if `q` and `k` do not fit together.
pub fn negative_free(q: &Tensor, k: &Tensor) -> Result<Tensor> {
    check_pairs(q, k)?;
    let kind = common_kind(q, k)?;
    let cosine =
        normalize_rows(q, kind)?.f_mul(&normalize_rows(&k.f_detach()?, kind)?)?.f_sum_dim_intlist(-1, false, None)?;
    Ok(cosine.f_mean(kind)?.f_neg()?)
}

/// `q` and `k` both `[B, D]`, and otherwise as [`check_queries_and_keys`] requires.
fn check_pairs(q: &Tensor, k: &Tensor) -> Result<()> {
    check_queries_and_keys(q, k)?;
    check_shape("k", k, &[("B", Some(q.size()[0])), ("D", None)])
}

/// `q` `[B, D]` and `k` `[N, D]`, not empty, of floating-point kinds and on one device.
fn check_queries_and_keys(q: &Tensor, k: &Tensor) -> Result<()> {
    check_shape("q", q, &[("B", None), ("D", None)])?;
    check_not_empty("q", "[B, D]", q)?;
    check_float("q", q)?;
    check_keys(k, Some(q.size()[1]))?;
    check_device("k", k, q.device())
}

/// `k` `[N, D]`, not empty, of a floating-point kind.
fn check_keys(k: &Tensor, width: Option<i64>) -> Result<()> {
    check_shape("k", k, &[("N", None), ("D", width)])?;
    check_not_empty("k", "[N, D]", k)?;
    check_float("k", k)
}

fn check_not_empty(name: &'static str, shape: &str, rows: &Tensor) -> Result<()> {
    if rows.numel() > 0 {
        return Ok(());
    }
    Err(Error::Shape { name, expected: format!("{shape} with at least one row and column"), actual: rows.size() })
}
