//! One transformer block: attention and a multilayer perceptron, each behind a norm and added to the stream.

use tch::nn::Path;
use tch::{Device, Kind, Tensor};

use super::VitConfig;
use super::layers::{LayerNorm, Linear, glorot_bound};
use crate::error::Result;
use crate::numbers::scalar;

/// Most tokens of a sequence for which the fused kernel is slower than two matrix products on a CPU, forward and
/// backward, as measured.
const SHORT: i64 = 160;
const SHORT_BFLOAT16: i64 = 1024;

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

    /// `[B, tokens, width]` to `[B, wanted, width]`: what becomes of the first `wanted` tokens, which attend to all.
    pub(super) fn forward(&self, tokens: &Tensor, wanted: i64, train: bool) -> Result<Tensor> {
        let attended = self.attention(&self.norm_1.forward(tokens)?, wanted)?;
        let tokens = tokens.f_narrow(1, 0, wanted)?.f_add(&self.drop_path(attended, train)?)?;
        let hidden = self.hidden.forward(&self.norm_2.forward(&tokens)?)?.f_gelu("none")?;
        let output = self.output.forward(&hidden)?;
        Ok(tokens.f_add(&self.drop_path(output, train)?)?)
    }

    /// How the class token distributes its attention in each head, `[B, heads, tokens]`; the input is that of the block.
    pub(super) fn class_attention(&self, tokens: &Tensor) -> Result<Tensor> {
        let (query, key, _) = self.query_key_value(&self.norm_1.forward(tokens)?, 1)?;
        let scale = scalar((query.size()[3] as f64).sqrt())?;
        let scores = query.f_matmul(&key.f_transpose(2, 3)?)?.f_div(&scale)?; // [B, heads, 1, tokens]
        // Softmax keeps the kind of the weights whatever the products are computed in.
        Ok(scores.f_softmax(3, tokens.f_kind()?)?.f_squeeze_dim(2)?)
    }

    /// Queries of the first `wanted` tokens, keys and values of all: `[B, heads, tokens, width / heads]` from normalised
    /// tokens.
    fn query_key_value(&self, tokens: &Tensor, wanted: i64) -> Result<(Tensor, Tensor, Tensor)> {
        let (batch_size, length, width) = tokens.size3()?;
        let by_head = |parts: Tensor, count: i64| {
            let heads = parts.f_view([batch_size, -1, count, self.heads, width / self.heads])?;
            heads.f_permute([2, 0, 3, 1, 4])
        };
        if wanted == length {
            let all = by_head(self.query_key_value.forward(tokens)?, 3)?;
            return Ok((all.f_select(0, 0)?, all.f_select(0, 1)?, all.f_select(0, 2)?));
        }
        let query = self.query_key_value.outputs(0, width)?.forward(&tokens.f_narrow(1, 0, wanted)?)?;
        let key_value = by_head(self.query_key_value.outputs(width, 2 * width)?.forward(tokens)?, 2)?;
        Ok((by_head(query, 1)?.f_select(0, 0)?, key_value.f_select(0, 0)?, key_value.f_select(0, 1)?))
    }

    fn attention(&self, tokens: &Tensor, wanted: i64) -> Result<Tensor> {
        let (batch_size, _, width) = tokens.size3()?;
        let (query, key, value) = self.query_key_value(tokens, wanted)?;
        let attended = attend(&query, &key, &value)?;
        self.projection.forward(&attended.f_transpose(1, 2)?.f_reshape([batch_size, wanted, width])?)
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

/// `softmax(query keyᵀ / √width) value`, all `[B, heads, tokens, width]`.
///
/// By libtorch's fused kernel, but for short sequences on a CPU: there, two matrix products are faster.
fn attend(query: &Tensor, key: &Tensor, value: &Tensor) -> Result<Tensor> {
    let short = if query.f_kind()? == Kind::BFloat16 { SHORT_BFLOAT16 } else { SHORT };
    if query.device() != Device::Cpu || key.size()[2] > short {
        return Ok(Tensor::f_scaled_dot_product_attention(query, key, value, None::<Tensor>, 0.0, false, None, false)?);
    }
    let scale = scalar((query.size()[3] as f64).sqrt())?;
    let weights = query.f_div(&scale)?.f_matmul(&key.f_transpose(2, 3)?)?.f_softmax(3, None)?;
    Ok(weights.f_matmul(value)?)
}
