//! The Vision Transformer encoder, with the parameter names of timm's `vision_transformer`.
//!
//! Pre-norm blocks, a class token, a learned position embedding that is interpolated for other image sizes, no
//! classifier. The `state_dict` of a timm model of the same shape matches the `VarStore` name by name, and an
//! [`EncoderFile`] carries the weights from one to the other.

mod adapt;
mod attention;
mod block;
mod embed;
mod features;
mod file;
mod layers;
mod residual;

use tch::{Tensor, nn};

use crate::error::{Error, Result, check_in, check_shape};
use block::Block;
use embed::{PatchEmbedding, PositionEmbedding};
pub use features::Pooling;
pub use file::EncoderFile;
use layers::LayerNorm;
pub(crate) use layers::{Linear, fan_in_bound};
use residual::Residual;

/// The precision of matrix products, attention and the operations between two products. Weights, norms, the residual
/// stream and the losses keep the dtype of the weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Precision {
    /// The dtype of the weights, which is `Float` unless the `VarStore` was given another. (On a GPU, cuDNN computes
    /// the patch embedding's convolution in TF32 by default.)
    #[default]
    Full,
    /// bfloat16: half the memory traffic, and faster on hardware that supports it.
    BFloat16,
}

/// The shape of a Vision Transformer.
#[derive(Debug, Clone, PartialEq)]
pub struct VitConfig {
    /// Height and width in pixels of the images that the position embedding is learned for; it is interpolated for
    /// others.
    pub image_size: i64,
    /// Side of a patch in pixels.
    pub patch_size: i64,
    /// Features of a token.
    pub width: i64,
    /// Number of blocks.
    pub depth: i64,
    /// Attention heads per block; they must divide the width.
    pub heads: i64,
    /// Hidden width of a block's multilayer perceptron, in multiples of `width`.
    pub mlp_ratio: i64,
    /// Drop path: the probability that training skips the last block's branches for an image. It grows linearly from 0
    /// at the first block.
    pub drop_path: f64,
    /// The precision of the matrix products.
    pub precision: Precision,
}

impl VitConfig {
    fn published(image_size: i64, patch_size: i64, width: i64, heads: i64) -> VitConfig {
        let (depth, mlp_ratio, drop_path, precision) = (12, 4, 0.1, Precision::Full);
        VitConfig { image_size, patch_size, width, depth, heads, mlp_ratio, drop_path, precision }
    }

    /// ViT-T: width 192, 12 blocks, 3 heads, drop path 0.1.
    pub fn tiny(image_size: i64, patch_size: i64) -> VitConfig {
        VitConfig::published(image_size, patch_size, 192, 3)
    }

    /// ViT-S as the paper trains it: width 384, 12 blocks, **12** heads (timm's `vit_small` has 6), drop path 0.1.
    pub fn small(image_size: i64, patch_size: i64) -> VitConfig {
        VitConfig::published(image_size, patch_size, 384, 12)
    }

    /// ViT-B: width 768, 12 blocks, 12 heads, drop path 0.1.
    pub fn base(image_size: i64, patch_size: i64) -> VitConfig {
        VitConfig::published(image_size, patch_size, 768, 12)
    }

    /// Number of patches of an image of `image_size`; 0 for a shape that [`VitConfig::check`] refuses because not one
    /// patch fits.
    pub fn patches(&self) -> i64 {
        let side = self.image_size.checked_div(self.patch_size).unwrap_or(0).max(0);
        side.saturating_mul(side)
    }

    /// Number of parameters of a model of this shape, which must be checked.
    fn parameters(&self) -> i128 {
        let [width, depth, ratio, patch] = [self.width, self.depth, self.mlp_ratio, self.patch_size].map(i128::from);
        // The weights of attention and perceptron, then biases and norms.
        let block = width * width * (4 + 2 * ratio) + width * (9 + ratio);
        width * (3 * patch * patch + i128::from(self.patches()) + 5) + depth * block
    }

    /// Checks the settings; the error names the wrong one.
    ///
    /// # Errors
    ///
    /// [`Error::PatchSize`] if the image does not divide into patches, [`Error::Value`] for any other setting and for
    /// more than 2^32 parameters: some systems accept such an allocation and kill the process later.
    pub fn check(&self) -> Result<()> {
        let sizes = [
            ("image_size", self.image_size),
            ("patch_size", self.patch_size),
            ("width", self.width),
            ("depth", self.depth),
            ("heads", self.heads),
            ("mlp_ratio", self.mlp_ratio),
        ];
        for (name, value) in sizes {
            // The upper bound keeps all products of sizes within an i64; it is far beyond any memory.
            check_in(name, value, 1..=1 << 15)?;
        }
        if self.image_size % self.patch_size != 0 {
            let (height, width, patch_size) = (self.image_size, self.image_size, self.patch_size);
            return Err(Error::PatchSize { height, width, patch_size });
        }
        if self.width % self.heads != 0 {
            let expected = format!("a divisor of the width {}", self.width);
            return Err(Error::Value { name: "heads", expected, actual: self.heads as f64 });
        }
        check_in("drop_path", self.drop_path, 0.0..1.0)?;
        check_parameters(self.parameters())
    }
}

/// A Vision Transformer without a head.
#[derive(Debug)]
pub struct Vit {
    config: VitConfig,
    patch_embedding: PatchEmbedding,
    class_token: Tensor,
    position_embedding: PositionEmbedding,
    blocks: Vec<Block>,
    norm: LayerNorm,
}

impl Vit {
    /// Makes a model under `path` with random weights, which follow [`tch::manual_seed`].
    ///
    /// # Errors
    ///
    /// Those of [`VitConfig::check`]; [`Error::Torch`] if there is no memory for it.
    pub fn new(path: &nn::Path<'_>, config: &VitConfig) -> Result<Vit> {
        /// Nearly zero: its position embedding tells the class token apart.
        const CLASS_TOKEN_STD: f64 = 1e-6;
        config.check()?;
        let class_token = path.f_randn("cls_token", &[1, 1, config.width], 0.0, CLASS_TOKEN_STD)?;
        let position_embedding = PositionEmbedding::new(path, config)?;
        let patch_embedding = PatchEmbedding::new(&(path / "patch_embed" / "proj"), config)?;
        let blocks = (0..config.depth)
            .map(|index| Block::new(&(path / "blocks" / index), config, drop_path_of_block(config, index)))
            .collect::<Result<_>>()?;
        let norm = LayerNorm::new(&(path / "norm"), config.width)?;
        Ok(Vit { config: config.clone(), patch_embedding, class_token, position_embedding, blocks, norm })
    }

    /// The model's shape.
    pub fn config(&self) -> &VitConfig {
        &self.config
    }

    /// Excludes the patch embedding from training. A random, frozen patch embedding makes contrastive training of a
    /// Vision Transformer more stable ([Chen et al., 2021](https://arxiv.org/abs/2104.02057), section 4). Call it
    /// before making the optimizer, which then leaves the embedding out.
    pub fn freeze_patch_embedding(&self) -> Result<()> {
        self.patch_embedding.freeze()
    }

    /// The device of the weights.
    pub fn device(&self) -> tch::Device {
        self.class_token.device()
    }

    /// All tokens after the last norm, `[B, 1 + T, width]`, class token first, from images `[B, 3, H, W]`.
    ///
    /// H and W may differ from the configured size: the position embedding is interpolated, and pixels beyond the last
    /// whole patch are ignored. `train` turns drop path on.
    ///
    /// # Errors
    ///
    /// [`Error::Shape`] unless the images have three channels and at least one patch; [`Error::Torch`] unless they have
    /// the dtype and the device of the weights.
    pub fn tokens(&self, images: &Tensor, train: bool) -> Result<Tensor> {
        let stream = self.through(&self.blocks, Residual::new(self.embed(images)?), train)?;
        self.norm.forward(&stream.tokens()?)
    }

    /// Runs the stream through some of the blocks.
    fn through(&self, blocks: &[Block], stream: Residual, train: bool) -> Result<Residual> {
        let length = stream.length();
        blocks.iter().try_fold(stream, |stream, block| block.forward(stream, length, train))
    }

    /// The tokens before the first block, `[B, 1 + T, width]`, from images `[B, 3, H, W]`.
    fn embed(&self, images: &Tensor) -> Result<Tensor> {
        check_shape("images", images, &[("B", None), ("3", Some(3)), ("H", None), ("W", None)])?;
        let (batch_size, _, height, width) = images.size4()?;
        let (rows, columns) = (height / self.config.patch_size, width / self.config.patch_size);
        if rows < 1 || columns < 1 {
            let expected = format!("[B, 3, H, W] with H and W at least {}", self.config.patch_size);
            return Err(Error::Shape { name: "images", expected, actual: images.size() });
        }
        let patches = self.patch_embedding.forward(images)?; // [B, T, width]
        let class_token = self.class_token.f_expand([batch_size, -1, -1], false)?;
        let tokens = Tensor::f_cat(&[class_token, patches], 1)?; // [B, 1 + T, width]
        Ok(tokens.f_add(&self.position_embedding.for_grid(rows, columns)?)?)
    }

    /// The class token after the last norm, `[B, width]`: the input of the heads.
    ///
    /// # Errors
    ///
    /// Those of [`Vit::tokens`].
    pub fn forward(&self, images: &Tensor, train: bool) -> Result<Tensor> {
        self.features(images, Pooling::ClassToken, train)
    }
}

/// An error if a model has too many parameters.
pub(crate) fn check_parameters(parameters: i128) -> Result<()> {
    /// 16 GiB of `Float`, more than twice the largest Vision Transformer in use.
    const MAX_PARAMETERS: i128 = 1 << 32;
    if parameters <= MAX_PARAMETERS {
        return Ok(());
    }
    Err(Error::Value { name: "parameters", expected: format!("at most {MAX_PARAMETERS}"), actual: parameters as f64 })
}

/// The drop path of a block: linear from 0 at the first block to the configured rate at the last.
fn drop_path_of_block(config: &VitConfig, index: i64) -> f64 {
    if config.depth == 1 { 0.0 } else { config.drop_path * index as f64 / (config.depth - 1) as f64 }
}
