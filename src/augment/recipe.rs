//! How the views of one kind are drawn and made.

use tch::{Device, Tensor};

use super::parameters::{NUMBERS_PER_IMAGE, draw_numbers};
use super::{
    IMAGENET_MEAN, IMAGENET_STD, MOST_IMAGE_SIDE, ViewParameters, check_normalization, check_range, color, normalize,
    resample,
};
use crate::error::{Error, Result, check_shape, check_value};

/// How many values go through the operations together on a CPU: some 170 images of 32 x 32 pixels. A batch of 1024
/// in one piece takes twice as long, since every operation then goes to main memory and back.
const VALUES_IN_CACHE: i64 = 1 << 19;

/// The largest side of a view: a batch of views of 8192 x 8192 pixels is more than any machine makes at once, and the
/// number alone must not make it try.
const MOST_SIZE: i64 = 1 << 13;

/// The most numbers in the table of a blur: 2 GB, for kernels that reach across a view of 800 pixels.
const MOST_BLUR_NUMBERS: i64 = 1 << 29;

/// The largest strength of the colour jitter: far beyond, single precision leaves its range and black becomes NaN.
const MOST_STRENGTH: f64 = 1e6;

/// How the views of one kind are drawn: the ranges and probabilities of every operation.
///
/// The fields are public and checked when the recipe is used, so that a recipe of one's own starts from a published one:
///
/// ```
/// use patchmix::augment::ViewRecipe;
///
/// let coloured = ViewRecipe { grey_probability: 0.0, ..ViewRecipe::first(32, 0.1) };
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct ViewRecipe {
    /// Side of the square view in pixels, `1..=8192`.
    pub size: i64,
    /// Least and greatest share of the image's area that is shown, `0 < least <= greatest <= 1`.
    pub crop_scale: (f64, f64),
    /// Least and greatest width of the crop divided by its height, `0 < least <= greatest`.
    pub crop_ratio: (f64, f64),
    /// Probability that left and right are swapped.
    pub flip_probability: f64,
    /// Probability of colour jitter.
    pub jitter_probability: f64,
    /// Brightness factors lie within this of 1, and not below 0; at most 10^6.
    pub brightness: f64,
    /// Contrast factors lie within this of 1, and not below 0; at most 10^6.
    pub contrast: f64,
    /// Saturation factors lie within this of 1, and not below 0; at most 10^6.
    pub saturation: f64,
    /// Hue turns by at most this share of the colour circle either way, `0..=0.5`.
    pub hue: f64,
    /// Probability that the view is greyscale.
    pub grey_probability: f64,
    /// Probability that the view is blurred.
    pub blur_probability: f64,
    /// Least and greatest standard deviation of the blur in pixels of the view, `0 < least <= greatest`. Kernels as wide
    /// as the view are only made for views of up to 800 pixels.
    pub blur_sigma: (f64, f64),
    /// Probability that values from one half upwards are inverted.
    pub solarize_probability: f64,
    /// Subtracted from red, green and blue at the end, in `0..=1`.
    pub mean: [f64; 3],
    /// Divides red, green and blue at the end, above 0.
    pub std: [f64; 3],
}

impl ViewRecipe {
    /// The first of the two published views: always blurred, never solarized.
    ///
    /// `size` is the side of the view in pixels; `crop_min_scale` the least share of the image's area that is shown
    /// (published: 0.1 for CIFAR, 0.05 for ImageNet, 0.35 beside small crops).
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
            grey_probability: 0.2,
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

    /// The published small views beside two large ones: of a small part of the image, blurred half of the time, never
    /// solarized.
    ///
    /// `size` is the side of the view in pixels (published: 96), `crop_scale` the least and greatest share of the image's
    /// area that is shown (published: 0.05 to 0.35).
    pub fn local(size: i64, crop_scale: (f64, f64)) -> ViewRecipe {
        ViewRecipe { crop_scale, blur_probability: 0.5, ..ViewRecipe::first(size, crop_scale.0) }
    }

    /// Draws the parameters of one view for each of `batch_size` images of `height` x `width` pixels.
    ///
    /// Follows [`tch::manual_seed`]; drawn on the CPU whatever the device of the images, so that no GPU is waited for.
    /// An image takes the same count of random numbers whatever they decide, so its parameters depend on the state of
    /// the generator and on its place in the batch only.
    ///
    /// # Errors
    ///
    /// [`Error::Value`] if a setting of the recipe or an argument lies outside its range; `batch_size` is at most 2^22.
    /// [`Error::Torch`] if so many parameters do not fit in memory.
    pub fn draw(&self, batch_size: i64, height: i64, width: i64) -> Result<Vec<ViewParameters>> {
        self.check()?;
        let numbers = draw_numbers(batch_size, (height, width), NUMBERS_PER_IMAGE)?;
        let rows = numbers.chunks_exact(NUMBERS_PER_IMAGE);
        Ok(rows.map(|row| ViewParameters::from_uniform(self, height, width, row)).collect())
    }

    /// Makes the views that `parameters` describe, one for every image.
    ///
    /// `images` is `[B, 3, H, W]`, `Uint8` with values `0..=255` or a floating-point kind with values `0..=1`,
    /// contiguous or not. Returns `[B, 3, size, size]`, `Float`, normalized, on the same device, without gradient. Of
    /// the recipe, only `size`, `mean`, `std` and the greatest `blur_sigma` matter here; the latter gives the width of
    /// the blur's kernel (three standard deviations to either side, at most the view's side less one pixel).
    ///
    /// # Errors
    ///
    /// [`Error::Shape`] and [`Error::Kind`] for other images, or of more than 65,536 rows or columns; [`Error::Value`] if a setting of the recipe lies outside
    /// its range, if there are more or fewer parameters than images, or if they do not suit the images.
    pub fn apply(&self, images: &Tensor, parameters: &[ViewParameters]) -> Result<Tensor> {
        self.check()?;
        check_shape("images", images, &[("B", None), ("3", Some(3)), ("H", None), ("W", None)])?;
        let (batch_size, _, height, width) = images.size4()?;
        if height.max(width) > MOST_IMAGE_SIDE {
            let expected = format!("[B, 3, H, W] with H and W at most {MOST_IMAGE_SIDE}");
            return Err(Error::Shape { name: "images", expected, actual: images.size() });
        }
        if parameters.len() as i64 != batch_size {
            let expected = format!("a list of one entry for each of the {batch_size} images");
            return Err(Error::Value { name: "parameters", expected, actual: parameters.len() as f64 });
        }
        parameters.iter().try_for_each(|parameters| check_parameters(parameters, height, width))?;
        // The flip comes first instead of last: all between treats left and right alike, and here it costs nothing.
        self.in_chunks(images, parameters, |images, parameters| {
            resample::crop_resize_flip(images, parameters, self.size)
        })
    }

    /// Makes the views by `cut`, which gives `Float` in `0..=1` of the recipe's size, and all that comes after it.
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

    /// What is done to views that are cut, resized and flipped.
    fn finish(&self, views: Tensor, parameters: &[ViewParameters]) -> Result<Tensor> {
        let views = color::jitter_and_grey(views, parameters)?;
        let views = resample::blur(views, parameters, self.blur_sigma.1)?;
        let views = color::solarize(views, parameters)?;
        normalize(&views, self.mean, self.std)
    }

    /// Draws and makes one view of every image: [`Self::draw`] and [`Self::apply`], which say what goes in and out.
    ///
    /// # Errors
    ///
    /// Those of [`Self::draw`] and [`Self::apply`].
    pub fn view(&self, images: &Tensor) -> Result<Tensor> {
        check_shape("images", images, &[("B", None), ("3", Some(3)), ("H", None), ("W", None)])?;
        let (batch_size, _, height, width) = images.size4()?;
        self.apply(images, &self.draw(batch_size, height, width)?)
    }

    /// Draws and makes one view of every image that is cut and resized already, as a folder of images is read: all of
    /// [`Self::view`] but crop and resize.
    ///
    /// `crops` is `[B, 3, size, size]`, otherwise like the images of [`Self::apply`]. As many random numbers are drawn as for
    /// [`Self::view`], and used alike.
    ///
    /// # Errors
    ///
    /// Those of [`Self::draw`] and [`Self::apply`]; [`Error::Shape`] also for crops of another size.
    pub fn view_of_crops(&self, crops: &Tensor) -> Result<Tensor> {
        let side = Some(self.size);
        check_shape("crops", crops, &[("B", None), ("3", Some(3)), ("size", side), ("size", side)])?;
        let parameters = self.draw(crops.size()[0], self.size, self.size)?;
        self.in_chunks(crops, &parameters, resample::flip)
    }

    /// An error unless every setting lies within its range.
    fn check(&self) -> Result<()> {
        let expected = format!("between 1 and {MOST_SIZE}");
        check_value("size", self.size as f64, &expected, (1..=MOST_SIZE).contains(&self.size))?;
        check_range("crop_scale", self.crop_scale, 1.0)?;
        check_range("crop_ratio", self.crop_ratio, f64::MAX)?;
        check_range("blur_sigma", self.blur_sigma, f64::MAX)?;
        let numbers = (resample::blur_radius(self.blur_sigma.1, self.size) + 1) * self.size * self.size;
        let expected = format!("a range that ends low enough for views of {} pixels", self.size);
        check_value("blur_sigma", self.blur_sigma.1, &expected, numbers <= MOST_BLUR_NUMBERS)?;
        for (name, probability) in [
            ("flip_probability", self.flip_probability),
            ("jitter_probability", self.jitter_probability),
            ("grey_probability", self.grey_probability),
            ("blur_probability", self.blur_probability),
            ("solarize_probability", self.solarize_probability),
        ] {
            check_value(name, probability, "between 0 and 1", (0.0..=1.0).contains(&probability))?;
        }
        for (name, strength) in
            [("brightness", self.brightness), ("contrast", self.contrast), ("saturation", self.saturation)]
        {
            let expected = format!("between 0 and {MOST_STRENGTH}");
            check_value(name, strength, &expected, (0.0..=MOST_STRENGTH).contains(&strength))?;
        }
        check_value("hue", self.hue, "between 0 and 0.5", (0.0..=0.5).contains(&self.hue))?;
        check_normalization(self.mean, self.std)
    }
}

/// An error unless `parameters` can be applied to an image of `height` x `width` pixels.
fn check_parameters(parameters: &ViewParameters, height: i64, width: i64) -> Result<()> {
    let crop = parameters.crop;
    for (name, start, length, limit) in
        [("crop rows", crop.top, crop.height, height), ("crop columns", crop.left, crop.width, width)]
    {
        let expected = format!("at least 1, all of them within the image's {limit}");
        check_value(name, start as f64, &expected, (0..limit).contains(&start))?;
        check_value(name, length as f64, &expected, (1..=limit - start).contains(&length))?;
    }
    if let Some(jitter) = parameters.jitter {
        for (name, factor) in
            [("brightness", jitter.brightness), ("contrast", jitter.contrast), ("saturation", jitter.saturation)]
        {
            const MOST: f64 = 1.0 + MOST_STRENGTH;
            check_value(name, factor, &format!("between 0 and {MOST}"), (0.0..=MOST).contains(&factor))?;
        }
        check_value("hue", jitter.hue, "between -0.5 and 0.5", (-0.5..=0.5).contains(&jitter.hue))?;
    }
    parameters.blur_sigma.map_or(Ok(()), |sigma| {
        check_value("blur_sigma", sigma, "finite and above 0", sigma > 0.0 && sigma.is_finite())
    })
}
