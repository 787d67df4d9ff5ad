//! View recipes: drawing and applying the augmentations of one kind of view.

#[cfg(test)]
mod tests;

use tch::{Device, Tensor};

use super::blur::{blur, check_blur};
use super::parameters::{NUMBERS_PER_IMAGE, draw_numbers};
use super::plan::whole_views;
use super::{
    IMAGENET_MEAN, IMAGENET_STD, ViewParameters, check_normalization, check_range, check_sides, color, normalize,
    resample,
};
use crate::error::{Error, Result, check_in, check_positive, check_shape};

/// Values that go through libtorch's operations together on a CPU: some 170 images of 32 x 32 pixels. A batch of 1024
/// such images in one piece takes twice as long, because every operation then goes to main memory and back.
const VALUES_IN_CACHE: i64 = 1 << 19;

/// The largest side of a view. A batch of 8192 x 8192 pixels exceeds any memory, and a typo must not exhaust it.
const MAX_SIZE: i64 = 1 << 13;

/// Limit of the strength of color jitter. Far beyond it, single precision overflows and black becomes NaN.
const MAX_STRENGTH: f64 = 1e6;

/// How to draw the views of one kind: the ranges and probabilities of all operations.
///
/// The fields are public and checked on use, so a custom recipe can start from a published one:
///
/// ```
/// use patchmix::augment::ViewRecipe;
///
/// let always_color = ViewRecipe { gray_probability: 0.0, ..ViewRecipe::first(32, 0.1) };
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct ViewRecipe {
    /// Side of the square view in pixels, `1..=8192`.
    pub size: i64,
    /// Range of the crop's share of the image's area, `0 < least <= greatest <= 1`.
    pub crop_scale: (f64, f64),
    /// Range of the crop's width divided by its height, `0 < least <= greatest`.
    pub crop_ratio: (f64, f64),
    /// Probability of a horizontal flip.
    pub flip_probability: f64,
    /// Probability of color jitter.
    pub jitter_probability: f64,
    /// Brightness factors are drawn from `max(0, 1 - brightness)..=1 + brightness`; at most 10^6.
    pub brightness: f64,
    /// Contrast factors, likewise.
    pub contrast: f64,
    /// Saturation factors, likewise.
    pub saturation: f64,
    /// The hue shifts by at most this share of the color circle in either direction, `0..=0.5`.
    pub hue: f64,
    /// Probability of grayscale.
    pub gray_probability: f64,
    /// Probability of Gaussian blur.
    pub blur_probability: f64,
    /// Range of the blur's standard deviation in pixels of the view, `0 < least <= greatest`: the radius of Pillow's
    /// `GaussianBlur`. At most 1000 in views of up to 700 pixels, and at most 7 in the largest.
    pub blur_sigma: (f64, f64),
    /// Probability of solarization, which inverts values of one half and above.
    pub solarize_probability: f64,
    /// Subtracted from red, green and blue at the end, in `0..=1`.
    pub mean: [f64; 3],
    /// Divides red, green and blue at the end, above 0.
    pub std: [f64; 3],
}

impl ViewRecipe {
    /// The first of the two published views: always blurred, never solarized.
    ///
    /// `size` is the side of the view in pixels, `crop_min_scale` the smallest share of the image's area in a crop
    /// (published: 0.1 for CIFAR, 0.05 for ImageNet, 0.35 with local crops).
    pub fn first(size: i64, crop_min_scale: f64) -> ViewRecipe {
        ViewRecipe {
            size,
            crop_scale: (crop_min_scale, 1.0),
            crop_ratio: (3.0 / 4.0, 4.0 / 3.0),
            flip_probability: 0.5,
            jitter_probability: 0.8,
            brightness: 0.4,
            contrast: 0.4,
            saturation: 0.2,
            hue: 0.1,
            gray_probability: 0.2,
            blur_probability: 1.0,
            blur_sigma: (0.1, 2.0),
            solarize_probability: 0.0,
            mean: IMAGENET_MEAN,
            std: IMAGENET_STD,
        }
    }

    /// The second of the two published views: rarely blurred, sometimes solarized. Arguments as for [`Self::first`].
    pub fn second(size: i64, crop_min_scale: f64) -> ViewRecipe {
        ViewRecipe { blur_probability: 0.1, solarize_probability: 0.2, ..ViewRecipe::first(size, crop_min_scale) }
    }

    /// The published local view: a small crop, blurred half of the time, never solarized.
    ///
    /// `size` is the side of the view in pixels (published: 96), `crop_scale` the range of the crop's share of the
    /// image's area (published: 0.05 to 0.35).
    pub fn local(size: i64, crop_scale: (f64, f64)) -> ViewRecipe {
        ViewRecipe { crop_scale, blur_probability: 0.5, ..ViewRecipe::first(size, crop_scale.0) }
    }

    /// Draws the parameters of one view for each of `batch_size` images of `height` x `width` pixels.
    ///
    /// Follows [`tch::manual_seed`]; drawn on the CPU whatever the device of the images, so that it never waits for a
    /// GPU. Every image takes the same count of random numbers, so its parameters depend only on the state of the
    /// generator and on its place in the batch.
    ///
    /// # Errors
    ///
    /// [`Error::Value`] if a setting or an argument is out of range; `batch_size` is at most 2^22. [`Error::Torch`] if
    /// the random numbers do not fit in memory.
    pub fn draw(&self, batch_size: i64, height: i64, width: i64) -> Result<Vec<ViewParameters>> {
        self.check()?;
        let numbers = draw_numbers(batch_size, (height, width), NUMBERS_PER_IMAGE)?;
        let rows = numbers.chunks_exact(NUMBERS_PER_IMAGE);
        Ok(rows.map(|row| ViewParameters::from_uniform(self, height, width, row)).collect())
    }

    /// Makes the views that `parameters` describe, one per image.
    ///
    /// `images` is `[B, 3, H, W]`, `Uint8` with values `0..=255` or a floating-point kind with values `0..=1`,
    /// contiguous or not. Returns `[B, 3, size, size]`, `Float`, normalized, on the same device, without gradient. Only
    /// `size`, `mean` and `std` of the recipe matter here.
    ///
    /// # Errors
    ///
    /// [`Error::Shape`] and [`Error::Kind`] for other images, or for more than 65,536 rows or columns; [`Error::Value`]
    /// if a setting is out of range, if there is not one entry of `parameters` per image, or if an entry does not fit
    /// its image.
    pub fn apply(&self, images: &Tensor, parameters: &[ViewParameters]) -> Result<Tensor> {
        self.check()?;
        check_shape("images", images, &[("B", None), ("3", Some(3)), ("H", None), ("W", None)])?;
        let (batch_size, _, height, width) = images.size4()?;
        check_sides(images, height, width)?;
        if parameters.len() as i64 != batch_size {
            let expected = format!("one entry for each of the {batch_size} images");
            return Err(Error::Value { name: "parameters", expected, actual: parameters.len() as f64 });
        }
        parameters.iter().try_for_each(|parameters| check_parameters(parameters, height, width, self.size))?;
        match whole_views(self, images, parameters, false)? {
            Some(views) => Ok(views),
            None => self.apply_in_steps(images, parameters),
        }
    }

    /// [`Self::apply`] by operations of libtorch.
    fn apply_in_steps(&self, images: &Tensor, parameters: &[ViewParameters]) -> Result<Tensor> {
        // The flip comes first instead of last: no step in between tells left from right, and here it costs nothing.
        self.in_chunks(images, parameters, |images, parameters| {
            resample::crop_resize_flip(images, parameters, self.size)
        })
    }

    /// Makes views of `cut`, which returns `Float` in `0..=1` of the recipe's size, followed by [`Self::finish`].
    fn in_chunks(
        &self,
        images: &Tensor,
        parameters: &[ViewParameters],
        cut: impl Fn(&Tensor, &[ViewParameters]) -> Result<Tensor>,
    ) -> Result<Tensor> {
        let _no_grad = tch::no_grad_guard();
        let (batch_size, _, height, width) = images.size4()?;
        let values_per_image = height.saturating_mul(width).max(self.size.saturating_mul(self.size)).saturating_mul(3);
        let chunk = match images.device() {
            Device::Cpu => (VALUES_IN_CACHE / values_per_image).max(1),
            _ => batch_size,
        };
        if batch_size <= chunk {
            return self.finish(cut(images, parameters)?, parameters);
        }
        let mut views = Vec::new();
        for (start, parameters) in (0..).step_by(chunk as usize).zip(parameters.chunks(chunk as usize)) {
            let images = images.f_narrow(0, start, parameters.len() as i64)?;
            views.push(self.finish(cut(&images, parameters)?, parameters)?);
        }
        Ok(Tensor::f_cat(&views, 0)?)
    }

    /// The operations after crop, resize and flip.
    fn finish(&self, views: Tensor, parameters: &[ViewParameters]) -> Result<Tensor> {
        let views = color::jitter_and_gray(views, parameters)?;
        let views = blur(views, parameters)?;
        let views = color::solarize(views, parameters)?;
        normalize(&views, self.mean, self.std)
    }

    /// Draws and makes one view of every image: [`Self::draw`], then [`Self::apply`].
    ///
    /// # Errors
    ///
    /// Those of [`Self::draw`] and [`Self::apply`].
    pub fn view(&self, images: &Tensor) -> Result<Tensor> {
        check_shape("images", images, &[("B", None), ("3", Some(3)), ("H", None), ("W", None)])?;
        let (batch_size, _, height, width) = images.size4()?;
        self.apply(images, &self.draw(batch_size, height, width)?)
    }

    /// [`Self::view`] without crop and resize, for images that were cropped while they were read from their files.
    ///
    /// `crops` is `[B, 3, size, size]`, otherwise like the images of [`Self::apply`]. Draws the same random numbers as
    /// [`Self::view`] and uses them in the same way.
    ///
    /// # Errors
    ///
    /// Those of [`Self::draw`] and [`Self::apply`]; [`Error::Shape`] for crops of another size.
    pub fn view_of_crops(&self, crops: &Tensor) -> Result<Tensor> {
        let side = Some(self.size);
        check_shape("crops", crops, &[("B", None), ("3", Some(3)), ("size", side), ("size", side)])?;
        let parameters = self.draw(crops.size()[0], self.size, self.size)?;
        match whole_views(self, crops, &parameters, true)? {
            Some(views) => Ok(views),
            None => self.in_chunks(crops, &parameters, resample::flip),
        }
    }

    /// An error unless every setting is within its range.
    fn check(&self) -> Result<()> {
        check_in("size", self.size, 1..=MAX_SIZE)?;
        check_range("crop_scale", self.crop_scale, 1.0)?;
        check_range("crop_ratio", self.crop_ratio, f64::MAX)?;
        check_range("blur_sigma", self.blur_sigma, f64::MAX)?;
        check_blur(self.blur_sigma.1, self.size)?;
        for (name, probability) in [
            ("flip_probability", self.flip_probability),
            ("jitter_probability", self.jitter_probability),
            ("gray_probability", self.gray_probability),
            ("blur_probability", self.blur_probability),
            ("solarize_probability", self.solarize_probability),
        ] {
            check_in(name, probability, 0.0..=1.0)?;
        }
        for (name, strength) in
            [("brightness", self.brightness), ("contrast", self.contrast), ("saturation", self.saturation)]
        {
            check_in(name, strength, 0.0..=MAX_STRENGTH)?;
        }
        check_in("hue", self.hue, 0.0..=0.5)?;
        check_normalization(self.mean, self.std)
    }
}

/// An error unless `parameters` can be applied to an image of `height` x `width` pixels for a view of `size` pixels.
fn check_parameters(parameters: &ViewParameters, height: i64, width: i64, size: i64) -> Result<()> {
    let crop = parameters.crop;
    check_in("crop top", crop.top, 0..height)?;
    check_in("crop height", crop.height, 1..=height - crop.top)?;
    check_in("crop left", crop.left, 0..width)?;
    check_in("crop width", crop.width, 1..=width - crop.left)?;
    if let Some(jitter) = parameters.jitter {
        for (name, factor) in
            [("brightness", jitter.brightness), ("contrast", jitter.contrast), ("saturation", jitter.saturation)]
        {
            check_in(name, factor, 0.0..=1.0 + MAX_STRENGTH)?;
        }
        check_in("hue", jitter.hue, -0.5..=0.5)?;
    }
    let Some(sigma) = parameters.blur_sigma else { return Ok(()) };
    check_positive("blur_sigma", sigma)?;
    check_blur(sigma, size)
}
