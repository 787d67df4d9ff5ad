//! Patch embedding and position embedding.

use tch::nn::Path;
use tch::{Tensor, no_grad_guard};

use super::layers::{glorot_bound, in_precision, uniform};
use super::{Precision, VitConfig};
use crate::error::Result;

/// A linear map of the pixels of each patch to a token.
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

    /// Excludes the weights from training.
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

/// Learned vectors for the class token and for every patch position.
#[derive(Debug)]
pub(super) struct PositionEmbedding {
    embedding: Tensor, // [1, 1 + side * side, width]
    side: i64,
}

impl PositionEmbedding {
    pub(super) fn new(path: &Path<'_>, config: &VitConfig) -> Result<PositionEmbedding> {
        const INITIAL_STD: f64 = 0.02;
        let embedding = path.f_randn("pos_embed", &[1, 1 + config.patches(), config.width], 0.0, INITIAL_STD)?;
        Ok(PositionEmbedding::of(embedding, config))
    }

    /// A learned embedding `[1, 1 + patches, width]` of an encoder of this shape.
    pub(super) fn of(embedding: Tensor, config: &VitConfig) -> PositionEmbedding {
        PositionEmbedding { embedding, side: config.image_size / config.patch_size }
    }

    /// The embedding for a grid of patches, `[1, 1 + rows * columns, width]`, interpolated (bicubic) for other grids
    /// than the learned one.
    pub(super) fn for_grid(&self, rows: i64, columns: i64) -> Result<Tensor> {
        let side = self.side;
        if (rows, columns) == (side, side) {
            return Ok(self.embedding.shallow_clone());
        }
        let (class_token, patches) = (self.embedding.f_narrow(1, 0, 1)?, self.embedding.f_narrow(1, 1, side * side)?);
        // Matrix products over rows, then columns, because the backward pass of libtorch's bicubic interpolation is not
        // deterministic on a GPU. Like other products they may round to TF32 there.
        let by_row = patches.f_reshape([side, -1])?; // [side, side * width]
        let by_row = self.interpolation(rows)?.f_mm(&by_row)?.f_reshape([rows, side, -1])?;
        let interpolated = self.interpolation(columns)?.f_matmul(&by_row)?; // [rows, columns, width]
        let interpolated = interpolated.f_reshape([1, rows * columns, -1])?;
        Ok(Tensor::f_cat(&[class_token, interpolated], 1)?)
    }

    /// The matrix `[patches, side]` of bicubic interpolation from a side of the learned grid to `patches` places, made
    /// by interpolating the unit vectors.
    fn interpolation(&self, patches: i64) -> Result<Tensor> {
        let _no_grad = no_grad_guard();
        // The published code adds 0.1 so that rounding cannot lose a row. Features only match with the same offset.
        let scale = (patches as f64 + 0.1) / self.side as f64;
        let options = (self.embedding.f_kind()?, self.embedding.device());
        let units = Tensor::f_eye(self.side, options)?.f_view([1, self.side, self.side, 1])?;
        let read = units.f_upsample_bicubic2d([patches, 1], false, scale, 1.0)?; // [1, side, patches, 1]
        Ok(read.f_view([self.side, patches])?.f_transpose(0, 1)?)
    }
}
