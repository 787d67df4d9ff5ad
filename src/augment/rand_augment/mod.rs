//! RandAugment (Cubuk et al., 2020) on batches of byte images: a few random operations of random strength per image.
//!
//! The operations are Pillow's under timm's ranges of strength, to the byte.

mod affine;
mod enhance;
mod operation;
mod tables;

use std::f64::consts::TAU;

use tch::{Kind, Tensor};

use super::parameters::below;
use super::{check_images, draw_numbers};
use crate::error::{Error, Result, check_in};
pub use operation::AugmentOperation;

/// RandAugment: how to draw the operations that [`rand_augment`] applies.
#[derive(Debug, Clone, PartialEq)]
pub struct RandAugment {
    /// Operations drawn for each image, with replacement; 1 to 16.
    pub operations: usize,
    /// Probability that a drawn operation is applied.
    pub probability: f64,
    /// Mean of the magnitude, `0..=10`. Magnitudes are normally distributed and then limited to `0..=10`.
    pub magnitude: f64,
    /// Standard deviation of the magnitude, `0..=10`.
    pub magnitude_std: f64,
}

impl Default for RandAugment {
    /// The published fine-tuning settings, `rand-m9-mstd0.5-inc1` in timm: two operations of magnitude 9 with standard
    /// deviation 0.5, each applied with probability 0.5.
    fn default() -> RandAugment {
        RandAugment { operations: 2, probability: 0.5, magnitude: 9.0, magnitude_std: 0.5 }
    }
}

/// Random numbers per operation: its kind, whether it is applied, two for its magnitude, and its sign.
const NUMBERS_PER_OPERATION: usize = 5;

impl RandAugment {
    /// Draws the operations for each of `batch_size` images, in the order of their application.
    ///
    /// Follows [`tch::manual_seed`]; drawn on the CPU, so that it never waits for a GPU. Every image takes the same
    /// count of random numbers.
    ///
    /// # Errors
    ///
    /// [`Error::Value`] if a setting or the argument is out of range; `batch_size` is at most 2^22.
    pub fn draw(&self, batch_size: i64) -> Result<Vec<Vec<AugmentOperation>>> {
        const MAX_OPERATIONS: usize = 16;
        check_in("operations", self.operations, 1..=MAX_OPERATIONS)?;
        check_in("probability", self.probability, 0.0..=1.0)?;
        check_in("magnitude", self.magnitude, 0.0..=10.0)?;
        check_in("magnitude_std", self.magnitude_std, 0.0..=10.0)?;
        let per_image = NUMBERS_PER_OPERATION * self.operations;
        let numbers = draw_numbers(batch_size, (1, 1), per_image)?;
        let of_image = |numbers: &[f64]| {
            numbers.chunks_exact(NUMBERS_PER_OPERATION).filter_map(|numbers| self.operation(numbers)).collect()
        };
        Ok(numbers.chunks_exact(per_image).map(of_image).collect())
    }

    /// The operation that [`NUMBERS_PER_OPERATION`] uniform random `numbers` in `0..1` describe, if it is applied.
    fn operation(&self, numbers: &[f64]) -> Option<AugmentOperation> {
        // A normally distributed number from two uniform ones (Box-Muller).
        let normal = (-2.0 * (1.0 - numbers[2]).ln()).sqrt() * (TAU * numbers[3]).cos();
        let magnitude = self.magnitude + self.magnitude_std * normal;
        let all = AugmentOperation::at_magnitude(magnitude, numbers[4] < 0.5);
        (numbers[1] < self.probability).then(|| all[below(numbers[0], all.len() as i64) as usize])
    }
}

/// Applies each image's operations, one after the other.
///
/// `images` is `[B, 3, H, W]` of `Uint8`; the result is a new tensor of that shape on the same device. Where a
/// rotation, shear or translation shows what lies outside an image, it is `fill`: red, green and blue.
///
/// # Errors
///
/// [`Error::Shape`] and [`Error::Kind`] for other images, or if `operations` has another length than the batch;
/// [`Error::Value`] for an operation whose parameter is out of range.
pub fn rand_augment(images: &Tensor, operations: &[Vec<AugmentOperation>], fill: [u8; 3]) -> Result<Tensor> {
    check_images(images, operations.len())?;
    if images.f_kind()? != Kind::Uint8 {
        return Err(Error::Kind { name: "images", expected: "Uint8", actual: images.f_kind()? });
    }
    operations.iter().flatten().try_for_each(AugmentOperation::check)?;
    let mut augmented = Tensor::f_empty(images.size(), (Kind::Uint8, images.device()))?;
    augmented.f_copy_(images)?;
    if images.numel() == 0 {
        return Ok(augmented);
    }
    let longest = operations.iter().map(Vec::len).max().unwrap_or(0);
    for turn in 0..longest {
        let of_turn: Vec<Option<AugmentOperation>> = operations.iter().map(|list| list.get(turn).copied()).collect();
        augmented = tables::apply(augmented, &of_turn)?;
        augmented = enhance::apply(augmented, &of_turn)?;
        augmented = affine::apply(augmented, &of_turn, fill)?;
    }
    Ok(augmented)
}
