//! What is read off an encoder: one vector of an image, the tokens between the blocks, or where it attends.

use tch::Tensor;

use super::Vit;
use super::residual::Residual;
use crate::error::{Result, check_value};

/// Which tokens after the last norm make the features of an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Pooling {
    /// The class token, which the contrastive losses train: `global_pool="token"` of timm.
    #[default]
    ClassToken,
    /// The mean of the patches' tokens: `global_pool="avg", fc_norm=False` of timm.
    PatchMean,
}

/// The features in the tokens `[B, 1 + T, width]` after the last norm.
fn pool(tokens: &Tensor, pooling: Pooling) -> Result<Tensor> {
    Ok(match pooling {
        Pooling::ClassToken => tokens.f_select(1, 0)?,
        Pooling::PatchMean => tokens.f_narrow(1, 1, tokens.size()[1] - 1)?.f_mean_dim(1, false, None)?,
    })
}

impl Vit {
    /// One vector of every image, `[B, width]`, from images `[B, 3, H, W]`.
    ///
    /// # Errors
    ///
    /// As [`Vit::tokens`].
    pub fn features(&self, images: &Tensor, pooling: Pooling, train: bool) -> Result<Tensor> {
        if pooling == Pooling::ClassToken {
            return self.class_token_features(images, train);
        }
        pool(&self.tokens(images, train)?, pooling)
    }

    /// The features by several poolings, from one pass in evaluation mode.
    #[cfg(feature = "image-folder")]
    pub(crate) fn features_by_all(&self, images: &Tensor, poolings: &[Pooling]) -> Result<Vec<Tensor>> {
        if let [pooling] = poolings {
            return Ok(vec![self.features(images, *pooling, false)?]);
        }
        let tokens = self.tokens(images, false)?;
        poolings.iter().map(|pooling| pool(&tokens, *pooling)).collect()
    }

    /// The class token after the last norm. The last block computes it alone: nobody reads what becomes of the others.
    fn class_token_features(&self, images: &Tensor, train: bool) -> Result<Tensor> {
        let mut stream = Residual::new(self.embed(images)?);
        if let Some((last, others)) = self.blocks.split_last() {
            stream = last.forward(self.through(others, stream, train)?, 1, train)?; // [B, 1, width]
        }
        Ok(self.norm.forward(&stream.tokens()?)?.f_select(1, 0)?)
    }

    /// All tokens after each of `blocks` (counted from 0), `[B, 1 + T, width]` each, class token first, from images
    /// `[B, 3, H, W]`, in evaluation mode: in the order of the network, each block once.
    ///
    /// `normed` applies the last norm to all of them. These are the tokens of timm's `forward_intermediates` with the
    /// same `norm`, `output_fmt="NLC"` and `return_prefix_tokens=True`; the maps that a timm model made with
    /// `features_only=True` gives are those of `normed = false` without the class token, as `[B, width, rows,
    /// columns]`.
    ///
    /// # Errors
    ///
    /// [`Error::Value`](crate::Error::Value) for a block that there is not; those of [`Vit::tokens`].
    pub fn intermediate(&self, images: &Tensor, blocks: &[i64], normed: bool) -> Result<Vec<Tensor>> {
        let depth = self.config.depth;
        for &block in blocks {
            let expected = format!("at least 0 and below the depth {depth}");
            check_value("blocks", block as f64, &expected, (0..depth).contains(&block))?;
        }
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

    /// How the class token distributes its attention in a block, `[B, heads, 1 + T]`, from images `[B, 3, H, W]`.
    ///
    /// Blocks count from 0. Every row sums to 1; its first number is the class token's attention to itself, the others
    /// belong to the patches, row by row. In evaluation mode, and for this token of this block alone.
    ///
    /// # Errors
    ///
    /// [`Error::Value`](crate::Error::Value) if there is no such block; those of [`Vit::tokens`].
    pub fn class_attention(&self, images: &Tensor, block: i64) -> Result<Tensor> {
        let depth = self.config.depth;
        let expected = format!("at least 0 and below the depth {depth}");
        check_value("block", block as f64, &expected, (0..depth).contains(&block))?;
        let (before, chosen) = (&self.blocks[..block as usize], &self.blocks[block as usize]);
        chosen.class_attention(&self.through(before, Residual::new(self.embed(images)?), false)?.tokens()?)
    }
}
