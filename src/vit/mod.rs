//! The Vision Transformer that is pre-trained, with the parameter names of timm's `vision_transformer`.
//!
//! Pre-norm blocks, a class token, a learned position embedding that is interpolated for other image sizes, no
//! classifier. A `state_dict` of timm's model of the same shape fits the `VarStore`, name by name, and an
//! [`EncoderFile`] carries the weights there and back.

mod block;
mod embed;
mod features;
mod file;
mod layers;
mod residual;

use tch::{Tensor, nn};

use crate::error::{Error, Result, check_shape, check_value};
use block::Block;
use embed::{PatchEmbedding, PositionEmbedding};
pub use features::Pooling;
pub use file::EncoderFile;
use layers::LayerNorm;
pub(crate) use layers::{Linear, fan_in_bound};
use residual::Residual;

/// The kind of number in which matrix products, attention and what lies between two products are computed. Weights,
/// norms, the residual stream and the losses keep the kind of the weights in both.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Precision {
    /// The kind of the weights, which is `Float` unless the `VarStore` was told otherwise. (On a GPU, cuDNN computes
    /// the patch embedding's convolution in TF32 unless it is told otherwise.)
    #[default]
    Full,
    /// bfloat16: half the memory traffic, and faster on hardware that has it.
    BFloat16,
}

/// The shape of a Vision Transformer.
#[derive(Debug, Clone, PartialEq)]
pub struct VitConfig {
    /// Height and width in pixels of the images that the position embedding is made for; others are interpolated.
    pub image_size: i64,
    /// Side of a patch in pixels.
    pub patch_size: i64,
    /// Numbers in a token.
    pub width: i64,
    /// Number of blocks.
    pub depth: i64,
    /// Attention heads in a block; they share the width evenly.
    pub heads: i64,
    /// Hidden width of a block's multilayer perceptron, in multiples of `width`.
    pub mlp_ratio: i64,
    /// Probability that the last block is skipped for an image in training; earlier blocks linearly less (drop path).
    pub drop_path: f64,
    /// In what the matrix products are computed.
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

    /// Number of patches of an image of `image_size`; 0 if not even one fits, as in a shape that [`VitConfig::check`]
    /// refuses.
    pub fn patches(&self) -> i64 {
        let side = self.image_size.checked_div(self.patch_size).unwrap_or(0).max(0);
        side.saturating_mul(side)
    }

    /// Number of parameters of a model of this checked shape.
    fn parameters(&self) -> i128 {
        let [width, depth, ratio, patch] = [self.width, self.depth, self.mlp_ratio, self.patch_size].map(i128::from);
        // Weights of attention and perceptron, and what is of the order of the width.
        let block = width * width * (4 + 2 * ratio) + width * (9 + ratio);
        width * (3 * patch * patch + i128::from(self.patches()) + 5) + depth * block
    }

    /// An error that names the setting unless a model can be made of this.
    ///
    /// # Errors
    ///
    /// [`Error::PatchSize`] if the image does not divide into patches, [`Error::Value`] for the rest: among them, for
    /// more than 2^32 parameters, which no machine that trains such a model holds and not every one refuses.
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
            // The upper bound keeps every product of sizes here within an i64; memory ends far below it.
            if !(1..=1 << 15).contains(&value) {
                return Err(Error::Value { name, expected: "between 1 and 32768".into(), actual: value as f64 });
            }
        }
        if self.image_size % self.patch_size != 0 {
            let (height, width, patch_size) = (self.image_size, self.image_size, self.patch_size);
            return Err(Error::PatchSize { height, width, patch_size });
        }
        if self.width % self.heads != 0 {
            let expected = format!("a divisor of the width {}", self.width);
            return Err(Error::Value { name: "heads", expected, actual: self.heads as f64 });
        }
        if !(0.0..1.0).contains(&self.drop_path) {
            let expected = "at least 0 and below 1".into();
            return Err(Error::Value { name: "drop_path", expected, actual: self.drop_path });
        }
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
    /// Makes the model's variables below `path`, initialised at random (following [`tch::manual_seed`]).
    ///
    /// # Errors
    ///
    /// Those of [`VitConfig::check`], [`Error::Torch`] if there is no memory for it.
    pub fn new(path: &nn::Path<'_>, config: &VitConfig) -> Result<Vit> {
        /// The position embedding of the class token tells it from the others at the start.
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

    /// The shape that the model was made with.
    pub fn config(&self) -> &VitConfig {
        &self.config
    }

    /// Leaves the patch embedding as it is: random and not trained, which makes contrastive training of a Vision
    /// Transformer steadier ([Chen et al., 2021](https://arxiv.org/abs/2104.02057), section 4). Call it before the
    /// optimizer is made, which then leaves the embedding out.
    ///
    /// # Errors
    ///
    /// [`Error::Torch`], which weights do not cause.
    pub fn freeze_patch_embedding(&self) -> Result<()> {
        self.patch_embedding.freeze()
    }

    /// Where the weights are.
    pub fn device(&self) -> tch::Device {
        self.class_token.device()
    }

    /// All tokens after the last norm, `[B, 1 + T, width]`, class token first, from images `[B, 3, H, W]`.
    ///
    /// H and W may differ from the configured size: the position embedding is interpolated, and pixels beyond the last
    /// whole patch are left out. `train` turns drop path on.
    ///
    /// # Errors
    ///
    /// [`Error::Shape`] unless the images have three channels and at least one patch; [`Error::Torch`] if they are not
    /// of the kind and on the device of the weights.
    pub fn tokens(&self, images: &Tensor, train: bool) -> Result<Tensor> {
        let stream = self.through(&self.blocks, Residual::new(self.embed(images)?), train)?;
        self.norm.forward(&stream.tokens()?)
    }

    /// The stream after some of the blocks.
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

    /// The class token after the last norm, `[B, width]`: what the heads read.
    ///
    /// # Errors
    ///
    /// As [`Vit::tokens`].
    pub fn forward(&self, images: &Tensor, train: bool) -> Result<Tensor> {
        self.features(images, Pooling::ClassToken, train)
    }
}

/// An error unless a model may have so many parameters.
pub(crate) fn check_parameters(parameters: i128) -> Result<()> {
    /// 16 GiB of `Float`, more than twice the largest Vision Transformer in use.
    const MOST: i128 = 1 << 32;
    check_value("parameters", parameters as f64, &format!("at most {MOST}"), parameters <= MOST)
}

/// Drop path grows linearly from 0 at the first block to the configured rate at the last.
fn drop_path_of_block(config: &VitConfig, index: i64) -> f64 {
    if config.depth == 1 { 0.0 } else { config.drop_path * index as f64 / (config.depth - 1) as f64 }
}
