//! Outputs of an encoder: pooled features, intermediate tokens, attention of the class token.

use tch::Tensor;

use super::Vit;
use super::residual::Residual;
use crate::error::{Result, check_in};

/// How the tokens after the last norm are pooled into the features of an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Pooling {
    /// The class token, which the contrastive losses train: `global_pool="token"` of timm.
    #[default]
    ClassToken,
    /// The mean of the patch tokens: `global_pool="avg", fc_norm=False` of timm.
    PatchMean,
}

/// Pools tokens `[B, 1 + T, width]` after the last norm.
fn pool(tokens: &Tensor, pooling: Pooling) -> Result<Tensor> {
    Ok(match pooling {
        Pooling::ClassToken => tokens.f_select(1, 0)?,
        Pooling::PatchMean => tokens.f_narrow(1, 1, tokens.size()[1] - 1)?.f_mean_dim(1, false, None)?,
    })
}

impl Vit {
    /// Features `[B, width]` of images `[B, 3, H, W]`. `train` turns drop path on.
    ///
    /// # Errors
    ///
    /// Those of [`Vit::tokens`].
    pub fn features(&self, images: &Tensor, pooling: Pooling, train: bool) -> Result<Tensor> {
        if pooling == Pooling::ClassToken {
            return self.class_token_features(images, train);
        }
        pool(&self.tokens(images, train)?, pooling)
    }

    /// The features by several poolings, from one forward pass in evaluation mode.
    #[cfg(feature = "image-folder")]
    pub(crate) fn features_by_all(&self, images: &Tensor, poolings: &[Pooling]) -> Result<Vec<Tensor>> {
        if let [pooling] = poolings {
            return Ok(vec![self.features(images, *pooling, false)?]);
        }
        let tokens = self.tokens(images, false)?;
        poolings.iter().map(|pooling| pool(&tokens, *pooling)).collect()
    }

    /// The class token after the last norm. The last block computes only this token.
    fn class_token_features(&self, images: &Tensor, train: bool) -> Result<Tensor> {
        let mut stream = Residual::new(self.embed(images)?);
        if let Some((last, others)) = self.blocks.split_last() {
            stream = last.forward(self.through(others, stream, train)?, 1, train)?; // [B, 1, width]
        }
        Ok(self.norm.forward(&stream.tokens()?)?.f_select(1, 0)?)
    }

    /// The tokens after each of `blocks` (counted from 0), `[B, 1 + T, width]` each, class token first, from images
    /// `[B, 3, H, W]`, in evaluation mode. They come in the order of the network, each block once.
    ///
    /// `normed` applies the last norm to all of them. These are the tokens of timm's `forward_intermediates` with the
    /// same `norm`, `output_fmt="NLC"` and `return_prefix_tokens=True`. The feature maps of a timm model made with
    /// `features_only=True` are those of `normed = false` without the class token, as `[B, width, rows, columns]`.
    ///
    /// # Errors
    ///
    /// [`Error::Value`](crate::Error::Value) if a block index is out of range; those of [`Vit::tokens`].
    pub fn intermediate(&self, images: &Tensor, blocks: &[i64], normed: bool) -> Result<Vec<Tensor>> {
        let depth = self.config.depth;
        blocks.iter().try_for_each(|block| check_in("blocks", *block, 0..depth))?;
        let mut tokens = self.embed(images)?;
        let mut chosen = Vec::with_capacity(blocks.len());
        for (index, block) in (0..).zip(&self.blocks) {
            tokens = self.through(std::slice::from_ref(block), Residual::new(tokens), false)?.tokens()?;
            if blocks.contains(&index) {
                chosen.push(if normed { self.norm.forward(&tokens)? } else { tokens.shallow_clone() });
            }
        }
        Ok(chosen)
    }

    /// The attention of the class token in a block (counted from 0), `[B, heads, 1 + T]`, from images `[B, 3, H, W]`,
    /// in evaluation mode.
    ///
    /// Every row sums to 1. Its first number is the class token's attention to itself, the others are its attention to
    /// the patches, row by row.
    ///
    /// # Errors
    ///
    /// [`Error::Value`](crate::Error::Value) if the block index is out of range; those of [`Vit::tokens`].
    pub fn class_attention(&self, images: &Tensor, block: i64) -> Result<Tensor> {
        check_in("block", block, 0..self.config.depth)?;
        let (before, chosen) = (&self.blocks[..block as usize], &self.blocks[block as usize]);
        chosen.class_attention(&self.through(before, Residual::new(self.embed(images)?), false)?.tokens()?)
    }
}
