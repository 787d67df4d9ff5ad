//! Two-crop and multi-crop training views of a whole batch, as tensor operations on the batch's own device.
//!
//! A [`ViewRecipe`] says how views are drawn; [`ViewRecipe::view`] draws and makes one for every image:
//!
//! ```no_run
//! use patchmix::augment::ViewRecipe;
//!
//! let images = tch::Tensor::randint(256, [8, 3, 32, 32], (tch::Kind::Uint8, tch::Device::Cpu));
//! let first = ViewRecipe::first(32, 0.1).view(&images)?;
//! let second = ViewRecipe::second(32, 0.1).view(&images)?;
//! assert_eq!(first.size(), [8, 3, 32, 32]);
//! # Ok::<(), patchmix::Error>(())
//! ```
//!
//! Every image has parameters of its own, as with a loader that treats images one by one, and the operations are
//! torchvision's on tensors, in the order of MoCo v3: random resized crop, colour jitter, greyscale, Gaussian blur,
//! solarization, horizontal flip, normalization. Drawing and applying are separate steps ([`ViewRecipe::draw`],
//! [`ViewRecipe::apply`]), so that a view can be repeated, inspected or made of parameters of one's own.
//!
//! How a batch with a hundred different crops becomes a few large operations: resizing and blurring are linear in the
//! rows and in the columns, so each is two batched matrix products with a small matrix per image; brightness, contrast,
//! saturation and greyscale are affine in the three colours of a pixel, so each is one batched product with a 3 x 3
//! matrix per image. All decisions are made on the CPU and sent ahead, so that nothing waits for a GPU.
//!
//! What classifiers are trained with works the same way, drawn and then applied: [`PaddedCropRecipe`] and [`crop_padded`],
//! [`ErasingRecipe`] and [`erase`], and Mixup and CutMix, [`PairMixRecipe`], [`mix_pairs`] and their labels [`pair_targets`].

mod boxes;
mod color;
mod erasing;
mod padded_crop;
mod pairs;
mod parameters;
mod recipe;
mod resample;

pub use erasing::{ErasingRecipe, erase};
pub use padded_crop::{PaddedCrop, PaddedCropRecipe, crop_padded};
pub use pairs::{PairMix, PairMixRecipe, mix_pairs, pair_targets};
use parameters::draw_numbers;
pub use parameters::{ColorJitter, Crop, JitterStep, ViewParameters};
pub use recipe::ViewRecipe;

use tch::{Kind, Tensor};

use crate::error::{Error, Result, check_float, check_shape, check_value};
use crate::numbers::to_device;

/// Mean of the red, green and blue values of ImageNet, in `0..=1`.
pub const IMAGENET_MEAN: [f64; 3] = [0.485, 0.456, 0.406];

/// Standard deviation of the red, green and blue values of ImageNet, in `0..=1`.
pub const IMAGENET_STD: [f64; 3] = [0.229, 0.224, 0.225];

/// Brings images to the numbers that a model takes: `(value - mean) / std`, channel by channel.
///
/// `images` is `[B, 3, H, W]`, either `Uint8` with values `0..=255` or of a floating-point kind with values `0..=1`;
/// `mean` and `std` are in `0..=1` for both. Returns `Float` of the same shape on the same device.
///
/// # Errors
///
/// [`Error::Shape`] and [`Error::Kind`] for other images, [`Error::Value`] unless every `mean` is finite and every `std`
/// finite and above 0.
pub fn normalize(images: &Tensor, mean: [f64; 3], std: [f64; 3]) -> Result<Tensor> {
    check_normalization(mean, std)?;
    let full = full_value(images)?;
    // value / (full * std) - mean / std, as one product and one sum.
    let factor = std.map(|std| (1.0 / (full * std)) as f32);
    let offset = std::array::from_fn(|channel| (-mean[channel] / std[channel]) as f32);
    let per_channel = |values: [f32; 3]| -> Result<Tensor> {
        Ok(to_device(&Tensor::f_from_slice(&values)?, images.device())?.f_reshape([1, 3, 1, 1])?)
    };
    let scaled = images.f_to_kind(Kind::Float)?.f_mul(&per_channel(factor)?)?;
    Ok({ scaled }.f_add_(&per_channel(offset)?)?)
}

/// The images `[B, 3, H, W]`, of a floating-point kind, at `side` x `side` pixels (bicubic, antialiased); themselves where
/// they have that size.
///
/// # Errors
///
/// [`Error::Shape`] and [`Error::Kind`] for other images, [`Error::Value`] unless `side` is between 1 and 65,536.
pub fn resize(images: &Tensor, side: i64) -> Result<Tensor> {
    check_shape("images", images, &[("B", None), ("3", Some(3)), ("H", None), ("W", None)])?;
    check_float("images", images)?;
    check_value(
        "side",
        side as f64,
        &format!("between 1 and {MOST_IMAGE_SIDE}"),
        (1..=MOST_IMAGE_SIDE).contains(&side),
    )?;
    let (_, _, height, width) = images.size4()?;
    if (height, width) == (side, side) {
        return Ok(images.shallow_clone());
    }
    Ok(images.f_internal_upsample_bicubic2d_aa([side, side], false, None, None)?)
}

/// The value that stands for full brightness in `images`; an error unless they are `[B, 3, H, W]` of a fitting kind.
fn full_value(images: &Tensor) -> Result<f64> {
    check_shape("images", images, &[("B", None), ("3", Some(3)), ("H", None), ("W", None)])?;
    match images.f_kind()? {
        Kind::Uint8 => Ok(255.0),
        Kind::Half | Kind::BFloat16 | Kind::Float | Kind::Double => Ok(1.0),
        actual => Err(Error::Kind { name: "images", expected: "bytes or floating-point numbers", actual }),
    }
}

/// The largest side of an image that is augmented.
const MOST_IMAGE_SIDE: i64 = 1 << 16;

/// The sizes of `images`; an error unless they are `[B, 3, H, W]`, `count` of them, and of no absurd height or width.
fn check_images(images: &Tensor, count: usize) -> Result<(i64, i64, i64, i64)> {
    check_shape("images", images, &[("B", Some(count as i64)), ("3", Some(3)), ("H", None), ("W", None)])?;
    let (batch_size, channels, height, width) = images.size4()?;
    if height.max(width) > MOST_IMAGE_SIDE {
        let expected = format!("[B, 3, H, W] with H and W at most {MOST_IMAGE_SIDE}");
        return Err(Error::Shape { name: "images", expected, actual: images.size() });
    }
    Ok((batch_size, channels, height, width))
}

/// An error unless `0 < least <= greatest <= limit`, with the number that does not fit.
pub(crate) fn check_range(name: &'static str, (least, greatest): (f64, f64), limit: f64) -> Result<()> {
    check_value(name, least, "a range that begins above 0", least > 0.0 && least.is_finite())?;
    check_value(name, greatest, "a range that ends at its beginning or above", greatest >= least)?;
    check_value(name, greatest, &format!("a range that ends at {limit} or below"), greatest <= limit)
}

/// An error unless images can be normalized with `mean` and `std`.
fn check_normalization(mean: [f64; 3], std: [f64; 3]) -> Result<()> {
    for (mean, std) in mean.into_iter().zip(std) {
        check_value("mean", mean, "finite", mean.is_finite())?;
        // In single precision, which the images are in, something between the two must be left.
        let usable = |std: f64| std > 0.0 && std.is_finite() && ((1.0 / std) as f32).is_finite();
        check_value("std", std, "finite and above 0, by more than 1e-38", usable(std))?;
        check_value("mean", mean, "finite, also divided by std", ((mean / std) as f32).is_finite())?;
    }
    Ok(())
}

/// Replaces the images at `positions` of the batch by what `operation` makes of them.
fn on_some(mut images: Tensor, positions: &[i64], operation: impl FnOnce(&Tensor) -> Result<Tensor>) -> Result<Tensor> {
    if positions.is_empty() {
        return Ok(images);
    }
    if positions.len() as i64 == images.size()[0] {
        return operation(&images);
    }
    let positions = to_device(&Tensor::f_from_slice(positions)?, images.device())?;
    let changed = operation(&images.f_index_select(0, &positions)?)?;
    Ok(images.f_index_copy_(0, &positions, &changed)?)
}

/// The positions in the batch and the values of those images for which `choose` gives one.
fn chosen<P, V>(parameters: &[P], choose: impl Fn(&P) -> Option<V>) -> (Vec<i64>, Vec<V>) {
    (0..).zip(parameters).filter_map(|(position, parameters)| Some((position, choose(parameters)?))).unzip()
}
