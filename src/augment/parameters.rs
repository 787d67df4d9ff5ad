//! The parameters of one image's view, and how they are drawn.

use tch::{Device, Kind, Tensor};

use super::ViewRecipe;
use crate::error::{Result, check_in};

/// Limit of images to draw for at once: 1.2 GB of random numbers for a view.
pub(super) const MAX_IMAGES: i64 = 1 << 22;

/// A part of an image, in pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Crop {
    /// First row.
    pub top: i64,
    /// First column.
    pub left: i64,
    /// Number of rows, at least 1.
    pub height: i64,
    /// Number of columns, at least 1.
    pub width: i64,
}

/// One of the four operations of color jitter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JitterStep {
    /// Blends with black.
    Brightness,
    /// Blends with the mean of the grayscale image.
    Contrast,
    /// Blends with the grayscale image.
    Saturation,
    /// Shifts the hue.
    Hue,
}

/// Color jitter of one image.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ColorJitter {
    /// The order of the steps.
    pub order: [JitterStep; 4],
    /// Share of the image in the blend with black: 0 is black, 1 the image, above 1 is brighter. Not negative.
    pub brightness: f64,
    /// Share of the image in the blend with its mean gray. Not negative.
    pub contrast: f64,
    /// Share of the image in the blend with its grayscale version. Not negative.
    pub saturation: f64,
    /// Shift of the hue in turns of the color circle, `-0.5..=0.5`.
    pub hue: f64,
}

/// All parameters of one image's view.
///
/// Plain data on the host: compare it, print it, keep it; [`ViewRecipe::apply`] repeats the view.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ViewParameters {
    /// The part of the image to show, resized to the recipe's size.
    pub crop: Crop,
    /// Color jitter, if any.
    pub jitter: Option<ColorJitter>,
    /// Whether the view is grayscale.
    pub gray: bool,
    /// Standard deviation of the Gaussian blur in pixels of the view, if any.
    pub blur_sigma: Option<f64>,
    /// Whether values of one half and above are inverted.
    pub solarize: bool,
    /// Whether the view is flipped horizontally.
    pub flip: bool,
}

/// Attempts at a random crop before the center crop is taken.
const CROP_ATTEMPTS: usize = 10;

/// Random numbers per image: two per attempt at a crop and two for its place, three for the order of the jitter and
/// four for its factors, one for sigma, and one for each of the five yes-or-no decisions.
pub(super) const NUMBERS_PER_IMAGE: usize = Crop::NUMBERS + 3 + 4 + 1 + 5;

impl ViewParameters {
    /// The parameters of one view of an image of `height` x `width` pixels by a checked recipe, from
    /// [`NUMBERS_PER_IMAGE`] uniform random `numbers` in `0..1`.
    pub(super) fn from_uniform(recipe: &ViewRecipe, height: i64, width: i64, numbers: &[f64]) -> ViewParameters {
        // Split up front, so that the use of a number does not depend on earlier decisions.
        let (crop, rest) = numbers.split_at(Crop::NUMBERS);
        let (order, rest) = rest.split_at(3);
        let (factors, rest) = rest.split_at(4);
        let factor = |number: f64, strength: f64| between(number, ((1.0 - strength).max(0.0), 1.0 + strength));
        let jitter = ColorJitter {
            order: shuffled_steps(order),
            brightness: factor(factors[0], recipe.brightness),
            contrast: factor(factors[1], recipe.contrast),
            saturation: factor(factors[2], recipe.saturation),
            hue: between(factors[3], (-recipe.hue, recipe.hue)),
        };
        ViewParameters {
            crop: Crop::from_uniform(recipe.crop_scale, recipe.crop_ratio, height, width, crop),
            jitter: (rest[0] < recipe.jitter_probability).then_some(jitter),
            gray: rest[1] < recipe.gray_probability,
            blur_sigma: (rest[2] < recipe.blur_probability).then(|| between(rest[3], recipe.blur_sigma)),
            solarize: rest[4] < recipe.solarize_probability,
            flip: rest[5] < recipe.flip_probability,
        }
    }
}

impl Crop {
    /// Random numbers that a crop takes.
    pub(crate) const NUMBERS: usize = 2 * CROP_ATTEMPTS + 2;

    /// torchvision's `RandomResizedCrop`: area uniform, aspect ratio log-uniform, the first of ten that fits.
    ///
    /// `scale` and `ratio` are checked ranges, `numbers` are [`Self::NUMBERS`] uniform random numbers in `0..1`.
    pub(crate) fn from_uniform(scale: (f64, f64), ratio: (f64, f64), height: i64, width: i64, numbers: &[f64]) -> Crop {
        let area = height as f64 * width as f64;
        let (lowest, highest) = ratio;
        let (place, attempts) = numbers.split_at(2);
        for attempt in attempts.chunks_exact(2) {
            let crop_area = area * between(attempt[0], scale);
            let shape = between(attempt[1], (lowest.ln(), highest.ln())).exp();
            let crop_width = (crop_area * shape).sqrt().round_ties_even() as i64;
            let crop_height = (crop_area / shape).sqrt().round_ties_even() as i64;
            if (1..=width).contains(&crop_width) && (1..=height).contains(&crop_height) {
                return Crop {
                    top: below(place[0], height - crop_height + 1),
                    left: below(place[1], width - crop_width + 1),
                    height: crop_height,
                    width: crop_width,
                };
            }
        }
        Crop::center(ratio, height, width)
    }

    /// The largest centered crop whose width divided by its height lies within `ratio`.
    fn center((lowest, highest): (f64, f64), height: i64, width: i64) -> Crop {
        let ratio = width as f64 / height as f64;
        let rounded = |length: f64, limit: i64| (length.round_ties_even() as i64).clamp(1, limit);
        let (crop_height, crop_width) = if ratio < lowest {
            (rounded(width as f64 / lowest, height), width)
        } else if ratio > highest {
            (height, rounded(height as f64 * highest, width))
        } else {
            (height, width)
        };
        Crop { top: (height - crop_height) / 2, left: (width - crop_width) / 2, height: crop_height, width: crop_width }
    }
}

/// `per_image` uniform random numbers in `0..1` for each of `batch_size` images of the given height and width.
///
/// Drawn on the CPU, following [`tch::manual_seed`]. Every image takes the same count whatever the decisions are, so
/// its draw depends only on the state of the generator and on its place in the batch.
pub(super) fn draw_numbers(batch_size: i64, (height, width): (i64, i64), per_image: usize) -> Result<Vec<f64>> {
    check_in("batch_size", batch_size, 0..=MAX_IMAGES)?;
    check_in("height", height, 1..)?;
    check_in("width", width, 1..)?;
    let numbers = Tensor::f_rand([batch_size, per_image as i64], (Kind::Double, Device::Cpu))?.f_reshape([-1])?;
    Ok(Vec::<f64>::try_from(numbers)?)
}

/// A number within `range` from a uniform `number` in `0..1`.
pub(super) fn between(number: f64, (lowest, highest): (f64, f64)) -> f64 {
    // Rounding can exceed the end by one step.
    (lowest + number * (highest - lowest)).min(highest)
}

/// One of `0..count` from a uniform `number` in `0..1`.
pub(super) fn below(number: f64, count: i64) -> i64 {
    ((number * count as f64) as i64).min(count - 1)
}

/// One of the 24 orders, from three uniform numbers (Fisher-Yates shuffle).
fn shuffled_steps(numbers: &[f64]) -> [JitterStep; 4] {
    let mut steps = [JitterStep::Brightness, JitterStep::Contrast, JitterStep::Saturation, JitterStep::Hue];
    for (&number, last) in numbers.iter().zip((1..steps.len()).rev()) {
        steps.swap(last, below(number, last as i64 + 1) as usize);
    }
    steps
}
