//! From pixels to tokens: patches, and where they are.

use tch::Tensor;
use tch::nn::Path;

use super::layers::{glorot_bound, in_precision, uniform};
use super::{Precision, VitConfig};
use crate::error::Result;

/// One linear map of the pixels of every patch.
#[derive(Debug)]
pub(super) struct PatchEmbedding {
    weight: Tensor, // [width, 3, patch, patch]
    bias: Tensor,
    patch_size: i64,
    precision: Precision,
}

impl PatchEmbedding {
    pub(super) fn new(path: &Path<'_>, config: &VitConfig) -> Result<PatchEmbedding> {
        let patch_size = config.patch_size;
        let bound = glorot_bound(3 * patch_size * patch_size, config.width);
        Ok(PatchEmbedding {
            weight: path.f_var("weight", &[config.width, 3, patch_size, patch_size], uniform(bound))?,
            bias: path.f_zeros("bias", &[config.width])?,
            patch_size,
            precision: config.precision,
        })
    }

    /// Weights that are not trained from here on.
    pub(super) fn freeze(&self) -> Result<()> {
        for weight in [&self.weight, &self.bias] {
            let _ = weight.f_set_requires_grad(false)?;
        }
        Ok(())
    }

    /// `[B, 3, H, W]` to `[B, T, width]`, patches row by row.
    pub(super) fn forward(&self, images: &Tensor) -> Result<Tensor> {
        let cast = |tensor: &Tensor| in_precision(tensor, self.precision);
        let stride = [self.patch_size, self.patch_size];
        let bias = Some(cast(&self.bias)?);
        let grid = cast(images)?.f_conv2d(&cast(&self.weight)?, bias, stride, [0, 0], [1, 1], 1)?;
        Ok(grid.f_flatten(2, 3)?.f_transpose(1, 2)?)
    }
}

/// A learned vector for the class token and for every position of a patch.
#[derive(Debug)]
pub(super) struct PositionEmbedding {
    embedding: Tensor, // [1, 1 + side * side, width]
    side: i64,
}

impl PositionEmbedding {
    pub(super) fn new(path: &Path<'_>, config: &VitConfig) -> Result<PositionEmbedding> {
        const INITIAL_STD: f64 = 0.02;
        let embedding = path.f_randn("pos_embed", &[1, 1 + config.patches(), config.width], 0.0, INITIAL_STD)?;
        Ok(PositionEmbedding { embedding, side: config.image_size / config.patch_size })
    }

    /// The embedding for a grid of patches, `[1, 1 + rows * columns, width]`; bicubic where it is not the learned grid.
    pub(super) fn for_grid(&self, rows: i64, columns: i64) -> Result<Tensor> {
        let side = self.side;
        if (rows, columns) == (side, side) {
            return Ok(self.embedding.shallow_clone());
        }
        // The published code nudges the scale so that rounding cannot lose a row, and so do all its models' features.
        let scale = |patches: i64| (patches as f64 + 0.1) / side as f64;
        let (of_class, of_patches) = (self.embedding.f_narrow(1, 0, 1)?, self.embedding.f_narrow(1, 1, side * side)?);
        let interpolated = of_patches
            .f_reshape([1, side, side, -1])?
            .f_permute([0, 3, 1, 2])?
            .f_upsample_bicubic2d([rows, columns], false, scale(rows), scale(columns))?
            .f_permute([0, 2, 3, 1])?
            .f_reshape([1, rows * columns, -1])?;
        Ok(Tensor::f_cat(&[of_class, interpolated], 1)?)
    }
}
