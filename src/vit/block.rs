//! One pre-norm transformer block: attention and a multilayer perceptron, each added to the residual stream.

use tch::Tensor;
use tch::nn::Path;

use super::layers::{LayerNorm, Linear, Perceptron, glorot_bound};
use super::residual::Residual;
use super::{VitConfig, attention};
use crate::error::Result;
use crate::numbers::scalar;

#[derive(Debug)]
pub(super) struct Block {
    norm_1: LayerNorm,
    query_key_value: Linear,
    projection: Linear,
    norm_2: LayerNorm,
    perceptron: Perceptron,
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
            // The initial weights are those of three separate layers for queries, keys and values.
            query_key_value: linear(&(path / "attn" / "qkv"), width, 3 * width, square)?,
            projection: linear(&(path / "attn" / "proj"), width, width, square)?,
            norm_2: LayerNorm::new(&(path / "norm2"), width)?,
            perceptron: Perceptron {
                hidden: linear(&(path / "mlp" / "fc1"), width, hidden, oblong)?,
                output: linear(&(path / "mlp" / "fc2"), hidden, width, oblong)?,
            },
            heads: config.heads,
            drop_path,
        })
    }

    /// The block applied to the stream, computed for its first `wanted` tokens only; they attend to all tokens.
    pub(super) fn forward(&self, stream: Residual, wanted: i64, train: bool) -> Result<Residual> {
        let (stream, normed) = stream.normalized(&self.norm_1)?;
        let attended = self.attention(&normed, wanted)?;
        let stream = stream.first(wanted)?.add(attended, self.drop_path, train)?;
        let (stream, normed) = stream.normalized(&self.norm_2)?;
        stream.add(self.perceptron.forward(&normed)?, self.drop_path, train)
    }

    /// The attention of the class token in each head, `[B, heads, tokens]`, from the input of the block.
    pub(super) fn class_attention(&self, tokens: &Tensor) -> Result<Tensor> {
        let [query, key, _] = self.query_key_value(&self.norm_1.forward(tokens)?, 1)?;
        let scale = scalar((query.size()[3] as f64).sqrt())?;
        let scores = query.f_matmul(&key.f_transpose(2, 3)?)?.f_div(&scale)?; // [B, heads, 1, tokens]
        // The result has the kind of the weights, whatever the precision of the products.
        Ok(scores.f_softmax(3, tokens.f_kind()?)?.f_squeeze_dim(2)?)
    }

    fn attention(&self, tokens: &Tensor, wanted: i64) -> Result<Tensor> {
        let attended = if wanted == tokens.size()[1] {
            attention::of_all(&self.query_key_value.forward(tokens)?, self.heads)? // from [B, T, 3 * width]
        } else {
            let [query, key, value] = self.query_key_value(tokens, wanted)?;
            attention::of_heads(&query, &key, &value)?
        };
        self.projection.forward(&attended)
    }

    /// Queries of the first `wanted` tokens, keys and values of all tokens, `[B, heads, tokens, width / heads]`, from
    /// normalized tokens.
    fn query_key_value(&self, tokens: &Tensor, wanted: i64) -> Result<[Tensor; 3]> {
        let width = tokens.size()[2];
        let query = self.query_key_value.outputs(0, width)?.forward(&tokens.f_narrow(1, 0, wanted)?)?;
        let key_value = self.query_key_value.outputs(width, 2 * width)?.forward(tokens)?;
        let [query] = attention::by_head(&query, self.heads)?;
        let [key, value] = attention::by_head(&key_value, self.heads)?;
        Ok([query, key, value])
    }
}
