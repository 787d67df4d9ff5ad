//! One transformer block: attention and a multilayer perceptron, each behind a norm and added to the stream.

use tch::nn::Path;
use tch::{Kind, Tensor};

use super::VitConfig;
use super::layers::{LayerNorm, Linear, glorot_bound};
use crate::error::Result;
use crate::numbers::scalar;

#[derive(Debug)]
pub(super) struct Block {
    norm_1: LayerNorm,
    query_key_value: Linear,
    projection: Linear,
    norm_2: LayerNorm,
    hidden: Linear,
    output: Linear,
    heads: i64,
    drop_path: f64,
}

impl Block {
    pub(super) fn new(path: &Path<'_>, config: &VitConfig, drop_path: f64) -> Result<Block> {
        let (width, hidden) = (config.width, config.width * config.mlp_ratio);
        let linear =
            |path: &Path<'_>, inputs, outputs, bound| Linear::new(path, inputs, outputs, true, bound, config.precision);
        let (square, oblong) = (glorot_bound(width, width), glorot_bound(width, hidden));
        Ok(Block {
            norm_1: LayerNorm::new(&(path / "norm1"), width)?,
            // Queries, keys and values begin as three layers of their own would.
            query_key_value: linear(&(path / "attn" / "qkv"), width, 3 * width, square)?,
            projection: linear(&(path / "attn" / "proj"), width, width, square)?,
            norm_2: LayerNorm::new(&(path / "norm2"), width)?,
            hidden: linear(&(path / "mlp" / "fc1"), width, hidden, oblong)?,
            output: linear(&(path / "mlp" / "fc2"), hidden, width, oblong)?,
            heads: config.heads,
            drop_path,
        })
    }

    /// `[B, tokens, width]` to the same.
    pub(super) fn forward(&self, tokens: &Tensor, train: bool) -> Result<Tensor> {
        let attended = self.attention(&self.norm_1.forward(tokens)?)?;
        let tokens = tokens.f_add(&self.drop_path(attended, train)?)?;
        let hidden = self.hidden.forward(&self.norm_2.forward(&tokens)?)?.f_gelu("none")?;
        let output = self.output.forward(&hidden)?;
        Ok(tokens.f_add(&self.drop_path(output, train)?)?)
    }

    /// How the class token distributes its attention in each head, `[B, heads, tokens]`; the input is that of the block.
    pub(super) fn class_attention(&self, tokens: &Tensor) -> Result<Tensor> {
        let query_key_value = self.query_key_value(&self.norm_1.forward(tokens)?)?;
        let (query, key) = (query_key_value.f_select(0, 0)?.f_narrow(2, 0, 1)?, query_key_value.f_select(0, 1)?);
        let scale = scalar((query.size()[3] as f64).sqrt())?;
        let scores = query.f_matmul(&key.f_transpose(2, 3)?)?.f_div(&scale)?; // [B, heads, 1, tokens]
        // Softmax keeps the kind of the weights whatever the products are computed in.
        Ok(scores.f_softmax(3, tokens.f_kind()?)?.f_squeeze_dim(2)?)
    }

    /// `[3, B, heads, tokens, width / heads]` from normalised tokens.
    fn query_key_value(&self, tokens: &Tensor) -> Result<Tensor> {
        let (batch_size, length, width) = tokens.size3()?;
        let query_key_value = self.query_key_value.forward(tokens)?;
        let heads = query_key_value.f_view([batch_size, length, 3, self.heads, width / self.heads])?;
        Ok(heads.f_permute([2, 0, 3, 1, 4])?)
    }

    fn attention(&self, tokens: &Tensor) -> Result<Tensor> {
        let (batch_size, length, width) = tokens.size3()?;
        let query_key_value = self.query_key_value(tokens)?;
        let part = |index| query_key_value.f_select(0, index);
        let attended = Tensor::f_scaled_dot_product_attention(
            &part(0)?,
            &part(1)?,
            &part(2)?,
            None::<Tensor>,
            0.0,
            false,
            None,
            false,
        )?;
        self.projection.forward(&attended.f_transpose(1, 2)?.f_reshape([batch_size, length, width])?)
    }

    /// In training, leaves a branch out for some images and makes up for it in the others.
    fn drop_path(&self, branch: Tensor, train: bool) -> Result<Tensor> {
        if !train || self.drop_path == 0.0 {
            return Ok(branch);
        }
        let keep = 1.0 - self.drop_path;
        let kept = Tensor::f_rand([branch.size()[0], 1, 1], (Kind::Float, branch.device()))?
            .f_lt(keep)?
            .f_to_kind(branch.f_kind()?)?
            .f_div_scalar(keep)?;
        Ok(branch.f_mul(&kept)?)
    }
}
