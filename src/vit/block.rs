//! One pre-norm transformer block: attention and a multilayer perceptron, each added to the residual stream.

use tch::nn::Path;
use tch::{Device, Kind, Tensor};

use super::VitConfig;
use super::layers::{LayerNorm, Linear, Perceptron, glorot_bound};
use super::residual::Residual;
use crate::error::Result;
use crate::native::layers as native;
use crate::numbers::scalar;

/// Longest sequence, in tokens, for which two matrix products beat the fused attention kernel on a CPU, measured
/// forward and backward.
const MAX_UNFUSED: i64 = 160;
const MAX_UNFUSED_BFLOAT16: i64 = 1024;

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
        let (batch_size, length, width) = tokens.size3()?;
        let [query, key, value] = if wanted == length {
            let parts = self.query_key_value.forward(tokens)?; // [B, T, 3 * width]
            if let Some(attended) = native::attention(&parts, self.heads)? {
                return self.projection.forward(&attended);
            }
            self.by_head(&parts)?
        } else {
            self.query_key_value(tokens, wanted)?
        };
        let attended = attend(&query, &key, &value)?;
        self.projection.forward(&attended.f_transpose(1, 2)?.f_reshape([batch_size, wanted, width])?)
    }

    /// Queries of the first `wanted` tokens, keys and values of all tokens, `[B, heads, tokens, width / heads]`, from
    /// normalized tokens.
    fn query_key_value(&self, tokens: &Tensor, wanted: i64) -> Result<[Tensor; 3]> {
        let width = tokens.size()[2];
        let query = self.query_key_value.outputs(0, width)?.forward(&tokens.f_narrow(1, 0, wanted)?)?;
        let key_value = self.query_key_value.outputs(width, 2 * width)?.forward(tokens)?;
        let ([query], [key, value]) = (self.by_head(&query)?, self.by_head(&key_value)?);
        Ok([query, key, value])
    }

    /// `COUNT` parts side by side, `[B, T, COUNT * width]`, each as `[B, heads, T, width / heads]`.
    fn by_head<const COUNT: usize>(&self, parts: &Tensor) -> Result<[Tensor; COUNT]> {
        if let Some(split) = native::split_heads(parts, self.heads)? {
            return Ok(split);
        }
        let (batch_size, length, features) = parts.size3()?;
        let count = COUNT as i64;
        // One `unbind` for all parts: its backward pass joins their gradients in the layer's layout in a single copy.
        let parts =
            parts.f_view([batch_size, length, count, self.heads, features / count / self.heads])?.f_unbind(2)?;
        let split = parts.iter().map(|part| part.f_transpose(1, 2)).collect::<std::result::Result<Vec<_>, _>>()?;
        Ok(std::array::from_fn(|part| split[part].shallow_clone()))
    }
}

/// `softmax(query keyᵀ / √width) value`, all `[B, heads, tokens, width]`.
///
/// Uses libtorch's fused kernel, except for short sequences on a CPU, where two matrix products are faster.
fn attend(query: &Tensor, key: &Tensor, value: &Tensor) -> Result<Tensor> {
    let max_unfused = if query.f_kind()? == Kind::BFloat16 { MAX_UNFUSED_BFLOAT16 } else { MAX_UNFUSED };
    if query.device() != Device::Cpu || key.size()[2] > max_unfused {
        return Ok(Tensor::f_scaled_dot_product_attention(query, key, value, None::<Tensor>, 0.0, false, None, false)?);
    }
    let scale = scalar((query.size()[3] as f64).sqrt())?;
    let weights = query.f_div(&scale)?.f_matmul(&key.f_transpose(2, 3)?)?.f_softmax(3, None)?;
    Ok(weights.f_matmul(value)?)
}
