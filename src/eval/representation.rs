//! How features are spread, without labels: alignment, uniformity and effective rank.

use tch::{Device, Kind, Tensor};

use super::neighbors::{check_features, check_finite, check_pair, normalize};
use crate::error::{Error, Result, check_in, check_shape};
use crate::numbers::scalar;

/// Limit of the smaller side of features: a larger matrix of their products would exceed 512 MiB.
const MAX_SIDE: i64 = 1 << 13;

/// Limit of the similarities in a temporary matrix.
const BLOCK_NUMBERS: i64 = 1 << 22;

/// The alignment of two views (Wang and Isola, 2020): the mean of `‖x - y‖²` over pairs of L2-normalized features, from
/// 0 (equal) over 2 (orthogonal) to 4. Lower is better.
///
/// Row `i` of `features` and of `other_features`, both `[N, D]`, are of two views of image `i`; they are normalized
/// here.
///
/// # Errors
///
/// [`Error::Shape`], [`Error::Kind`] or [`Error::Device`] if the tensors do not match or are empty, [`Error::Value`]
/// for features that are not finite.
pub fn alignment(features: &Tensor, other_features: &Tensor) -> Result<f64> {
    let _no_grad = tch::no_grad_guard();
    check_pair(("features", features), ("other_features", other_features))?;
    let count = features.size()[0];
    check_shape("other_features", other_features, &[("N", Some(count)), ("D", None)])?;
    check_finite("features", features)?;
    check_finite("other_features", other_features)?;
    let difference = normalize(features)?.f_sub(&normalize(other_features)?)?;
    Ok({ difference }.f_square_()?.f_sum(Kind::Double)?.f_double_value(&[])? / count as f64)
}

/// The uniformity of features (Wang and Isola, 2020): the logarithm of the mean of `exp(-2 ‖x - y‖²)` over all pairs of
/// different rows, L2-normalized, from -8 (of two rows that point in opposite directions) to 0 (all are equal); about
/// -4 for directions at random in many dimensions. Lower is better.
///
/// `features` is `[N, D]`; its rows are normalized here, and a row of zeros counts as orthogonal to all others. Works
/// in blocks of rows: temporary memory does not grow with `N²`, but time does.
///
/// # Errors
///
/// [`Error::Shape`] or [`Error::Kind`] unless `features` is `[N, D]` of a floating-point dtype with at least two rows,
/// [`Error::Value`] for features that are not finite.
pub fn uniformity(features: &Tensor) -> Result<f64> {
    let _no_grad = tch::no_grad_guard();
    check_features("features", features)?;
    let count = features.size()[0];
    if count < 2 {
        let expected = "[N, D] with at least two rows".to_owned();
        return Err(Error::Shape { name: "features", expected, actual: features.size() });
    }
    check_finite("features", features)?;
    let rows = normalize(features)?;
    let block = (BLOCK_NUMBERS / count).max(1);
    let mut sum = 0.0;
    for first in (0..count).step_by(block as usize) {
        // Every pair once: above the diagonal.
        let others = rows.f_narrow(0, first, count - first)?;
        let similarities = rows.f_narrow(0, first, block.min(count - first))?.f_mm(&others.f_transpose(0, 1)?)?;
        // -2 ‖x - y‖² = 4 x·y - 4 for rows of length 1.
        let potentials = { similarities }.f_sub_scalar_(1.0)?.f_mul_scalar_(4.0)?.f_exp_()?.f_triu_(1)?;
        sum += potentials.f_sum(Kind::Double)?.f_double_value(&[])?;
    }
    let pairs = count as f64 * (count - 1) as f64 / 2.0;
    Ok((sum / pairs).ln())
}

/// The effective rank of features (Roy and Vetterli, 2007; RankMe of Garrido et al., 2023): the exponential of the
/// entropy of the singular values divided by their sum. From 1 (all rows are multiples of one) to the smaller side of
/// the matrix (all singular values are equal); 0 if all features are 0.
///
/// `features` is `[N, D]`, taken as it is: neither centered nor normalized. The singular values are the roots of the
/// eigenvalues of the smaller matrix of products, in double precision; those that are 0 but for rounding count as 0.
///
/// # Errors
///
/// [`Error::Shape`] or [`Error::Kind`] unless `features` is `[N, D]` of a floating-point dtype with at least one row,
/// [`Error::Value`] if both sides exceed 8,192, and for features that are not finite.
pub fn effective_rank(features: &Tensor) -> Result<f64> {
    let _no_grad = tch::no_grad_guard();
    check_features("features", features)?;
    let (count, width) = features.size2()?;
    check_in("min(N, D)", count.min(width), 1..=MAX_SIDE)?;
    check_finite("features", features)?;
    let features = features.f_to_kind(Kind::Double)?;
    let largest = features.f_abs()?.f_max()?.f_double_value(&[])?;
    if largest == 0.0 {
        return Ok(0.0);
    }
    // Scaling changes no share, and squares of what is at most 1 do not overflow.
    let features = features.f_div(&scalar(largest)?)?;
    let transposed = features.f_transpose(0, 1)?;
    let products = if count < width { features.f_mm(&transposed)? } else { transposed.f_mm(&features)? };
    let squares = Vec::<f64>::try_from(products.f_linalg_eigvalsh("L")?.f_to_device(Device::Cpu)?)?;
    Ok(effective_number(&squares))
}

/// The exponential of the entropy of the roots of `squares`, eigenvalues in increasing order, as shares of their sum.
fn effective_number(squares: &[f64]) -> f64 {
    let rounding = squares.last().copied().unwrap_or_default() * squares.len() as f64 * f64::EPSILON;
    let roots = || squares.iter().filter(|square| **square > rounding).map(|square| square.sqrt());
    let sum: f64 = roots().sum();
    let entropy: f64 = roots().map(|root| root / sum).map(|share| -share * share.ln()).sum();
    entropy.exp()
}
