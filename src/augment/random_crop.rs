//! RandomCrop with zero padding: pads an image with black pixels and cuts a random crop of the original size.

use tch::Tensor;

use super::parameters::below;
use super::{check_images, draw_numbers, full_value};
use crate::error::{Result, check_in};
use crate::numbers::to_device;

/// RandomCrop with padding, and a horizontal flip: how to draw the crops that [`crop_padded`] cuts.
#[derive(Debug, Clone, PartialEq)]
pub struct RandomCrop {
    /// Black pixels added on every side, 0 to 65,536.
    pub padding: i64,
    /// Probability of a horizontal flip.
    pub flip_probability: f64,
}

/// The crop of one padded image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PaddedCrop {
    /// First row, relative to the unpadded image; negative in the padding above.
    pub top: i64,
    /// First column, relative to the unpadded image; negative in the padding to the left.
    pub left: i64,
    /// Whether the crop is flipped horizontally.
    pub flip: bool,
}

impl Default for RandomCrop {
    /// The usual settings for CIFAR: padding 4, half of the images flipped.
    fn default() -> RandomCrop {
        RandomCrop { padding: 4, flip_probability: 0.5 }
    }
}

/// Random numbers per image.
const NUMBERS_PER_IMAGE: usize = 3;

impl RandomCrop {
    /// Draws a crop for each of `batch_size` images. Follows [`tch::manual_seed`]; drawn on the CPU.
    ///
    /// # Errors
    ///
    /// [`Error::Value`](crate::Error::Value) if a setting or the argument is out of range; `batch_size` is at most
    /// 2^22.
    pub fn draw(&self, batch_size: i64) -> Result<Vec<PaddedCrop>> {
        const MAX_PADDING: i64 = 1 << 16;
        let RandomCrop { padding, flip_probability } = *self;
        check_in("padding", padding, 0..=MAX_PADDING)?;
        check_in("flip_probability", flip_probability, 0.0..=1.0)?;
        let numbers = draw_numbers(batch_size, (1, 1), NUMBERS_PER_IMAGE)?;
        let crops = numbers.chunks_exact(NUMBERS_PER_IMAGE).map(|numbers| PaddedCrop {
            top: below(numbers[0], 2 * padding + 1) - padding,
            left: below(numbers[1], 2 * padding + 1) - padding,
            flip: numbers[2] < flip_probability,
        });
        Ok(crops.collect())
    }
}

/// Cuts each image's crop out of its padded version; the result has the shape and kind of `images`.
///
/// `images` is `[B, 3, H, W]`, bytes or floating-point numbers. Crop before normalization: the padding is 0, which is
/// black only in images that are not normalized.
///
/// # Errors
///
/// [`Error::Shape`](crate::Error::Shape) and [`Error::Kind`](crate::Error::Kind) for other images, or if `crops` has
/// another length than the batch; [`Error::Value`](crate::Error::Value) for a crop that starts more than an image's
/// side away from it.
pub fn crop_padded(images: &Tensor, crops: &[PaddedCrop]) -> Result<Tensor> {
    full_value(images)?;
    let (batch_size, channels, height, width) = check_images(images, crops.len())?;
    // Where every row and column is read from, and whether that is inside the image.
    let (mut rows, mut row_exists, mut columns, mut column_exists) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for PaddedCrop { top, left, flip } in crops {
        check_in("crop top", *top, -height..=height)?;
        check_in("crop left", *left, -width..=width)?;
        for row in (0..height).map(|row| top + row) {
            rows.push(row.clamp(0, height - 1) * width);
            row_exists.push((0..height).contains(&row));
        }
        for column in (0..width).map(|column| left + if *flip { width - 1 - column } else { column }) {
            columns.push(column.clamp(0, width - 1));
            column_exists.push((0..width).contains(&column));
        }
    }
    let _no_grad = tch::no_grad_guard();
    let device = images.device();
    let as_rows = |tensor: Tensor| -> Result<Tensor> { Ok(to_device(&tensor, device)?.f_view([-1, height, 1])?) };
    let as_columns = |tensor: Tensor| -> Result<Tensor> { Ok(to_device(&tensor, device)?.f_view([-1, 1, width])?) };
    let pixels = as_rows(Tensor::f_from_slice(&rows)?)?.f_add(&as_columns(Tensor::f_from_slice(&columns)?)?)?;
    let pixels = pixels.f_view([batch_size, 1, height * width])?.f_expand([-1, channels, -1], false)?;
    let cropped = images.f_reshape([batch_size, channels, height * width])?.f_gather(2, &pixels, false)?;
    let in_image = as_rows(Tensor::f_from_slice(&row_exists)?)?
        .f_logical_and(&as_columns(Tensor::f_from_slice(&column_exists)?)?)?
        .f_unsqueeze(1)?; // [B, 1, H, W]
    let black = Tensor::f_zeros([], (images.f_kind()?, device))?;
    Ok(cropped.f_view([batch_size, channels, height, width])?.f_where_self(&in_image, &black)?)
}
