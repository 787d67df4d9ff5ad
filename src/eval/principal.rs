//! Principal components: the directions in which features differ most.

use tch::{Device, Kind, Tensor};

use super::neighbours::{check_features, check_finite};
use crate::error::{Result, check_device, check_float, check_shape, check_value};

/// The covariance of wider features would take more than 512 MiB.
const MOST_WIDTH: i64 = 1 << 13;

/// The directions in which features differ most, by falling variance.
#[derive(Debug)]
pub struct PrincipalComponents {
    /// The mean of the features, `[D]` of `Double`.
    pub mean: Tensor,
    /// The directions, `[count, D]` of `Double`: rows of length 1, each at right angles to the others. The entry of
    /// largest magnitude of each is positive, so that a map is not mirrored from one time to the next.
    pub components: Tensor,
    /// What share of the whole variance lies in each direction, from 0 to 1; all 0 where the features are all alike.
    pub explained: Vec<f64>,
}

/// The `count` principal components of features `[N, D]`.
///
/// They are the eigenvectors of the covariance, in double precision.
///
/// # Errors
///
/// [`Error::Shape`](crate::Error::Shape) or [`Error::Kind`](crate::Error::Kind) unless these are features,
/// [`Error::Value`](crate::Error::Value) unless `1 <= count <= D`, for features that are not finite or wider than 8,192.
pub fn principal_components(features: &Tensor, count: i64) -> Result<PrincipalComponents> {
    let _no_grad = tch::no_grad_guard();
    check_features("features", features)?;
    let (images, width) = features.size2()?;
    check_value("D", width as f64, &format!("at most {MOST_WIDTH}"), width <= MOST_WIDTH)?;
    check_value("count", count as f64, &format!("between 1 and the width {width}"), (1..=width).contains(&count))?;
    check_finite("features", features)?;
    let features = features.f_to_kind(Kind::Double)?;
    let mean = features.f_mean_dim(0, false, None)?;
    let centred = features.f_sub(&mean)?;
    let covariance = centred.f_transpose(0, 1)?.f_mm(&centred)?.f_div_scalar_((images - 1).max(1))?; // [D, D]
    let (variances, directions) = covariance.f_linalg_eigh("L")?; // rising; directions are columns
    let components = directions.f_narrow(1, width - count, count)?.f_flip([1])?.f_transpose(0, 1)?.f_contiguous()?;
    let extreme = components.f_gather(1, &components.f_abs()?.f_argmax(1, true)?, false)?;
    let components = components.f_mul(&extreme.f_sign()?)?;
    let variances = Vec::try_from(variances.f_to_device(Device::Cpu)?)?;
    Ok(PrincipalComponents { mean, components, explained: shares(&variances, count as usize) })
}

/// The `count` last of rising variances, as shares of their sum. Rounding leaves some a little below 0.
fn shares(variances: &[f64], count: usize) -> Vec<f64> {
    let positive = |variance: &f64| variance.max(0.0);
    let whole: f64 = variances.iter().map(positive).sum();
    let whole = if whole > 0.0 { whole } else { 1.0 };
    variances.iter().rev().take(count).map(|variance| positive(variance) / whole).collect()
}

impl PrincipalComponents {
    /// Where features `[N, D]` lie along the components, `[N, count]` of `Double`; their mean lies at 0.
    ///
    /// # Errors
    ///
    /// [`Error::Shape`](crate::Error::Shape), [`Error::Kind`](crate::Error::Kind) or
    /// [`Error::Device`](crate::Error::Device) unless these are features of the same width on the same device.
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
