//! Attention of several heads, and which of three ways computes it.

use tch::{Device, Kind, Tensor};

use crate::error::Result;
use crate::native::layers as native;
use crate::numbers::scalar;

/// Whether libtorch's fused kernel is the fastest way, forward and backward together: on a GPU that of cuDNN or
/// FlashAttention, whichever is allowed (`src/backend.rs`). Otherwise it is the operation of `csrc/attention.cpp`,
/// which reads all parts where the layer before wrote them, or, where that does not apply, two matrix products with a
/// softmax between them.
///
/// Milliseconds on one thread of a CPU with AMX, with heads of 64 features; forward alone in parentheses:
///
/// | heads, tokens | bfloat16: own | products | fused | float32: own | products | fused |
/// | --- | --- | --- | --- | --- | --- | --- |
/// | 192, 65 | 10 (3) | 10 (5) | 57 (4) | 13 (5) | 15 (7) | 14 (5) |
/// | 48, 197 | 10 (3) | 13 (5) | 28 (3) | 20 (5) | 25 (8) | 20 (6) |
/// | 48, 257 | 18 (6) | 34 (8) | 41 (5) | 43 (11) | 41 (19) | 42 (10) |
/// | 24, 401 | 30 (9) | 41 (16) | 61 (13) | 41 (11) | 62 (21) | 41 (11) |
/// | 24, 577 | 60 (16) | 74 (35) | 124 (14) | 91 (29) | 119 (51) | 78 (26) |
/// | 24, 785 | 69 (36) | 107 (47) | 103 (42) | | | |
/// | 12, 1025 | 65 (20) | 86 (32) | 78 (14) | | | |
///
/// On an H200, cuDNN's kernel takes a third of the time of two products for 197 tokens and more (docs/performance.md).
fn is_fused(device: Device, kind: Kind, tokens: i64) -> bool {
    let longest = if kind == Kind::BFloat16 { 1025 } else { 160 };
    device != Device::Cpu || tokens > longest
}

/// Attention of every token to all tokens, `[B, T, width]`, from queries, keys and values side by side,
/// `[B, T, 3 * width]`.
pub(super) fn of_all(query_key_value: &Tensor, heads: i64) -> Result<Tensor> {
    let (_, tokens, _) = query_key_value.size3()?;
    if !is_fused(query_key_value.device(), query_key_value.f_kind()?, tokens)
        && let Some(attended) = native::attention(query_key_value, heads)?
    {
        return Ok(attended);
    }
    let [query, key, value] = by_head(query_key_value, heads)?;
    of_heads(&query, &key, &value)
}

/// `COUNT` parts side by side, `[B, T, COUNT * width]`, each as `[B, heads, T, width / heads]`.
pub(super) fn by_head<const COUNT: usize>(parts: &Tensor, heads: i64) -> Result<[Tensor; COUNT]> {
    if let Some(split) = native::split_heads(parts, heads)? {
        return Ok(split);
    }
    let (batch_size, length, features) = parts.size3()?;
    let count = COUNT as i64;
    // One `unbind` for all parts: its backward pass joins their gradients in the layer's layout in a single copy.
    let parts = parts.f_view([batch_size, length, count, heads, features / count / heads])?.f_unbind(2)?;
    let split = parts.iter().map(|part| part.f_transpose(1, 2)).collect::<std::result::Result<Vec<_>, _>>()?;
    Ok(std::array::from_fn(|part| split[part].shallow_clone()))
}

/// `softmax(query keyᵀ / √depth) value`, all `[B, heads, tokens, depth]`, with the heads side by side:
/// `[B, tokens, heads * depth]`.
pub(super) fn of_heads(query: &Tensor, key: &Tensor, value: &Tensor) -> Result<Tensor> {
    let (batch_size, _, tokens, _) = query.size4()?;
    let attended = if is_fused(query.device(), query.f_kind()?, key.size()[2]) {
        Tensor::f_scaled_dot_product_attention(query, key, value, None::<Tensor>, 0.0, false, None, false)?
    } else {
        let scale = scalar((query.size()[3] as f64).sqrt())?;
        query.f_div(&scale)?.f_matmul(&key.f_transpose(2, 3)?)?.f_softmax(3, None)?.f_matmul(value)?
    };
    Ok(attended.f_transpose(1, 2)?.f_reshape([batch_size, tokens, -1])?)
}
