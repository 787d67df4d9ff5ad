//! Cross-entropy of normalised queries and keys against a soft target, in blocks of rows.
//!
//! With `l_i = q_i kᵀ / τ` and `s_i = Σ_j t_ij`, row `i` of the loss is `s_i logsumexp(l_i) - q_i · y_i / τ` where
//! `y = target · k`: the target meets the keys, not the logits, so a sparse target stays sparse. The gradient with
//! respect to `q_i` is `(s_i softmax(l_i) k - y_i) / τ`. Both need the logits of a row only for a moment.

use tch::{Kind, Tensor};

use super::{Target, check_pair};
use crate::error::{Error, Result, check_device, check_float, check_shape};
use crate::numbers::scalar;

/// Logits in flight at a time: a block that fits the cache of a CPU core, and is work enough for a GPU.
const BLOCK_LOGITS_CPU: i64 = 1 << 20;
const BLOCK_LOGITS_GPU: i64 = 1 << 25;

/// The loss that the three objectives are cases of; see [the module](super) for its definition.
///
/// `q` `[B, D]`, `k` `[N, D]`, taken as a constant, `target` `[B, N]`; returns a scalar.
///
/// # Errors
///
/// [`Error::Shape`], [`Error::Kind`] or [`Error::Device`] if `q`, `k` and `target` do not fit together,
/// [`Error::Value`] unless the temperature is positive and finite.
pub fn soft_cross_entropy(q: &Tensor, k: &Tensor, target: Target<'_>, temperature: f64) -> Result<Tensor> {
    check_pair(q, k)?;
    if !(temperature.is_finite() && temperature > 0.0) {
        return Err(Error::Value {
            name: "temperature",
            expected: "positive and finite".to_owned(),
            actual: temperature,
        });
    }
    let kind = common_kind(q, k)?;
    let query = normalize_rows(q, kind)?.f_div(&scalar(temperature)?)?;
    let keys = normalize_rows(&k.f_detach()?, kind)?;
    let (wanted, row_sum) = target_times_keys(target, q.size()[0], &keys)?;

    let needs_gradient = query.requires_grad();
    let (log_sum, expected) = log_sum_and_expected_key(&query.f_detach()?, &keys, needs_gradient)?;
    let weighted = |rows: Tensor| match &row_sum {
        Some(row_sum) => rows.f_mul(row_sum),
        None => Ok(rows),
    };
    let mut loss = weighted(log_sum)?.f_sub(&query.f_mul(&wanted)?.f_sum_dim_intlist(-1, true, None)?)?;
    if let Some(expected) = expected {
        // Adds nothing to the value, and gives logsumexp its gradient.
        let slope = query.f_mul(&weighted(expected)?)?.f_sum_dim_intlist(-1, true, None)?;
        loss = loss.f_add(&slope.f_sub(&slope.f_detach()?)?)?;
    }
    Ok(loss.f_mean(kind)?)
}

/// `target · keys` `[B, D]`, and the sums of the target's rows `[B, 1]` unless they are 1 by construction.
fn target_times_keys(target: Target<'_>, batch_size: i64, keys: &Tensor) -> Result<(Tensor, Option<Tensor>)> {
    match target {
        Target::Dense(target) => {
            check_shape("target", target, &[("B", Some(batch_size)), ("N", Some(keys.size()[0]))])?;
            check_float("target", target)?;
            check_device("target", target, keys.device())?;
            let target = target.f_detach()?.f_to_kind(keys.f_kind()?)?;
            Ok((target.f_mm(keys)?, Some(target.f_sum_dim_intlist(-1, true, None)?)))
        }
        Target::Sparse(target) => {
            let actual = [target.batch_size(), target.columns()];
            if actual != [batch_size, keys.size()[0]] {
                let expected = format!("[{batch_size}, {}]", keys.size()[0]);
                return Err(Error::Shape { name: "target", expected, actual: actual.to_vec() });
            }
            Ok((target.average_of_keys(keys)?, None))
        }
    }
}

/// For every query `[B, D]`, already divided by the temperature: logsumexp of its logits `[B, 1]`, and, where it is
/// asked for, the key that its softmax expects, `softmax(logits) · keys` `[B, D]`.
fn log_sum_and_expected_key(query: &Tensor, keys: &Tensor, expected_key: bool) -> Result<(Tensor, Option<Tensor>)> {
    let (batch_size, columns) = (query.size()[0], keys.size()[0]);
    let budget = if query.device().is_cuda() { BLOCK_LOGITS_GPU } else { BLOCK_LOGITS_CPU };
    let block_rows = (budget / columns.max(1)).clamp(1, batch_size);
    let (mut log_sums, mut expected_keys) = (Vec::new(), Vec::new());
    let transposed = keys.f_transpose(0, 1)?;
    for first in (0..batch_size).step_by(block_rows as usize) {
        let rows = query.f_narrow(0, first, block_rows.min(batch_size - first))?;
        let mut logits = rows.f_mm(&transposed)?; // [rows, N]
        let largest = logits.f_amax(-1, true)?;
        let exponentials = logits.f_sub_(&largest)?.f_exp_()?;
        let sum = exponentials.f_sum_dim_intlist(-1, true, None)?;
        if expected_key {
            expected_keys.push(exponentials.f_mm(keys)?.f_div(&sum)?);
        }
        log_sums.push(sum.f_log()?.f_add(&largest)?);
    }
    let expected = if expected_key { Some(Tensor::f_cat(&expected_keys, 0)?) } else { None };
    Ok((Tensor::f_cat(&log_sums, 0)?, expected))
}

/// `Double` if one of the two is, else `Float`: half-precision inputs are computed in single precision.
pub(super) fn common_kind(q: &Tensor, k: &Tensor) -> Result<Kind> {
    let double = q.f_kind()? == Kind::Double || k.f_kind()? == Kind::Double;
    Ok(if double { Kind::Double } else { Kind::Float })
}

/// Rows of length 1 in numbers of `kind`; a row of zeros stays zero.
pub(crate) fn normalize_rows(rows: &Tensor, kind: Kind) -> Result<Tensor> {
    const SHORTEST: f64 = 1e-12;
    let rows = rows.f_to_kind(kind)?;
    // In double precision, since the square of a length leaves the range of a single long before the length does.
    let square = rows.f_to_kind(Kind::Double)?.f_square()?.f_sum_dim_intlist(-1, true, None)?;
    let length = square.f_maximum(&scalar(SHORTEST * SHORTEST)?)?.f_sqrt()?;
    Ok(rows.f_div(&length.f_to_kind(kind)?)?)
}
