//! RandomErasing (Zhong et al., 2020): replaces a random box of an image by noise.

use tch::{Kind, Tensor};

use super::boxes::{check_box, inside};
use super::parameters::{below, between};
use super::{Crop, check_images, check_range, chosen, draw_numbers};
use crate::error::{Error, Result, check_in};
use crate::numbers::to_device;

/// RandomErasing: how to draw the boxes that [`erase`] fills with noise.
#[derive(Debug, Clone, PartialEq)]
pub struct RandomErasing {
    /// Probability that an image gets a box.
    pub probability: f64,
    /// Range of the box's share of the image's area, `0 < least <= greatest <= 1`.
    pub area: (f64, f64),
    /// Range of the box's height divided by its width, `0 < least <= greatest`.
    pub ratio: (f64, f64),
}

impl Default for RandomErasing {
    /// The published fine-tuning settings: probability 0.25, area 0.02 to 1/3, ratio 0.3 to 1/0.3.
    fn default() -> RandomErasing {
        RandomErasing { probability: 0.25, area: (0.02, 1.0 / 3.0), ratio: (0.3, 1.0 / 0.3) }
    }
}

/// Attempts at a box before the image is left whole.
const ATTEMPTS: usize = 10;

/// Random numbers per image: one for the decision, two for the size and two for the place of every attempt.
const NUMBERS_PER_IMAGE: usize = 1 + 4 * ATTEMPTS;

impl RandomErasing {
    /// Draws a box, or none, for each of `batch_size` images of `height` x `width` pixels.
    ///
    /// The area is uniform, the ratio log-uniform. The first of ten boxes that is smaller than the image in both
    /// directions counts; if none is, the image stays whole. Follows [`tch::manual_seed`]; drawn on the CPU, so that it
    /// never waits for a GPU.
    ///
    /// # Errors
    ///
    /// [`Error::Value`] if a setting or an argument is out of range; `batch_size` is at most 2^22.
    pub fn draw(&self, batch_size: i64, height: i64, width: i64) -> Result<Vec<Option<Crop>>> {
        check_in("probability", self.probability, 0.0..=1.0)?;
        check_range("area", self.area, 1.0)?;
        check_range("ratio", self.ratio, f64::MAX)?;
        let numbers = draw_numbers(batch_size, (height, width), NUMBERS_PER_IMAGE)?;
        let images = numbers.chunks_exact(NUMBERS_PER_IMAGE);
        let boxes = images.map(|numbers| {
            let (_, attempts) = numbers.split_first().filter(|(decision, _)| **decision < self.probability)?;
            attempts.chunks_exact(4).find_map(|numbers| self.box_from(height, width, numbers))
        });
        Ok(boxes.collect())
    }

    /// The box that four uniform random `numbers` describe, if it is smaller than the image.
    fn box_from(&self, height: i64, width: i64, numbers: &[f64]) -> Option<Crop> {
        let area = height as f64 * width as f64 * between(numbers[0], self.area);
        let ratio = between(numbers[1], (self.ratio.0.ln(), self.ratio.1.ln())).exp();
        let (rows, columns) = ((area * ratio).sqrt().round() as i64, (area / ratio).sqrt().round() as i64);
        let fits = (1..height).contains(&rows) && (1..width).contains(&columns);
        fits.then(|| Crop {
            top: below(numbers[2], height - rows + 1),
            left: below(numbers[3], width - columns + 1),
            height: rows,
            width: columns,
        })
    }
}

/// Fills each image's box, if it has one, with standard normal noise, drawn per pixel and channel. Images are
/// `[B, 3, H, W]`, `Float`.
///
/// Erase after normalization, so that noise and images are on one scale. The noise is drawn on the images' device and
/// follows [`tch::manual_seed`].
///
/// # Errors
///
/// [`Error::Shape`] and [`Error::Kind`] for other images, or if `boxes` has another length than the batch;
/// [`Error::Value`] unless every box lies within its image.
pub fn erase(images: &Tensor, boxes: &[Option<Crop>]) -> Result<Tensor> {
    let (_, _, height, width) = check_images(images, boxes.len())?;
    if images.f_kind()? != Kind::Float {
        return Err(Error::Kind { name: "images", expected: "Float", actual: images.f_kind()? });
    }
    boxes.iter().flatten().try_for_each(|pixels| check_box(pixels, height, width))?;
    let _no_grad = tch::no_grad_guard();
    let (positions, boxes) = chosen(boxes, |pixels| *pixels);
    if positions.is_empty() {
        return Ok(images.shallow_clone());
    }
    let positions = to_device(&Tensor::f_from_slice(&positions)?, images.device())?;
    let whole = images.f_index_select(0, &positions)?;
    let erased = whole.f_randn_like()?.f_where_self(&inside(&boxes, height, width, images.device())?, &whole)?;
    Ok(images.f_index_copy(0, &positions, &erased)?)
}
