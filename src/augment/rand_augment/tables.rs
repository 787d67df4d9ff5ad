//! The operations that replace every value by an entry of a table: one table of 256 bytes for an image or a channel.

use tch::{Device, Kind, Tensor};

use super::AugmentOperation;
use super::enhance::{blend, gray};
use crate::augment::{chosen, on_some};
use crate::error::Result;
use crate::numbers::{range, scalar, to_device};

/// Applies the operations of this kind, one or none per image.
pub(super) fn apply(mut images: Tensor, operations: &[Option<AugmentOperation>]) -> Result<Tensor> {
    use AugmentOperation::*;
    let (positions, tables) = chosen(operations, |operation| operation.and_then(fixed_table));
    images = on_some(images, &positions, |images| {
        let tables = Tensor::f_from_slice(&tables.concat())?.f_view([-1, 1, 256])?;
        look_up(images, &to_device(&tables, images.device())?)
    })?;
    let (positions, factors) = chosen(operations, |operation| match operation {
        Some(Contrast { factor }) => Some(*factor as f32),
        _ => None,
    });
    images = on_some(images, &positions, |images| look_up(images, &contrast_tables(images, &factors)?))?;
    let (positions, _) = chosen(operations, |operation| (*operation == Some(AutoContrast)).then_some(()));
    images = on_some(images, &positions, |images| look_up(images, &stretching_tables(images)?))?;
    let (positions, _) = chosen(operations, |operation| (*operation == Some(Equalize)).then_some(()));
    on_some(images, &positions, |images| look_up(images, &equalizing_tables(images)?))
}

/// The table of an operation that does not depend on the image.
fn fixed_table(operation: AugmentOperation) -> Option<[u8; 256]> {
    let of = |new: &dyn Fn(u8) -> u8| Some(std::array::from_fn(|value| new(value as u8)));
    match operation {
        AugmentOperation::Invert => of(&|value| 255 - value),
        AugmentOperation::Posterize { bits } => of(&|value| value & (0xFF00_u16 >> bits) as u8),
        AugmentOperation::Solarize { threshold } => {
            of(&|value| if i64::from(value) < threshold { value } else { 255 - value })
        }
        AugmentOperation::SolarizeAdd { amount } => {
            of(&|value| if value < 128 { (i64::from(value) + amount).min(255) as u8 } else { value })
        }
        // `as` saturates, and drops the fraction as Pillow does.
        AugmentOperation::Brightness { factor } => of(&|value| (factor as f32 * f32::from(value)) as u8),
        _ => None,
    }
}

/// Replaces each value of `images` `[N, 3, H, W]` by its entry in `tables`, `[N, 3, 256]` or `[N, 1, 256]` `Uint8`.
fn look_up(images: &Tensor, tables: &Tensor) -> Result<Tensor> {
    let (count, channels, height, width) = images.size4()?;
    let values = images.f_reshape([count, channels, height * width])?.f_to_kind(Kind::Int64)?;
    let changed = tables.f_expand([count, channels, 256], false)?.f_gather(2, &values, false)?;
    Ok(changed.f_view([count, channels, height, width])?)
}

/// All values of a byte, `0..256`, of a kind.
fn all_values(kind: Kind, device: Device) -> Result<Tensor> {
    Ok(range(256, device)?.f_to_kind(kind)?)
}

/// Blends each image with its mean gray, rounded: `[N, 1, 256]`.
fn contrast_tables(images: &Tensor, factors: &[f32]) -> Result<Tensor> {
    let gray = gray(images)?.f_flatten(1, -1)?.f_to_kind(Kind::Double)?; // [N, H W]
    let mut mean = gray.f_mean_dim(1, true, None)?;
    let mean = mean.f_add_scalar_(0.5)?.f_floor_()?.f_to_kind(Kind::Float)?.f_unsqueeze(1)?; // [N, 1, 1]
    blend(&mean, &all_values(Kind::Float, images.device())?, factors)
}

/// Stretches the values of each channel so that the lowest becomes 0 and the highest 255: `[N, 3, 256]`. A channel of
/// one value stays as it is.
fn stretching_tables(images: &Tensor) -> Result<Tensor> {
    let device = images.device();
    let channels = images.f_flatten(2, -1)?;
    let lowest = channels.f_amin([2], true)?.f_to_kind(Kind::Double)?; // [N, 3, 1]
    let span = channels.f_amax([2], true)?.f_to_kind(Kind::Double)?.f_sub(&lowest)?;
    // In Pillow's order of operations and precision, so that the fraction to drop is the same.
    let scale = scalar(255.0)?.f_div(&span)?;
    let values = all_values(Kind::Double, device)?;
    let mut stretched = values.f_mul(&scale)?.f_sub(&lowest.f_mul(&scale)?)?;
    let stretched = stretched.f_clamp_(0.0, 255.0)?;
    Ok(stretched.f_where_self(&span.f_gt_tensor(&scalar(0.0)?)?, &values)?.f_to_kind(Kind::Uint8)?)
}

/// Equalizes the histogram of each channel: `[N, 3, 256]`. The new value of a value is the number of pixels below it
/// divided by the number of pixels per step, in integers. A channel with too few pixels outside its highest value stays
/// as it is.
fn equalizing_tables(images: &Tensor) -> Result<Tensor> {
    let device = images.device();
    let channels = images.f_flatten(2, -1)?.f_to_kind(Kind::Int64)?;
    let (count, planes, pixels) = channels.size3()?;
    let mut histogram = Tensor::f_zeros([count, planes, 256], (Kind::Int64, device))?;
    let histogram = histogram.f_scatter_add_(2, &channels, &channels.f_ones_like()?)?;
    let in_highest = histogram.f_gather(2, &channels.f_amax([2], true)?, false)?; // [N, 3, 1]
    let integer = |value: i64| -> Result<Tensor> { Ok(Tensor::f_from_slice(&[value])?.f_squeeze()?) };
    let step = integer(pixels)?.f_sub(&in_highest)?.f_floor_divide(&integer(255)?)?;
    let below = histogram.f_cumsum(2, Kind::Int64)?.f_sub(&histogram)?;
    let divisor = step.f_maximum(&Tensor::f_ones([], (Kind::Int64, device))?)?;
    let mut table = below.f_add(&step.f_floor_divide(&integer(2)?)?)?.f_floor_divide(&divisor)?;
    let equalized = table.f_clamp_max_(255)?;
    let values = all_values(Kind::Int64, device)?;
    Ok(equalized.f_where_self(&step.f_gt_tensor(&integer(0)?)?, &values)?.f_to_kind(Kind::Uint8)?)
}
