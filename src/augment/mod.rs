//! Two-crop and multi-crop training views of a whole batch, as tensor operations on the batch's own device.
//!
//! A [`ViewRecipe`] describes how views are drawn; [`ViewRecipe::view`] draws and makes one view per image:
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
//! Every image gets its own parameters, as in a loader that augments images one by one. The operations are
//! torchvision's on tensors, but for the blur, which is Pillow's as published. Their order is that of MoCo v3:
//! RandomResizedCrop, color jitter, grayscale, Gaussian blur, solarization, horizontal flip, normalization. Nothing is
//! rounded to bytes in between. Drawing and applying are separate steps ([`ViewRecipe::draw`],
//! [`ViewRecipe::apply`]), so that a view can be repeated, inspected or built from other parameters.
//!
//! A batch with a hundred different crops still takes one operation. On a CPU, an image stays in a core's cache from
//! its crop to its normalization; on a GPU, a few kernels work on all images. What these do not support is left to
//! operations of libtorch: resizing and blurring are linear in rows and in columns, so two batched matrix products with
//! a small matrix per image; brightness, contrast, saturation and grayscale are affine in the three channels of a
//! pixel, so one with a 3 x 3 matrix. All decisions are made on the CPU and sent ahead: nothing waits for a GPU.
//!
//! The augmentations for classifiers are also drawn first and applied second: [`RandomCrop`] with [`crop_padded`],
//! [`RandAugment`] with [`rand_augment`], [`RandomErasing`] with [`erase`], and [`MixupCutMix`] with [`mix_pairs`] and
//! the labels of [`pair_targets`].

mod blur;
mod boxes;
mod color;
mod mixup;
mod parameters;
mod plan;
mod rand_augment;
mod random_crop;
mod random_erasing;
mod recipe;
mod resample;

pub use mixup::{MixupCutMix, PairMix, mix_pairs, pair_targets};
use parameters::draw_numbers;
pub use parameters::{ColorJitter, Crop, JitterStep, ViewParameters};
pub use rand_augment::{AugmentOperation, RandAugment, rand_augment};
pub use random_crop::{PaddedCrop, RandomCrop, crop_padded};
pub use random_erasing::{RandomErasing, erase};
pub use recipe::ViewRecipe;
pub(crate) use resample::cubic;

use tch::{Kind, Tensor};

use crate::error::{Error, Result, check_float, check_in, check_shape, check_value};
use crate::numbers::to_device;

/// Mean of the red, green and blue values of ImageNet, in `0..=1`.
pub const IMAGENET_MEAN: [f64; 3] = [0.485, 0.456, 0.406];

/// Standard deviation of the red, green and blue values of ImageNet, in `0..=1`.
pub const IMAGENET_STD: [f64; 3] = [0.229, 0.224, 0.225];

/// Normalizes images for a model: `(value - mean) / std`, channel by channel.
///
/// `images` is `[B, 3, H, W]`, either `Uint8` with values `0..=255` or of a floating-point kind with values `0..=1`;
/// `mean` and `std` are in `0..=1` for both. Returns `Float` of the same shape on the same device.
///
/// # Errors
///
/// [`Error::Shape`] and [`Error::Kind`] for other images, [`Error::Value`] unless every `mean` is finite and every
/// `std` finite and above 0.
pub fn normalize(images: &Tensor, mean: [f64; 3], std: [f64; 3]) -> Result<Tensor> {
    check_normalization(mean, std)?;
    let full = full_value(images)?;
    // (value - full * mean) / (full * std), as one difference and one product.
    let shift = mean.map(|mean| (full * mean) as f32);
    let factor = std.map(|std| (1.0 / (full * std)) as f32);
    let per_channel = |values: [f32; 3]| -> Result<Tensor> {
        Ok(to_device(&Tensor::f_from_slice(&values)?, images.device())?.f_reshape([1, 3, 1, 1])?)
    };
    let shifted = images.f_to_kind(Kind::Float)?.f_sub(&per_channel(shift)?)?;
    Ok({ shifted }.f_mul_(&per_channel(factor)?)?)
}

/// Resizes images `[B, 3, H, W]` of a floating-point kind to `side` x `side` pixels (bicubic, antialiased). Images of
/// that size are returned as they are.
///
/// # Errors
///
/// [`Error::Shape`] and [`Error::Kind`] for other images, [`Error::Value`] unless `side` is between 1 and 65,536.
pub fn resize(images: &Tensor, side: i64) -> Result<Tensor> {
    check_shape("images", images, &[("B", None), ("3", Some(3)), ("H", None), ("W", None)])?;
    check_float("images", images)?;
    check_in("side", side, 1..=MAX_IMAGE_SIDE)?;
    let (_, _, height, width) = images.size4()?;
    if (height, width) == (side, side) {
        return Ok(images.shallow_clone());
    }
    Ok(images.f_internal_upsample_bicubic2d_aa([side, side], false, None, None)?)
}

/// The value of full brightness in `images`: 255 or 1. An error unless they are `[B, 3, H, W]` of a supported kind.
fn full_value(images: &Tensor) -> Result<f64> {
    check_shape("images", images, &[("B", None), ("3", Some(3)), ("H", None), ("W", None)])?;
    match images.f_kind()? {
        Kind::Uint8 => Ok(255.0),
        Kind::Half | Kind::BFloat16 | Kind::Float | Kind::Double => Ok(1.0),
        actual => Err(Error::Kind { name: "images", expected: "of bytes or a floating-point kind", actual }),
    }
}

/// The largest side of an image to augment.
const MAX_IMAGE_SIDE: i64 = 1 << 16;

/// The sizes of `images`; an error unless they are `[B, 3, H, W]`, `count` of them, with sides up to
/// [`MAX_IMAGE_SIDE`].
fn check_images(images: &Tensor, count: usize) -> Result<(i64, i64, i64, i64)> {
    check_shape("images", images, &[("B", Some(count as i64)), ("3", Some(3)), ("H", None), ("W", None)])?;
    let (batch_size, channels, height, width) = images.size4()?;
    check_sides(images, height, width)?;
    Ok((batch_size, channels, height, width))
}

/// An error if `images`, of `height` x `width` pixels, are larger than [`MAX_IMAGE_SIDE`].
fn check_sides(images: &Tensor, height: i64, width: i64) -> Result<()> {
    if height.max(width) <= MAX_IMAGE_SIDE {
        return Ok(());
    }
    let expected = format!("[B, 3, H, W] with H and W at most {MAX_IMAGE_SIDE}");
    Err(Error::Shape { name: "images", expected, actual: images.size() })
}

/// An error unless `0 < least <= greatest <= limit`, naming the end of the range that is wrong.
pub(crate) fn check_range(name: &'static str, (least, greatest): (f64, f64), limit: f64) -> Result<()> {
    check_value(name, least, "a range that starts above 0", least > 0.0 && least.is_finite())?;
    check_value(name, greatest, "a range that ends at or above its start", greatest >= least)?;
    if greatest <= limit {
        return Ok(());
    }
    Err(Error::Value { name, expected: format!("a range that ends at or below {limit}"), actual: greatest })
}

/// An error unless images can be normalized with `mean` and `std`.
fn check_normalization(mean: [f64; 3], std: [f64; 3]) -> Result<()> {
    for (mean, std) in mean.into_iter().zip(std) {
        // Bytes are compared with 255 times the mean.
        check_value("mean", mean, "finite, even times 255", ((255.0 * mean) as f32).is_finite())?;
        // Images are in single precision, in which 1 / std must not overflow.
        let usable = |std: f64| std > 0.0 && std.is_finite() && ((1.0 / std) as f32).is_finite();
        check_value("std", std, "finite and above 1e-38", usable(std))?;
        check_value("mean", mean, "finite, even when divided by std", ((mean / std) as f32).is_finite())?;
    }
    Ok(())
}

/// Applies `operation` to the images at `positions` of the batch only.
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

/// The positions and values of the entries for which `choose` returns a value.
fn chosen<P, V>(parameters: &[P], choose: impl Fn(&P) -> Option<V>) -> (Vec<i64>, Vec<V>) {
    (0..).zip(parameters).filter_map(|(position, parameters)| Some((position, choose(parameters)?))).unzip()
}
