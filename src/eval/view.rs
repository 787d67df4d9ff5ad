//! The view of an image that is measured: the published resize and center crop, to the byte as Pillow computes them.

use tch::{Device, Kind, Tensor};

use crate::augment::cubic;
use crate::data::CenterCrop;
use crate::error::{Error, Result, check_in, check_shape};
use crate::numbers::{scalar, to_device};

/// The largest side of an image or a view, in pixels.
const MAX_SIDE: i64 = 1 << 13;

/// Numbers of a temporary tensor: 32 MiB of `Double`.
const BLOCK_NUMBERS: i64 = 1 << 22;

/// Pillow's weights are multiples of 1 / 2^22.
const ONE: f64 = (1 << 22) as f64;

/// The published evaluation view of images `[B, 3, H, W]` of `Uint8`: `[B, 3, image_size, image_size]` of `Uint8`, on
/// the same device.
///
/// The shorter side is resized (bicubic, antialiased) to 256 pixels for an image size of 224, in proportion for other
/// sizes and rounded down; then the central square is cut out. CIFAR's 32 pixels become 36, of which the central 32
/// remain. Every byte is the one that Pillow and torchvision compute, on every device.
///
/// # Errors
///
/// [`Error::Shape`] and [`Error::Kind`] for other images, [`Error::Value`] unless their sides and `image_size` are
/// between 1 and 8192.
pub fn evaluation_view(images: &Tensor, image_size: i64) -> Result<Tensor> {
    check_shape("images", images, &[("B", None), ("3", Some(3)), ("H", None), ("W", None)])?;
    let (kind, device) = (images.f_kind()?, images.device());
    if kind != Kind::Uint8 {
        return Err(Error::Kind { name: "images", expected: "of bytes", actual: kind });
    }
    let (count, _, height, width) = images.size4()?;
    for (name, side) in [("height", height), ("width", width), ("image_size", image_size)] {
        check_in(name, side, 1..=MAX_SIDE)?;
    }
    let crop = CenterCrop::evaluation(image_size);
    let pass = |side| Pass::new(side, crop.along(side, height.min(width)), image_size, device);
    let (over_rows, over_columns) = (pass(width)?, pass(height)?);
    let views = Tensor::f_empty([count, 3, image_size, image_size], (Kind::Uint8, device))?;
    let block = (BLOCK_NUMBERS / (3 * height.max(image_size) * width.max(image_size))).max(1);
    for first in (0..count).step_by(block as usize) {
        let block = block.min(count - first);
        let narrowed = over_rows.apply(&images.f_narrow(0, first, block)?)?; // [block, 3, H, image_size]
        let squares = over_columns.apply(&narrowed.f_transpose(2, 3)?)?.f_transpose(2, 3)?;
        views.f_narrow(0, first, block)?.f_copy_(&squares)?;
    }
    Ok(views)
}

/// Resizing along one side, and cutting out the pixels of the square.
enum Pass {
    /// The side keeps its length; the square begins here and has this size.
    Cut(i64, i64),
    /// Weights `[side, size]` of `Double`.
    Resize(Tensor),
}

impl Pass {
    /// For a side of `side` pixels that has `resized` afterwards, of which `size` from `start` on are kept.
    fn new(side: i64, (resized, start): (i64, i64), size: i64, device: Device) -> Result<Pass> {
        if side == resized {
            return Ok(Pass::Cut(start, size));
        }
        let mut weights = vec![0.0; (size * side) as usize];
        for (place, row) in (start..).zip(weights.chunks_exact_mut(side as usize)) {
            write_weights(row, resized, place);
        }
        let weights = to_device(&Tensor::f_from_slice(&weights)?, device)?;
        Ok(Pass::Resize(weights.f_reshape([size, side])?.f_transpose(0, 1)?))
    }

    /// Bytes `[B, 3, N, side]` to bytes `[B, 3, N, size]`.
    fn apply(&self, images: &Tensor) -> Result<Tensor> {
        let weights = match self {
            Pass::Cut(start, size) => return Ok(images.f_narrow(3, *start, *size)?),
            Pass::Resize(weights) => weights,
        };
        // All terms and sums are multiples of 1 / 2^22 below 2^10, which `Double` holds exactly, in any order.
        let sums = images.f_to_kind(Kind::Double)?.f_matmul(weights)?;
        Ok({ sums }.f_add_(&scalar(0.5)?)?.f_floor_()?.f_clamp_(0.0, 255.0)?.f_to_kind(Kind::Uint8)?)
    }
}

/// Writes the weights by which pixel `place` of `resized` reads a side of as many pixels as `row` has. The operations
/// and their order are Pillow's, as every rounding counts.
fn write_weights(row: &mut [f64], resized: i64, place: i64) {
    let scale = row.len() as f64 / resized as f64;
    // For antialiasing, the kernel widens when the image shrinks.
    let stretch = scale.max(1.0);
    let (center, reach) = ((place as f64 + 0.5) * scale, 2.0 * stretch);
    // `as` takes negative numbers for 0.
    let first = (center - reach + 0.5) as usize;
    let end = ((center + reach + 0.5) as usize).min(row.len());
    for (position, weight) in row.iter_mut().enumerate().take(end).skip(first) {
        *weight = cubic((position as f64 - center + 0.5) * (1.0 / stretch));
    }
    let sum: f64 = row[first..end].iter().sum();
    for weight in &mut row[first..end] {
        let share = *weight / sum;
        *weight = (share * ONE + 0.5_f64.copysign(share)).trunc() / ONE;
    }
}
