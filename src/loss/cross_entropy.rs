//! Cross-entropy of normalized queries and keys against a soft target, computed in tiles.
//!
//! With the logits `l_i = q_i kᵀ / τ` and the target's row sum `s_i = Σ_j t_ij`, row `i` of the loss is
//! `s_i logsumexp(l_i) - q_i · y_i / τ`, where `y = target · k`. The target meets the keys and not the logits, so a
//! sparse target stays sparse. The gradient with respect to `q_i` is `(s_i softmax(l_i) k - y_i) / τ`. Neither needs
//! all logits at once.

use tch::{Kind, Tensor, no_grad_guard};

use super::{Target, check_keys, check_queries_and_keys};
use crate::error::{Error, Result, check_device, check_float, check_positive, check_shape};
use crate::native;
use crate::numbers::scalar;
use crate::ranks::Ranks;

/// Queries and keys of a tile. On the CPU its logits stay in the cache; on a GPU they are enough work to fill it.
const TILE_CPU: (i64, i64) = (512, 1024);
const TILE_GPU: (i64, i64) = (4096, 8192);

/// The loss behind the three objectives; see [the module](super) for its definition.
///
/// `q` is `[B, D]`, `k` is `[N, D]` and taken as a constant, `target` is `[B, N]`. Returns a scalar. If several losses
/// share their keys, [`Keys`] normalizes them once.
///
/// # Errors
///
/// [`Error::Shape`], [`Error::Kind`] or [`Error::Device`] if `q`, `k` and `target` do not fit together,
/// [`Error::Value`] unless the temperature is positive and finite.
pub fn soft_cross_entropy<'a>(
    q: &Tensor,
    k: &Tensor,
    target: impl Into<Target<'a>>,
    temperature: f64,
) -> Result<Tensor> {
    check_queries_and_keys(q, k)?;
    Keys::of_kind(k, common_kind(q, k)?)?.soft_cross_entropy(q, target, temperature)
}

/// Keys shared by several losses: normalized once, without gradient.
#[derive(Debug)]
pub struct Keys {
    /// `[N, D]`, rows of length 1, `Float` or `Double`.
    pub(super) normalized: Tensor,
}

impl Keys {
    /// From the projector's output `[N, D]`, of any floating-point kind.
    ///
    /// # Errors
    ///
    /// [`Error::Shape`] unless `k` has two dimensions and is not empty, [`Error::Kind`] unless it has a floating-point
    /// kind.
    pub fn new(k: &Tensor) -> Result<Keys> {
        check_keys(k, None)?;
        Keys::of_kind(k, common_kind(k, k)?)
    }

    fn of_kind(k: &Tensor, kind: Kind) -> Result<Keys> {
        let _no_grad = no_grad_guard();
        Ok(Keys { normalized: normalize_rows(k, kind)? })
    }

    /// The keys of all ranks in rank order, `[world_size * N, D]`, from this rank's own.
    ///
    /// # Errors
    ///
    /// Those of [`Ranks::gather`]; [`Error::Shape`] if it returns another number of rows.
    pub fn gathered(self, ranks: &dyn Ranks) -> Result<Keys> {
        let _no_grad = no_grad_guard();
        let own = self.normalized.size();
        let normalized = ranks.gather(&self.normalized)?;
        let rows = own[0].checked_mul(ranks.world_size());
        check_shape("gathered keys", &normalized, &[("world_size * N", rows), ("D", Some(own[1]))])?;
        Ok(Keys { normalized })
    }

    /// [`soft_cross_entropy`](fn@soft_cross_entropy) of queries `q` `[B, D]` and these keys.
    ///
    /// # Errors
    ///
    /// Those of [`soft_cross_entropy`](fn@soft_cross_entropy).
    pub fn soft_cross_entropy<'a>(
        &self,
        q: &Tensor,
        target: impl Into<Target<'a>>,
        temperature: f64,
    ) -> Result<Tensor> {
        check_queries_and_keys(q, &self.normalized)?;
        check_positive("temperature", temperature)?;
        let kind = common_kind(q, &self.normalized)?;
        let query = normalize_rows(q, kind)?.f_div(&scalar(temperature)?)?;
        let (row_losses, slope) = {
            let _no_grad = no_grad_guard();
            let keys = self.normalized.f_to_kind(kind)?;
            let (target_keys, row_sum) = target_times_keys(target.into(), q.size()[0], &keys)?;
            row_losses_and_slope(&query, &keys, &target_keys, row_sum.as_ref())?
        };
        native::mean_of_rows(&query, &row_losses, &slope)
    }
}

/// `target · keys` `[B, D]`, and the row sums of the target `[B, 1]`; `None` if they are 1 by construction.
pub(super) fn target_times_keys(
    target: Target<'_>,
    batch_size: i64,
    keys: &Tensor,
) -> Result<(Tensor, Option<Tensor>)> {
    match target {
        Target::Dense(target) => {
            check_shape("target", target, &[("B", Some(batch_size)), ("N", Some(keys.size()[0]))])?;
            check_float("target", target)?;
            check_device("target", target, keys.device())?;
            let target = target.f_to_kind(keys.f_kind()?)?;
            Ok((target.f_mm(keys)?, Some(target.f_sum_dim_intlist(-1, true, None)?)))
        }
        Target::Sparse(target) => {
            let actual = [target.rows(), target.columns()];
            if actual != [batch_size, keys.size()[0]] {
                let expected = format!("[{batch_size}, {}]", keys.size()[0]);
                return Err(Error::Shape { name: "target", expected, actual: actual.to_vec() });
            }
            Ok((target.times_keys(keys)?, None))
        }
    }
}

/// The loss of every query `[B, 1]`, and its gradient with respect to the normalized queries, divided by the
/// temperature, `[B, D]`. `query` is also divided by the temperature. Row sums default to 1.
fn row_losses_and_slope(
    query: &Tensor,
    keys: &Tensor,
    target_keys: &Tensor,
    row_sum: Option<&Tensor>,
) -> Result<(Tensor, Tensor)> {
    let batch_size = query.size()[0];
    let (tile_rows, tile_columns) = if query.device().is_cuda() { TILE_GPU } else { TILE_CPU };
    let key_tiles = keys.f_split(tile_columns.min(keys.size()[0]).max(1), 0)?;
    let (mut row_losses, mut slopes) = (Vec::new(), Vec::new());
    for first in (0..batch_size).step_by(tile_rows as usize) {
        let rows = tile_rows.min(batch_size - first);
        let (query, target_keys) = (query.f_narrow(0, first, rows)?, target_keys.f_narrow(0, first, rows)?);
        let (mut log_sum, mut expected_key) = log_sum_and_expected_key(&query, &key_tiles)?;
        if let Some(row_sum) = row_sum {
            let row_sum = row_sum.f_narrow(0, first, rows)?;
            log_sum = log_sum.f_mul_(&row_sum)?;
            expected_key = expected_key.f_mul_(&row_sum)?;
        }
        let target_logit = query.f_mul(&target_keys)?.f_sum_dim_intlist(-1, true, None)?;
        row_losses.push(log_sum.f_sub_(&target_logit)?);
        slopes.push(expected_key.f_sub_(&target_keys)?);
    }
    Ok((Tensor::f_cat(&row_losses, 0)?, Tensor::f_cat(&slopes, 0)?))
}

/// For queries `[rows, D]`: the logsumexp of their logits `[rows, 1]`, and the expected key under their softmax,
/// `softmax(logits) · keys` `[rows, D]`.
///
/// The keys come in tiles. As in fused attention with keys for values, the running sums are relative to the largest
/// logit so far, and are rescaled when a larger one appears.
fn log_sum_and_expected_key(query: &Tensor, key_tiles: &[Tensor]) -> Result<(Tensor, Tensor)> {
    let column = [query.size()[0], 1];
    let mut largest = query.f_new_empty(column, (query.f_kind()?, query.device()))?.f_fill_(f64::NEG_INFINITY)?;
    let mut sum = largest.f_zeros_like()?;
    let mut expected_key = query.f_zeros_like()?;
    for keys in key_tiles {
        let mut logits = query.f_mm(&keys.f_transpose(0, 1)?)?; // [rows, columns]
        let new_largest = largest.f_maximum(&logits.f_amax(-1, true)?)?;
        let weights = logits.f_sub_(&new_largest)?.f_exp_()?;
        let rescale = largest.f_sub_(&new_largest)?.f_exp_()?;
        sum = sum.f_mul_(&rescale)?.f_add_(&weights.f_sum_dim_intlist(-1, true, None)?)?;
        expected_key = expected_key.f_mul_(&rescale)?.f_addmm_(&weights, keys)?;
        largest = new_largest;
    }
    Ok((sum.f_log()?.f_add_(&largest)?, expected_key.f_div_(&sum)?))
}

/// `Double` if one of the two is, else `Float`: half-precision inputs are computed in single precision.
pub(super) fn common_kind(q: &Tensor, k: &Tensor) -> Result<Kind> {
    let double = q.f_kind()? == Kind::Double || k.f_kind()? == Kind::Double;
    Ok(if double { Kind::Double } else { Kind::Float })
}

/// L2-normalized rows, of kind `kind`. Rows whose elements are all at most 1e-12 count as zero.
pub(crate) fn normalize_rows(rows: &Tensor, kind: Kind) -> Result<Tensor> {
    const TINY: f64 = 1e-12;
    let rows = rows.f_to_kind(kind)?;
    // Rows are first scaled to the order of 1, because the square of a length overflows long before the length does.
    let order = {
        let _no_grad = no_grad_guard();
        let mut order = rows.f_abs()?.f_amax(-1, true)?;
        let counts_as_zero = order.f_le_tensor(&scalar(TINY)?)?;
        order.f_masked_fill_(&counts_as_zero, 1.0)?
    };
    let rows = rows.f_div(&order)?;
    // The squared length is at least 1 now, unless the row counts as zero. Those are divided by 1/2.
    let square = rows.f_square()?.f_sum_dim_intlist(-1, true, None)?;
    Ok(rows.f_div(&square.f_maximum(&scalar(0.25)?)?.f_sqrt()?)?)
}
