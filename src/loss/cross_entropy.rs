//! Cross-entropy of normalised queries and keys against a soft target, in tiles.
//!
//! With `l_i = q_i kᵀ / τ` and `s_i = Σ_j t_ij`, row `i` of the loss is `s_i logsumexp(l_i) - q_i · y_i / τ` where
//! `y = target · k`: the target meets the keys, not the logits, so a sparse target stays sparse. The gradient with
//! respect to `q_i` is `(s_i softmax(l_i) k - y_i) / τ`. Both need a logit only for a moment.

use tch::{Kind, Tensor, no_grad_guard};

use super::{Target, check_keys, check_pair};
use crate::error::{Error, Result, check_device, check_float, check_shape, check_value};
use crate::numbers::scalar;
use crate::ranks::Ranks;

/// Queries and keys compared at a time: logits that stay in the cache of a CPU, and are work enough for a GPU.
const TILE_CPU: (usize, i64) = (512, 1024);
const TILE_GPU: (usize, i64) = (4096, 8192);

/// The loss that the three objectives are cases of; see [the module](super) for its definition.
///
/// `q` `[B, D]`, `k` `[N, D]`, taken as a constant, `target` `[B, N]`; returns a scalar. Where several losses share
/// their keys, [`Keys`] are normalised once for all of them.
///
/// # Errors
///
/// [`Error::Shape`], [`Error::Kind`] or [`Error::Device`] if `q`, `k` and `target` do not fit together,
/// [`Error::Value`] unless the temperature is positive and finite.
pub fn soft_cross_entropy(q: &Tensor, k: &Tensor, target: Target<'_>, temperature: f64) -> Result<Tensor> {
    check_pair(q, k)?;
    Keys::in_kind(k, common_kind(q, k)?)?.soft_cross_entropy(q, target, temperature)
}

/// Keys that the queries of several losses are compared with: normalised once, without gradient.
#[derive(Debug)]
pub struct Keys {
    /// `[N, D]`, rows of length 1, `Float` or `Double`.
    normalized: Tensor,
}

impl Keys {
    /// From keys `[N, D]` as the projector makes them, of any floating-point kind.
    ///
    /// # Errors
    ///
    /// [`Error::Shape`] unless `k` has two dimensions and at least one row and column, [`Error::Kind`] unless it holds
    /// floating-point numbers.
    pub fn new(k: &Tensor) -> Result<Keys> {
        check_keys(k, None)?;
        Keys::in_kind(k, common_kind(k, k)?)
    }

    fn in_kind(k: &Tensor, kind: Kind) -> Result<Keys> {
        let _no_grad = no_grad_guard();
        Ok(Keys { normalized: normalize_rows(k, kind)? })
    }

    /// The keys of all ranks in rank order, from this rank's own: `[world_size * N, D]`.
    ///
    /// # Errors
    ///
    /// Those of [`Ranks::gather`]; [`Error::Shape`] if it gives another number of rows.
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
    pub fn soft_cross_entropy(&self, q: &Tensor, target: Target<'_>, temperature: f64) -> Result<Tensor> {
        check_pair(q, &self.normalized)?;
        check_value("temperature", temperature, "positive and finite", temperature.is_finite() && temperature > 0.0)?;
        let kind = common_kind(q, &self.normalized)?;
        let query = normalize_rows(q, kind)?.f_div(&scalar(temperature)?)?;
        let (row_losses, slope) = {
            let _no_grad = no_grad_guard();
            let keys = self.normalized.f_to_kind(kind)?;
            let (wanted, row_sum) = target_times_keys(target, q.size()[0], &keys)?;
            row_losses_and_slope(&query, &keys, wanted, row_sum.as_ref())?
        };
        let loss = row_losses.f_mean(kind)?;
        if !query.requires_grad() {
            return Ok(loss);
        }
        // Adds nothing to the value, and gives it its gradient.
        let surrogate = query.f_mul(&slope)?.f_sum_dim_intlist(-1, false, None)?.f_mean(kind)?;
        Ok(loss.f_add(&surrogate.f_sub(&surrogate.f_detach()?)?)?)
    }
}

/// `target · keys` `[B, D]` in memory of its own, and the sums of the target's rows `[B, 1]` unless they are 1 by
/// construction.
fn target_times_keys(target: Target<'_>, batch_size: i64, keys: &Tensor) -> Result<(Tensor, Option<Tensor>)> {
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
            Ok((target.average_of_keys(keys)?, None))
        }
    }
}

/// The loss of every query `[B, 1]`, and its gradient with respect to the queries `[B, D]`, already divided by the
/// temperature, as is `query`. `wanted` is `target · keys`; its memory is used up. Without `row_sum`, rows sum to 1.
fn row_losses_and_slope(
    query: &Tensor,
    keys: &Tensor,
    wanted: Tensor,
    row_sum: Option<&Tensor>,
) -> Result<(Tensor, Tensor)> {
    let batch_size = query.size()[0];
    let (most_rows, most_columns) = if query.device().is_cuda() { TILE_GPU } else { TILE_CPU };
    let key_blocks = keys.f_split(most_columns.min(keys.size()[0]).max(1), 0)?;
    let mut row_losses = Vec::new();
    for first in (0..batch_size).step_by(most_rows) {
        let rows = |tensor: &Tensor| tensor.f_narrow(0, first, (most_rows as i64).min(batch_size - first));
        let (query, mut wanted) = (rows(query)?, rows(&wanted)?);
        let row_sum = row_sum.map(rows).transpose()?;
        let weighted = |tensor: Tensor| match &row_sum {
            Some(row_sum) => tensor.f_mul(row_sum),
            None => Ok(tensor),
        };
        let (log_sum, expected_key) = log_sum_and_expected_key(&query, &key_blocks)?;
        let of_wanted = query.f_mul(&wanted)?.f_sum_dim_intlist(-1, true, None)?;
        row_losses.push(weighted(log_sum)?.f_sub(&of_wanted)?);
        let _ = wanted.f_neg_()?.f_add_(&weighted(expected_key)?)?;
    }
    Ok((Tensor::f_cat(&row_losses, 0)?, wanted))
}

/// For queries `[rows, D]`: logsumexp of their logits `[rows, 1]`, and the key that their softmax expects,
/// `softmax(logits) · keys` `[rows, D]`. Keys come in blocks; what is summed so far is relative to the largest logit so
/// far, as fused attention does it: a query's expected key is what attention would give with keys for values.
fn log_sum_and_expected_key(query: &Tensor, key_blocks: &[Tensor]) -> Result<(Tensor, Tensor)> {
    let of_row = [query.size()[0], 1];
    let mut largest = query.f_new_empty(of_row, (query.f_kind()?, query.device()))?.f_fill_(f64::NEG_INFINITY)?;
    let mut sum = largest.f_zeros_like()?;
    let mut expected_key = query.f_zeros_like()?;
    for keys in key_blocks {
        let mut logits = query.f_mm(&keys.f_transpose(0, 1)?)?; // [rows, columns]
        let larger = largest.f_maximum(&logits.f_amax(-1, true)?)?;
        let weights = logits.f_sub_(&larger)?.f_exp_()?;
        let shrunk = largest.f_sub(&larger)?.f_exp_()?;
        let _ = sum.f_mul_(&shrunk)?.f_add_(&weights.f_sum_dim_intlist(-1, true, None)?)?;
        expected_key = expected_key.f_mul_(&shrunk)?.f_addmm_(&weights, keys)?;
        largest = larger;
    }
    Ok((sum.f_log()?.f_add_(&largest)?, expected_key.f_div_(&sum)?))
}

/// `Double` if one of the two is, else `Float`: half-precision inputs are computed in single precision.
pub(super) fn common_kind(q: &Tensor, k: &Tensor) -> Result<Kind> {
    let double = q.f_kind()? == Kind::Double || k.f_kind()? == Kind::Double;
    Ok(if double { Kind::Double } else { Kind::Float })
}

/// Rows of length 1 in numbers of `kind`; rows without a number above 1e-12 count as zero.
pub(crate) fn normalize_rows(rows: &Tensor, kind: Kind) -> Result<Tensor> {
    const SHORTEST: f64 = 1e-12;
    let rows = rows.f_to_kind(kind)?;
    // Brought to the order of 1 first, since the square of a length leaves the range of numbers long before the length.
    let order = {
        let _no_grad = no_grad_guard();
        let mut order = rows.f_abs()?.f_amax(-1, true)?;
        let counts_as_zero = order.f_le_tensor(&scalar(SHORTEST)?)?;
        order.f_masked_fill_(&counts_as_zero, 1.0)?
    };
    let rows = rows.f_div(&order)?;
    // At least 1 now, unless the row counts as zero: then it is divided by a half.
    let square = rows.f_square()?.f_sum_dim_intlist(-1, true, None)?;
    Ok(rows.f_div(&square.f_maximum(&scalar(0.25)?)?.f_sqrt()?)?)
}
