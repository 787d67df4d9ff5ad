//! The three contrastive losses of the paper and the form without negatives.
//!
//! All compare queries `q` `[B, D]`, the predictor's output, with keys `k` `[N, D]`, the projector's output of the same
//! batch (`N = B`) or of all ranks (`N = world_size * B`, in rank order). Rows are L2-normalised here; the logits are
//! `q kᵀ / temperature`, and the loss is the cross-entropy against a soft target, meaned over the rows:
//!
//! `L = -(1/B) Σ_i Σ_j target[i, j] log softmax(logits)[i, j]`
//!
//! Keys are constants: no gradient flows into them. Any floating-point kind is taken and computed in `Float`, or in
//! `Double` if one side is `Double`; the loss is of that kind. Nothing is read back from a GPU. The gradient is
//! computed with the value, block by block of rows, so memory grows with `B + N` and not with `B * N`; only first
//! derivatives are right.
//!
//! The paper's total is `origin_to_origin + (mix_to_origin + mix_to_mix) / 2`.
//!
//! ```no_run
//! use patchmix::{MixPlan, loss};
//! use tch::{Device, Kind, Tensor, kind::FLOAT_CPU};
//! # let (encode_query, encode_key) = (|x: &Tensor| x.flatten(1, -1), |x: &Tensor| x.flatten(1, -1));
//! # let (view_1, view_2) = (Tensor::rand([8, 3, 32, 32], FLOAT_CPU), Tensor::rand([8, 3, 32, 32], FLOAT_CPU));
//! let plan = MixPlan::random(256, 2, 1)?; // 32 x 32 pixels in patches of 2 x 2
//! let targets = plan.targets(8, Kind::Float, Device::Cpu)?;
//! let (mixed_1, mixed_2) = (plan.mix_images(&view_1, 2)?, plan.mix_images(&view_2, 2)?);
//! let origin = loss::origin_to_origin(&encode_query(&view_1), &encode_key(&view_2), 0.2)?;
//! let query = encode_query(&mixed_2);
//! let mix_to_origin = loss::mix_to_origin(&query, &encode_key(&view_1), &targets, 0.2)?;
//! let mix_to_mix = loss::mix_to_mix(&query, &encode_key(&mixed_1), &targets, 0.2)?;
//! let total = origin + (mix_to_origin + mix_to_mix) / 2.0;
//! # Ok::<(), patchmix::Error>(())
//! ```

mod cross_entropy;

use tch::Tensor;

use crate::error::{Error, Result, check_device, check_float, check_shape};
use crate::numbers::scalar;
use crate::target::{MixTargets, SoftTarget};

use cross_entropy::common_kind;
pub(crate) use cross_entropy::normalize_rows;
pub use cross_entropy::{Keys, soft_cross_entropy};

/// A target that the losses take: a dense matrix or a sparse label.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub enum Target<'a> {
    /// `[B, N]`, any floating-point kind. Rows need not sum to 1.
    Dense(&'a Tensor),
    /// Without the matrix.
    Sparse(&'a SoftTarget),
}

/// What can stand as the target of a mixed loss: [`MixTargets`], one [`SoftTarget`], or a dense [`Tensor`] `[B, N]`.
pub trait AsTarget {
    /// As the target of [`mix_to_origin`].
    fn as_mix_to_origin(&self) -> Target<'_>;
    /// As the target of [`mix_to_mix`].
    fn as_mix_to_mix(&self) -> Target<'_>;
}

impl AsTarget for MixTargets {
    fn as_mix_to_origin(&self) -> Target<'_> {
        Target::Sparse(self.sparse_mix_to_origin())
    }
    fn as_mix_to_mix(&self) -> Target<'_> {
        Target::Sparse(self.sparse_mix_to_mix())
    }
}

impl AsTarget for SoftTarget {
    fn as_mix_to_origin(&self) -> Target<'_> {
        Target::Sparse(self)
    }
    fn as_mix_to_mix(&self) -> Target<'_> {
        Target::Sparse(self)
    }
}

impl AsTarget for Tensor {
    fn as_mix_to_origin(&self) -> Target<'_> {
        Target::Dense(self)
    }
    fn as_mix_to_mix(&self) -> Target<'_> {
        Target::Dense(self)
    }
}

/// Unmixed queries of one view against unmixed keys of the other: query `i` must find key `i`: the paper's origin-to-origin contrast.
///
/// `q` and `k` are both `[B, D]`. For label smoothing, or for keys gathered from several ranks, use
/// [`soft_cross_entropy`] with [`SoftTarget::identity`].
///
/// # Errors
///
/// [`Error::Shape`], [`Error::Kind`] or [`Error::Device`] if `q` and `k` do not fit together, [`Error::Value`] unless
/// the temperature is positive and finite.
pub fn origin_to_origin(q: &Tensor, k: &Tensor, temperature: f64) -> Result<Tensor> {
    check_row_by_row(q, k)?;
    soft_cross_entropy(q, k, Target::Sparse(&SoftTarget::identity(q.size()[0])?), temperature)
}

/// Queries of mixed images against the keys of the images they are made of: the paper's mix-to-origin contrast.
///
/// `q_mixed` is `[B, D]`, `k` `[N, D]`, `target` the [`MixTargets`] of the plan or a dense `[B, N]` tensor.
///
/// # Errors
///
/// As [`origin_to_origin`]; also [`Error::Shape`] if the target is of another size.
pub fn mix_to_origin<T>(q_mixed: &Tensor, k: &Tensor, target: &T, temperature: f64) -> Result<Tensor>
where
    T: AsTarget + ?Sized,
{
    soft_cross_entropy(q_mixed, k, target.as_mix_to_origin(), temperature)
}

/// Queries of mixed images against the keys of the other view's images, mixed by the same plan: the paper's mix-to-mix contrast.
///
/// `q_mixed` is `[B, D]`, `k_mixed` `[N, D]`, `target` the [`MixTargets`] of the plan or a dense `[B, N]` tensor.
///
/// # Errors
///
/// As [`mix_to_origin`].
pub fn mix_to_mix<T>(q_mixed: &Tensor, k_mixed: &Tensor, target: &T, temperature: f64) -> Result<Tensor>
where
    T: AsTarget + ?Sized,
{
    soft_cross_entropy(q_mixed, k_mixed, target.as_mix_to_mix(), temperature)
}

/// The form without negatives: minus the mean cosine of query `i` and key `i`.
///
/// `q` and `k` are both `[B, D]`.
///
/// # Errors
///
/// [`Error::Shape`], [`Error::Kind`] or [`Error::Device`] if `q` and `k` do not fit together.
pub fn negative_free(q: &Tensor, k: &Tensor) -> Result<Tensor> {
    check_row_by_row(q, k)?;
    let kind = common_kind(q, k)?;
    let cosine = normalize_rows(q, kind)?.f_mul(&normalize_rows(&k.f_detach()?, kind)?)?;
    Ok(cosine.f_sum(kind)?.f_div(&scalar(-(q.size()[0] as f64))?)?)
}

/// `q` and `k` both `[B, D]`, as [`check_pair`] wants them.
fn check_row_by_row(q: &Tensor, k: &Tensor) -> Result<()> {
    check_pair(q, k)?;
    check_shape("k", k, &[("B", Some(q.size()[0])), ("D", None)])
}

/// `q` `[B, D]` and `k` `[N, D]`, none of the sizes 0, so that there is a mean; floating-point kinds on one device.
fn check_pair(q: &Tensor, k: &Tensor) -> Result<()> {
    check_shape("q", q, &[("B", None), ("D", None)])?;
    let width = q.size()[1];
    check_filled("q", q)?;
    check_float("q", q)?;
    check_keys(k, Some(width))?;
    check_device("k", k, q.device())
}

/// `k` `[N, D]`, none of the sizes 0, of a floating-point kind.
fn check_keys(k: &Tensor, width: Option<i64>) -> Result<()> {
    check_shape("k", k, &[("N", None), ("D", width)])?;
    check_filled("k", k)?;
    check_float("k", k)
}

fn check_filled(name: &'static str, rows: &Tensor) -> Result<()> {
    if rows.numel() > 0 {
        return Ok(());
    }
    Err(Error::Shape { name, expected: "at least one row and column".to_owned(), actual: rows.size() })
}
