//! Pillow's Gaussian blur: a box blur, three times in each direction.
//!
//! Three box blurs are one matrix, so that the blur of an image is a matrix product over its rows and one over its
//! columns.

use tch::{Device, Tensor};

use super::resample::separable;
use super::{ViewParameters, chosen, on_some};
use crate::error::{Result, check_in};
use crate::numbers::to_device;

/// Blurs the images that have a `blur_sigma`. They are square.
///
/// Pillow rounds to bytes after each of the six box blurs, which is left out here.
pub(super) fn blur(images: Tensor, parameters: &[ViewParameters]) -> Result<Tensor> {
    let (positions, boxes) = chosen(parameters, |parameters| parameters.blur_sigma.map(BlurBox::new));
    let size = images.size()[3];
    on_some(images, &positions, |images| {
        let once = box_matrices(&boxes, size, images.device())?;
        let three_times = once.f_bmm(&once)?.f_bmm(&once)?;
        separable(images, &three_times, &three_times)
    })
}

/// An error if a blur by `sigma` pixels is out of range for views of `size` pixels.
pub(super) fn check_blur(sigma: f64, size: i64) -> Result<()> {
    const MAX_SIGMA: i64 = 1000;
    /// Limit of numbers in the table of [`box_matrices`]: 2 GB. It has at most one matrix more than sigma has pixels.
    const MAX_NUMBERS: i64 = 1 << 29;
    check_in("blur_sigma", sigma, ..=MAX_SIGMA.min(MAX_NUMBERS / (size * size) - 1) as f64)
}

/// The box of a blur: a blend of the means over two numbers of whole pixels.
pub(super) struct BlurBox {
    /// How far the narrower one reaches to either side. The wider one reaches one pixel farther.
    pub(super) reach: usize,
    /// The share of the wider one, in `0..1`.
    pub(super) share: f64,
}

impl BlurBox {
    /// The box that approximates a Gaussian with standard deviation `sigma` when it is applied three times (Gwosdek et
    /// al., 2011): three means that reach `r` pixels have the variance `r (r + 1)`, and the blend has `sigma²`.
    pub(super) fn new(sigma: f64) -> BlurBox {
        let variance = sigma * sigma;
        let reach = (((4.0 * variance + 1.0).sqrt() - 1.0) / 2.0).floor();
        BlurBox { reach: reach as usize, share: (variance - reach * (reach + 1.0)) / (2.0 * (reach + 1.0)) }
    }
}

/// The matrices `[N, size, size]` that blur a side of `size` pixels by each of the `boxes` once. The border repeats its
/// last pixel.
///
/// The means over whole pixels are the same for every image, so one product blends them for all.
fn box_matrices(boxes: &[BlurBox], size: i64, device: Device) -> Result<Tensor> {
    let means = 2 + boxes.iter().map(|blur| blur.reach).max().unwrap_or(0);
    let mut shares = vec![0_f32; boxes.len() * means];
    for (shares, BlurBox { reach, share }) in shares.chunks_exact_mut(means).zip(boxes) {
        (shares[*reach], shares[reach + 1]) = ((1.0 - share) as f32, *share as f32);
    }
    let mut table = vec![0_f32; means * (size * size) as usize];
    for (reach, matrix) in (0..).zip(table.chunks_exact_mut((size * size) as usize)) {
        let weight = 1.0 / (2 * reach + 1) as f32;
        for row in 0..size {
            for column in row - reach..=row + reach {
                matrix[(row * size + column.clamp(0, size - 1)) as usize] += weight;
            }
        }
    }
    let (count, means) = (boxes.len() as i64, means as i64);
    let shares = to_device(&Tensor::f_from_slice(&shares)?, device)?.f_view([count, means])?;
    let table = to_device(&Tensor::f_from_slice(&table)?, device)?.f_view([means, size * size])?;
    Ok(shares.f_mm(&table)?.f_view([count, size, size])?)
}
