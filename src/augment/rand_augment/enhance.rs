//! The operations that blend an image with another version of itself, pixel by pixel: color and sharpness.

use tch::{Kind, Tensor};

use super::AugmentOperation;
use crate::augment::{chosen, on_some};
use crate::error::Result;
use crate::numbers::to_device;

/// Applies the operations of this kind, one or none per image.
pub(super) fn apply(images: Tensor, operations: &[Option<AugmentOperation>]) -> Result<Tensor> {
    let (positions, factors) = chosen(operations, |operation| match operation {
        Some(AugmentOperation::Color { factor }) => Some(*factor as f32),
        _ => None,
    });
    let images =
        on_some(images, &positions, |images| blend(&gray(images)?, &images.f_to_kind(Kind::Float)?, &factors))?;
    let (positions, factors) = chosen(operations, |operation| match operation {
        Some(AugmentOperation::Sharpness { factor }) => Some(*factor as f32),
        _ => None,
    });
    on_some(images, &positions, |images| blend(&smooth(images)?, &images.f_to_kind(Kind::Float)?, &factors))
}

/// `other + factor * (values - other)` as bytes, with one factor for each entry of the first dimension.
///
/// The fraction is dropped and the precision single, as in Pillow. Both tensors are `Float` and hold whole numbers.
pub(super) fn blend(other: &Tensor, values: &Tensor, factors: &[f32]) -> Result<Tensor> {
    let mut shape = vec![1; other.dim()];
    shape[0] = factors.len() as i64;
    let factors = to_device(&Tensor::f_from_slice(factors)?, values.device())?.f_view(shape.as_slice())?;
    let mut blended = values.f_sub(other)?.f_mul(&factors)?.f_add(other)?;
    Ok(blended.f_clamp_(0.0, 255.0)?.f_to_kind(Kind::Uint8)?)
}

/// The gray of every pixel as Pillow computes it, `[N, 1, H, W]`, `Float`, whole numbers.
pub(super) fn gray(images: &Tensor) -> Result<Tensor> {
    // ITU-R BT.601 in units of 2^-16. All sums are below 2^24, and therefore exact.
    const WEIGHTS: [f32; 3] = [19595.0, 38470.0, 7471.0];
    let weights = to_device(&Tensor::f_from_slice(&WEIGHTS)?, images.device())?.f_view([1, 3, 1, 1])?;
    let weighted = images.f_to_kind(Kind::Float)?.f_mul(&weights)?;
    let mut sum = weighted.f_sum_dim_intlist([1].as_slice(), true, Kind::Float)?;
    let half = f64::from(1 << 15);
    Ok(sum.f_add_scalar_(half)?.f_mul_scalar_(0.5 / half)?.f_floor_()?)
}

/// Pillow's smoothing, `Float`, whole numbers: the mean over a pixel, which counts five times, and its eight neighbors.
/// The pixels of the border stay as they are.
fn smooth(images: &Tensor) -> Result<Tensor> {
    let smoothed = images.f_to_kind(Kind::Float)?;
    let (_, _, height, width) = images.size4()?;
    if height < 3 || width < 3 {
        return Ok(smoothed);
    }
    let sums = smoothed.f_avg_pool2d([3, 3], [1, 1], [0, 0], false, false, 1)?;
    let mut center = smoothed.f_narrow(2, 1, height - 2)?.f_narrow(3, 1, width - 2)?;
    let mut weighted = center.f_add(&center)?.f_mul_scalar_(2.0)?.f_add(&sums)?;
    // The weights sum to 13. No sum lies halfway between two multiples of 13, so that rounding errors do not matter.
    center.f_copy_(&weighted.f_mul_scalar_(1.0 / 13.0)?.f_add_scalar_(0.5)?.f_floor_()?)?;
    Ok(smoothed)
}
