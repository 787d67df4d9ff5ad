//! Encoder files made fit for other images: of another size, or normalized in another way.

use tch::{Kind, Tensor};

use super::embed::PositionEmbedding;
use super::file::{EncoderFile, PATCH_BIAS, PATCH_WEIGHT, POSITIONS};
#[cfg(doc)]
use super::{Vit, VitConfig};
use crate::error::Result;

impl EncoderFile {
    /// The encoder for images of `image_size` pixels a side.
    ///
    /// The position embedding is interpolated (bicubic) as [`Vit::tokens`] does it for such images, so their features
    /// stay the same.
    ///
    /// # Errors
    ///
    /// [`Error::Weights`](crate::Error::Weights) for the reasons of [`EncoderFile::save`]; those of
    /// [`VitConfig::check`] for the new size.
    pub fn for_image_size(&self, image_size: i64) -> Result<EncoderFile> {
        self.check()?;
        let mut file = self.shallow_clone();
        file.config.image_size = image_size;
        file.config.check()?;
        let side = image_size / self.config.patch_size;
        let learned = self.tensors[POSITIONS].f_detach()?.f_to_kind(Kind::Float)?;
        let interpolated = PositionEmbedding::of(learned, &self.config).for_grid(side, side)?;
        file.tensors.insert(POSITIONS.to_owned(), interpolated);
        Ok(file)
    }

    /// The encoder for images that are normalized by another `mean` and `std` of the channels.
    ///
    /// The difference goes into the patch embedding, so the features of an image stay the same, up to rounding.
    ///
    /// # Errors
    ///
    /// [`Error::Weights`](crate::Error::Weights) for the reasons of [`EncoderFile::save`];
    /// [`Error::Value`](crate::Error::Value) unless `mean` is finite and `std` positive and finite.
    pub fn for_normalization(&self, mean: [f64; 3], std: [f64; 3]) -> Result<EncoderFile> {
        self.check()?;
        let mut file = EncoderFile { mean, std, ..self.shallow_clone() };
        file.check()?;
        if (mean, std) == (self.mean, self.std) {
            return Ok(file);
        }
        // For a pixel p, w (p - m) / s = w s' / s * (p - m') / s' + w (m' - m) / s.
        let per_channel = |number: &dyn Fn(usize) -> f64| {
            Tensor::f_from_slice(&[0, 1, 2].map(number))?
                .f_view([1, 3, 1, 1])?
                .f_to_device(self.tensors[POSITIONS].device())
        };
        let exact = |name: &str| self.tensors[name].f_detach()?.f_to_kind(Kind::Double);
        let (weight, bias) = (exact(PATCH_WEIGHT)?, exact(PATCH_BIAS)?); // [width, 3, patch, patch], [width]
        let scaled = weight.f_mul(&per_channel(&|channel| std[channel] / self.std[channel])?)?;
        let shifted =
            weight.f_mul(&per_channel(&|channel| (mean[channel] - self.mean[channel]) / self.std[channel])?)?;
        let shift = shifted.f_flatten(1, -1)?.f_sum_dim_intlist([1].as_slice(), false, Kind::Double)?;
        file.tensors.insert(PATCH_WEIGHT.to_owned(), scaled.f_to_kind(Kind::Float)?);
        file.tensors.insert(PATCH_BIAS.to_owned(), bias.f_add(&shift)?.f_to_kind(Kind::Float)?);
        Ok(file)
    }

    /// A file whose tensors share their memory with this one's.
    fn shallow_clone(&self) -> EncoderFile {
        let tensors = self.tensors.iter().map(|(name, tensor)| (name.clone(), tensor.shallow_clone()));
        EncoderFile { config: self.config.clone(), tensors: tensors.collect(), ..*self }
    }
}
