//! Crop and resize, and flip. Resizing is a matrix product over the rows and one over the columns of every image.

use tch::{Device, Kind, Tensor};

use super::{ViewParameters, chosen, full_value, on_some};
use crate::error::Result;
use crate::numbers::{range, scalar, to_device};

/// The rows or columns of an image that are resized to a side of a view.
struct Stretch {
    start: i64,
    length: i64,
    reversed: bool,
}

/// Crops every image, resizes the crop to `size` x `size` pixels (bicubic with antialiasing, as in Pillow and
/// torchvision) and flips it. `[B, 3, H, W]` bytes or floats to `[B, 3, size, size]` `Float` in `0..=1`.
pub(super) fn crop_resize_flip(images: &Tensor, parameters: &[ViewParameters], size: i64) -> Result<Tensor> {
    let (_, _, height, width) = images.size4()?;
    let device = images.device();
    let rows = parameters.iter().map(|ViewParameters { crop, .. }| Stretch {
        start: crop.top,
        length: crop.height,
        reversed: false,
    });
    let columns = parameters.iter().map(|ViewParameters { crop, flip, .. }| Stretch {
        start: crop.left,
        length: crop.width,
        reversed: *flip,
    });
    // The same product scales bytes to 0..=1.
    let vertical = bicubic_matrices(rows, height, size, 1.0, device)?;
    let horizontal = bicubic_matrices(columns, width, size, 1.0 / full_value(images)?, device)?;
    Ok(separable(&images.f_to_kind(Kind::Float)?, &vertical, &horizontal)?.f_clamp_(0.0, 1.0)?)
}

/// Flips images that are cropped already. `[B, 3, H, W]` bytes or floats to `Float` in `0..=1`.
pub(super) fn flip(images: &Tensor, parameters: &[ViewParameters]) -> Result<Tensor> {
    let images = images.f_to_kind(Kind::Float)?.f_mul(&scalar(1.0 / full_value(images)?)?)?;
    let (positions, _) = chosen(parameters, |parameters| parameters.flip.then_some(()));
    on_some(images, &positions, |images| Ok(images.f_flip([3])?))
}

/// `vertical * image * horizontalᵀ` for every image and channel: `[B, C, H, W]` with `[B, h, H]` and `[B, w, W]` gives
/// `[B, C, h, w]`.
pub(super) fn separable(images: &Tensor, vertical: &Tensor, horizontal: &Tensor) -> Result<Tensor> {
    let (batch_size, channels, height, width) = images.size4()?;
    let narrowed = images
        .f_reshape([batch_size, channels * height, width])?
        .f_bmm(&horizontal.f_transpose(1, 2)?)?
        .f_view([batch_size, channels, height, horizontal.size()[1]])?;
    // Channel by channel, because one product over all would first copy the matrices for each channel.
    let planes: Vec<Tensor> =
        narrowed.f_unbind(1)?.iter().map(|plane| vertical.f_bmm(plane)).collect::<std::result::Result<_, _>>()?;
    Ok(Tensor::f_stack(&planes, 1)?)
}

/// The matrices `[B, size, side]` that resize a stretch of a side of `side` pixels to `size` pixels.
///
/// Only the few nonzero weights of a row are computed here and sent to the device, which scatters them.
fn bicubic_matrices(
    stretches: impl ExactSizeIterator<Item = Stretch> + Clone,
    side: i64,
    size: i64,
    gain: f64,
    device: Device,
) -> Result<Tensor> {
    let batch_size = stretches.len() as i64;
    let longest = stretches.clone().map(|stretch| stretch.length).max().unwrap_or(1);
    let taps = 2 * support(longest, size).ceil() as usize + 1;
    let rows = stretches.len() * size as usize;
    let mut firsts = Vec::with_capacity(rows);
    let mut weights = vec![0_f32; rows * taps];
    let mut row_weights = weights.chunks_exact_mut(taps);
    for Stretch { start, length, reversed } in stretches {
        for (row, weights) in (0..size).zip(&mut row_weights) {
            let place = if reversed { size - 1 - row } else { row };
            firsts.push(start + write_bicubic_weights(length, size, place, gain, weights));
        }
    }
    let firsts = to_device(&Tensor::f_from_slice(&firsts)?, device)?.f_reshape([batch_size, size, 1])?;
    let weights = to_device(&Tensor::f_from_slice(&weights)?, device)?.f_reshape([batch_size, size, taps as i64])?;
    // Places past the end of the side have weight zero and may be added anywhere.
    let places = firsts.f_add(&range(taps as i64, device)?)?.f_clamp_max_(side - 1)?;
    let mut matrices = Tensor::f_zeros([batch_size, size, side], (Kind::Float, device))?;
    Ok(matrices.f_scatter_add_(2, &places, &weights)?)
}

/// How far a resized pixel reads from its center, in pixels of the source.
fn support(length: i64, size: i64) -> f64 {
    2.0 * (length as f64 / size as f64).max(1.0)
}

/// Writes the weights, which sum to `gain`, by which pixel `place` of `size` reads a stretch of `length` pixels, and
/// returns the first pixel that it reads. For antialiasing, the cubic widens when the image shrinks.
fn write_bicubic_weights(length: i64, size: i64, place: i64, gain: f64, weights: &mut [f32]) -> i64 {
    let scale = length as f64 / size as f64;
    let center = scale * (place as f64 + 0.5);
    let support = support(length, size);
    let first = ((center - support + 0.5) as i64).max(0);
    let end = ((center + support + 0.5) as i64).min(length);
    let mut sum = 0.0;
    for (weight, position) in weights.iter_mut().zip(first..end) {
        let value = cubic((position as f64 + 0.5 - center) / scale.max(1.0));
        sum += value;
        *weight = value as f32;
    }
    let norm = (gain / sum) as f32;
    weights.iter_mut().for_each(|weight| *weight *= norm);
    first
}

/// Keys' cubic convolution kernel with a = -1/2, as in Pillow.
pub(crate) fn cubic(distance: f64) -> f64 {
    const A: f64 = -0.5;
    let x = distance.abs();
    if x < 1.0 {
        ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0
    } else if x < 2.0 {
        A * (((x - 5.0) * x + 8.0) * x - 4.0)
    } else {
        0.0
    }
}
