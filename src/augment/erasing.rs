//! Random erasing (Zhong et al., 2020): a box of every image gives way to noise.

use tch::{Kind, Tensor};

use super::boxes::{check_box, inside};
use super::parameters::{below, between};
use super::{Crop, check_images, check_range, chosen, draw_numbers};
use crate::error::{Error, Result, check_value};
use crate::numbers::to_device;

/// How the boxes are drawn whose pixels [`erase`] replaces by noise.
#[derive(Debug, Clone, PartialEq)]
pub struct ErasingRecipe {
    /// Probability that an image has a box.
    pub probability: f64,
    /// Least and greatest share of the image's area, `0 < least <= greatest <= 1`.
    pub area: (f64, f64),
    /// Least and greatest height of the box divided by its width, `0 < least <= greatest`.
    pub ratio: (f64, f64),
}

impl Default for ErasingRecipe {
    /// As the published models are fine-tuned: probability 0.25, area 0.02 to 1/3, ratio 0.3 to 1/0.3.
    fn default() -> ErasingRecipe {
        ErasingRecipe { probability: 0.25, area: (0.02, 1.0 / 3.0), ratio: (0.3, 1.0 / 0.3) }
    }
}

/// How often a box is drawn before the image is left whole.
const ATTEMPTS: usize = 10;

/// Random numbers set aside for an image: one for the decision, two for size and two for place of every attempt.
const NUMBERS_PER_IMAGE: usize = 1 + 4 * ATTEMPTS;

impl ErasingRecipe {
    /// Draws a box, or none, for each of `batch_size` images of `height` x `width` pixels.
    ///
    /// Area uniform, ratio log-uniform, the first of ten that is smaller than the image in both directions; where none
    /// is, the image stays whole. Follows [`tch::manual_seed`]; drawn on the CPU, so that no GPU is waited for.
    ///
    /// # Errors
    ///
    /// [`Error::Value`] if a setting of the recipe or an argument lies outside its range; `batch_size` is at most 2^22.
    pub fn draw(&self, batch_size: i64, height: i64, width: i64) -> Result<Vec<Option<Crop>>> {
        check_value("probability", self.probability, "between 0 and 1", (0.0..=1.0).contains(&self.probability))?;
        check_range("area", self.area, 1.0)?;
        check_range("ratio", self.ratio, f64::MAX)?;
        let numbers = draw_numbers(batch_size, (height, width), NUMBERS_PER_IMAGE)?;
        let images = numbers.chunks_exact(NUMBERS_PER_IMAGE);
        let boxes = images.map(|numbers| {
            let (_, attempts) = numbers.split_first().filter(|(decision, _)| **decision < self.probability)?;
            attempts.chunks_exact(4).find_map(|numbers| self.box_of(height, width, numbers))
        });
        Ok(boxes.collect())
    }

    /// The box that four uniform random `numbers` describe, if it is smaller than the image.
    fn box_of(&self, height: i64, width: i64, numbers: &[f64]) -> Option<Crop> {
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

/// The images `[B, 3, H, W]`, `Float`, with standard normal noise in place of each one's box, if it has one: a number for
/// every pixel and colour.
///
/// For images that are normalised, so that noise and images are on one scale. The noise is drawn on their device and
/// follows [`tch::manual_seed`].
///
/// # Errors
///
/// [`Error::Shape`] and [`Error::Kind`] for other images, or if there are more or fewer than entries of `boxes`;
/// [`Error::Value`] unless every box lies within its image.
pub fn erase(images: &Tensor, boxes: &[Option<Crop>]) -> Result<Tensor> {
    let (_, _, height, width) = check_images(images, boxes.len())?;
    if images.f_kind()? != Kind::Float {
        return Err(Error::Kind { name: "images", expected: "Float", actual: images.f_kind()? });
    }
    boxes.iter().flatten().try_for_each(|of_pixels| check_box(of_pixels, height, width))?;
    let _no_grad = tch::no_grad_guard();
    let (positions, boxes) = chosen(boxes, |of_pixels| *of_pixels);
    if positions.is_empty() {
        return Ok(images.shallow_clone());
    }
    let positions = to_device(&Tensor::f_from_slice(&positions)?, images.device())?;
    let whole = images.f_index_select(0, &positions)?;
    let erased = whole.f_randn_like()?.f_where_self(&inside(&boxes, height, width, images.device())?, &whole)?;
    Ok(images.f_index_copy(0, &positions, &erased)?)
}
