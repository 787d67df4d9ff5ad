//! Principal component analysis of features.

use tch::{Device, Kind, Tensor};

use super::neighbors::{check_features, check_finite};
use crate::error::{Result, check_device, check_float, check_in, check_shape};

/// Limit of the width: the covariance of wider features would exceed 512 MiB.
const MAX_WIDTH: i64 = 1 << 13;

/// The principal components of features, in order of decreasing variance.
#[derive(Debug)]
pub struct PrincipalComponents {
    /// The mean of the features, `[D]` of `Double`.
    pub mean: Tensor,
    /// The components, `[count, D]` of `Double`: orthonormal rows. The entry of largest magnitude in each row is
    /// positive, so that a plot is not mirrored from one run to the next.
    pub components: Tensor,
    /// The share of the total variance that each component explains, from 0 to 1; all 0 if all features are equal.
    pub explained: Vec<f64>,
}

/// The `count` principal components of features `[N, D]`.
///
/// They are the eigenvectors of the covariance matrix, in double precision.
///
/// # Errors
///
/// [`Error::Shape`](crate::Error::Shape) or [`Error::Kind`](crate::Error::Kind) unless `features` is `[N, D]` of a
/// floating-point dtype, [`Error::Value`](crate::Error::Value) unless `1 <= count <= D`, and for features that are not
/// finite or wider than 8,192.
pub fn principal_components(features: &Tensor, count: i64) -> Result<PrincipalComponents> {
    let _no_grad = tch::no_grad_guard();
    check_features("features", features)?;
    let (images, width) = features.size2()?;
    check_in("D", width, ..=MAX_WIDTH)?;
    check_in("count", count, 1..=width)?;
    check_finite("features", features)?;
    let features = features.f_to_kind(Kind::Double)?;
    let mean = features.f_mean_dim(0, false, None)?;
    let centered = features.f_sub(&mean)?;
    let covariance = centered.f_transpose(0, 1)?.f_mm(&centered)?.f_div_scalar_((images - 1).max(1))?; // [D, D]
    let (variances, directions) = covariance.f_linalg_eigh("L")?; // in increasing order; directions are columns
    let components = directions.f_narrow(1, width - count, count)?.f_flip([1])?.f_transpose(0, 1)?.f_contiguous()?;
    let extreme = components.f_gather(1, &components.f_abs()?.f_argmax(1, true)?, false)?;
    let components = components.f_mul(&extreme.f_sign()?)?;
    let variances = Vec::try_from(variances.f_to_device(Device::Cpu)?)?;
    Ok(PrincipalComponents { mean, components, explained: shares(&variances, count as usize) })
}

/// The `count` largest of the variances, which increase, as shares of their sum. Rounding makes some slightly negative.
fn shares(variances: &[f64], count: usize) -> Vec<f64> {
    let positive = |variance: &f64| variance.max(0.0);
    let total: f64 = variances.iter().map(positive).sum();
    let total = if total > 0.0 { total } else { 1.0 };
    variances.iter().rev().take(count).map(|variance| positive(variance) / total).collect()
}

impl PrincipalComponents {
    /// Projects features `[N, D]` onto the components: `[N, count]` of `Double`. The mean of the original features maps
    /// to 0.
    ///
    /// # Errors
    ///
    /// [`Error::Shape`](crate::Error::Shape), [`Error::Kind`](crate::Error::Kind) or
    /// [`Error::Device`](crate::Error::Device) unless these are features of the same width, on the same device.
    pub fn project(&self, features: &Tensor) -> Result<Tensor> {
        let _no_grad = tch::no_grad_guard();
        check_shape("mean", &self.mean, &[("D", None)])?;
        let width = Some(self.mean.size()[0]);
        check_shape("components", &self.components, &[("count", None), ("D", width)])?;
        check_shape("features", features, &[("N", None), ("D", width)])?;
        check_float("features", features)?;
        check_device("features", features, self.mean.device())?;
        Ok(features.f_to_kind(Kind::Double)?.f_sub(&self.mean)?.f_mm(&self.components.f_transpose(0, 1)?)?)
    }
}
