//! The random crop of an image with black pixels around it, of the image's own size: a shift by a few pixels.

use tch::Tensor;

use super::parameters::below;
use super::{check_images, draw_numbers, full_value};
use crate::error::{Result, check_value};
use crate::numbers::to_device;

/// How crops of padded images are drawn.
#[derive(Debug, Clone, PartialEq)]
pub struct PaddedCropRecipe {
    /// Rows and columns of black pixels on every side, 0 to 65,536.
    pub padding: i64,
    /// Probability that left and right are swapped.
    pub flip_probability: f64,
}

/// The part of one padded image that is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PaddedCrop {
    /// First row, counted from the first row of the image; negative in the padding above.
    pub top: i64,
    /// First column, counted from the first column of the image; negative in the padding to the left.
    pub left: i64,
    /// Whether left and right are swapped.
    pub flip: bool,
}

impl Default for PaddedCropRecipe {
    /// As CIFAR is augmented: padding 4, half the images flipped.
    fn default() -> PaddedCropRecipe {
        PaddedCropRecipe { padding: 4, flip_probability: 0.5 }
    }
}

/// Random numbers set aside for an image.
const NUMBERS_PER_IMAGE: usize = 3;

impl PaddedCropRecipe {
    /// Draws a crop for each of `batch_size` images. Follows [`tch::manual_seed`]; drawn on the CPU.
    ///
    /// # Errors
    ///
    /// [`Error::Value`](crate::Error::Value) if a setting of the recipe or the argument lies outside its range;
    /// `batch_size` is at most 2^22.
    pub fn draw(&self, batch_size: i64) -> Result<Vec<PaddedCrop>> {
        const MOST: i64 = 1 << 16;
        let PaddedCropRecipe { padding, flip_probability } = *self;
        check_value("padding", padding as f64, &format!("between 0 and {MOST}"), (0..=MOST).contains(&padding))?;
        check_value("flip_probability", flip_probability, "between 0 and 1", (0.0..=1.0).contains(&flip_probability))?;
        let numbers = draw_numbers(batch_size, (1, 1), NUMBERS_PER_IMAGE)?;
        let crops = numbers.chunks_exact(NUMBERS_PER_IMAGE).map(|numbers| PaddedCrop {
            top: below(numbers[0], 2 * padding + 1) - padding,
            left: below(numbers[1], 2 * padding + 1) - padding,
            flip: numbers[2] < flip_probability,
        });
        Ok(crops.collect())
    }
}

/// The crops of the images `[B, 3, H, W]`, bytes or floating-point numbers before normalisation, of which 0 is black:
/// the same shape and kind.
///
/// # Errors
///
/// [`Error::Shape`](crate::Error::Shape) and [`Error::Kind`](crate::Error::Kind) for other images, or if there are more
/// or fewer than crops; [`Error::Value`](crate::Error::Value) for a crop that begins further away than an image's side.
pub fn crop_padded(images: &Tensor, crops: &[PaddedCrop]) -> Result<Tensor> {
    full_value(images)?;
    let (batch_size, channels, height, width) = check_images(images, crops.len())?;
    // Where every row and column is read from, and whether there is such a one.
    let (mut rows, mut row_exists, mut columns, mut column_exists) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for PaddedCrop { top, left, flip } in crops {
        for (name, start, side) in [("crop top", *top, height), ("crop left", *left, width)] {
            check_value(name, start as f64, &format!("between -{side} and {side}"), (-side..=side).contains(&start))?;
        }
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
    let of_rows = |tensor: Tensor| -> Result<Tensor> { Ok(to_device(&tensor, device)?.f_view([-1, height, 1])?) };
    let of_columns = |tensor: Tensor| -> Result<Tensor> { Ok(to_device(&tensor, device)?.f_view([-1, 1, width])?) };
    let pixels = of_rows(Tensor::f_from_slice(&rows)?)?.f_add(&of_columns(Tensor::f_from_slice(&columns)?)?)?;
    let pixels = pixels.f_view([batch_size, 1, height * width])?.f_expand([-1, channels, -1], false)?;
    let cropped = images.f_reshape([batch_size, channels, height * width])?.f_gather(2, &pixels, false)?;
    let in_image = of_rows(Tensor::f_from_slice(&row_exists)?)?
        .f_logical_and(&of_columns(Tensor::f_from_slice(&column_exists)?)?)?
        .f_unsqueeze(1)?; // [B, 1, H, W]
    let black = Tensor::f_zeros([], (images.f_kind()?, device))?;
    Ok(cropped.f_view([batch_size, channels, height, width])?.f_where_self(&in_image, &black)?)
}
