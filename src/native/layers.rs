//! Bindings to `csrc/layers.cpp` and `csrc/attention.cpp`: layers of a transformer on a CPU, each a node of the graph.

#[cfg(test)]
mod tests;

use std::ffi::c_char;
use std::ptr;
use std::sync::atomic::Ordering;

use tch::{Device, Kind, Tensor};
use torch_sys::C_tensor;

use super::{ALLOWED, check, new_tensor};
use crate::error::Result;

unsafe extern "C" {
    fn patchmix_linear(
        made: *mut *mut C_tensor,
        x: *const C_tensor,
        weight: *const C_tensor,
        bias: *const C_tensor,
    ) -> *mut c_char;
    fn patchmix_perceptron(
        made: *mut *mut C_tensor,
        x: *const C_tensor,
        weight_1: *const C_tensor,
        bias_1: *const C_tensor,
        weight_2: *const C_tensor,
        bias_2: *const C_tensor,
    ) -> *mut c_char;
    fn patchmix_has_bfloat16_attention() -> bool;
    fn patchmix_attention(made: *mut *mut C_tensor, query_key_value: *const C_tensor, heads: i64) -> *mut c_char;
}

/// Longest sequence, in tokens, for which [`attention`] is faster than libtorch's operations, forward and backward
/// together: 65 were, 257 were not.
const MAX_TOKENS: i64 = 160;

/// The weight `[N, K]` and the bias `[N]` of a linear layer, of `Float`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LinearWeights<'a> {
    pub(crate) weight: &'a Tensor,
    pub(crate) bias: Option<&'a Tensor>,
}

impl LinearWeights<'_> {
    /// The number of outputs, if the weights are of the form that the layers here support, for `inputs` inputs.
    fn supported(&self, inputs: i64) -> Option<i64> {
        let &[outputs, actual] = self.weight.size().as_slice() else { return None };
        let fits = |tensor: &Tensor| has_kind(tensor, &[Kind::Float]);
        let biased = self.bias.is_none_or(|bias| fits(bias) && bias.size() == [outputs]);
        (actual == inputs && outputs > 0 && inputs > 0 && biased && fits(self.weight)).then_some(outputs)
    }
}

/// Whether a tensor is a dense one on the CPU, of one of these kinds.
pub(super) fn has_kind(tensor: &Tensor, kinds: &[Kind]) -> bool {
    tensor.device() == Device::Cpu && tensor.f_kind().is_ok_and(|kind| kinds.contains(&kind)) && !tensor.is_sparse()
}

/// The number of features in `x` if it is of a form that the layers here support.
fn features(x: &Tensor) -> Option<i64> {
    let supported = ALLOWED.load(Ordering::Relaxed) && has_kind(x, &[Kind::Float, Kind::BFloat16]) && x.numel() > 0;
    x.size().last().copied().filter(|_| supported)
}

/// `x weightᵀ + bias` over the last dimension, in the kind of `x`; `None` if the arguments are not supported.
pub(crate) fn linear(x: &Tensor, weights: LinearWeights<'_>) -> Result<Option<Tensor>> {
    if features(x).and_then(|inputs| weights.supported(inputs)).is_none() {
        return Ok(None);
    }
    let bias = weights.bias.map_or(ptr::null(), Tensor::as_ptr);
    let mut made = ptr::null_mut();
    // SAFETY: live tensors whose shapes, kinds and devices were checked above, which are only read; `bias` may be null.
    check(unsafe { patchmix_linear(&mut made, x.as_ptr(), weights.weight.as_ptr(), bias) })?;
    Ok(Some(new_tensor(made)?))
}

/// `GELU(x weight_1ᵀ + bias_1) weight_2ᵀ + bias_2` over the last dimension, in the kind of `x`; `None` if the arguments
/// are not supported.
pub(crate) fn perceptron(x: &Tensor, first: LinearWeights<'_>, second: LinearWeights<'_>) -> Result<Option<Tensor>> {
    let width = features(x).and_then(|inputs| first.supported(inputs));
    let (Some(bias_1), Some(bias_2), Some(_)) =
        (first.bias, second.bias, width.and_then(|width| second.supported(width)))
    else {
        return Ok(None);
    };
    let mut made = ptr::null_mut();
    // SAFETY: live tensors whose shapes, kinds and devices were checked above, which are only read.
    let message = unsafe {
        patchmix_perceptron(
            &mut made,
            x.as_ptr(),
            first.weight.as_ptr(),
            bias_1.as_ptr(),
            second.weight.as_ptr(),
            bias_2.as_ptr(),
        )
    };
    check(message)?;
    Ok(Some(new_tensor(made)?))
}

/// Attention of `heads` heads, `[B, T, width]`, from queries, keys and values side by side, `[B, T, 3 * width]`; `None`
/// if the arguments are not supported.
pub(crate) fn attention(query_key_value: &Tensor, heads: i64) -> Result<Option<Tensor>> {
    let (Some(features), &[_, tokens, _]) = (features(query_key_value), query_key_value.size().as_slice()) else {
        return Ok(None);
    };
    let divides = heads > 0 && features % (3 * heads) == 0;
    // SAFETY: takes nothing and asks the processor.
    let has_bfloat16 = || unsafe { patchmix_has_bfloat16_attention() };
    let is_single = query_key_value.f_kind()? == Kind::Float;
    let supported = divides && (is_single || (features / (3 * heads) % 2 == 0 && has_bfloat16()));
    if !supported || tokens > MAX_TOKENS {
        return Ok(None);
    }
    let mut made = ptr::null_mut();
    // SAFETY: a live tensor of three dimensions, which is only read; the last one was checked to consist of the parts
    // of `heads` heads.
    check(unsafe { patchmix_attention(&mut made, query_key_value.as_ptr(), heads) })?;
    Ok(Some(new_tensor(made)?))
}
