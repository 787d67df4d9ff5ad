//! Bindings to `csrc/layers.cpp`, `csrc/attention.cpp` and `csrc/split_heads.cpp`: layers of a transformer, each a node
//! of the graph.

#[cfg(test)]
mod tests;

use std::ffi::c_char;
use std::marker::PhantomData;
use std::ptr;
use std::sync::atomic::Ordering;

use tch::{Device, Kind, Tensor};
use torch_sys::C_tensor;

use super::gpu::{self, Kernels, is_dense};
use super::{ALLOWED, check, new_tensor};
use crate::error::Result;

unsafe extern "C" {
    fn patchmix_begin_casts();
    fn patchmix_end_casts();
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
    fn patchmix_split_heads(split: *mut *mut C_tensor, parts: *const C_tensor, count: i64, heads: i64) -> *mut c_char;
    fn patchmix_has_bfloat16_attention() -> bool;
    fn patchmix_attention(made: *mut *mut C_tensor, query_key_value: *const C_tensor, heads: i64) -> *mut c_char;
}

/// While it lives, the layers here cast each weight to the kind of its inputs once; the weights must not change.
#[derive(Debug)]
pub(crate) struct CastsOnce {
    /// Casts belong to the thread that made them.
    _of_thread: PhantomData<*const ()>,
}

impl CastsOnce {
    pub(crate) fn begin() -> CastsOnce {
        // SAFETY: counts up a number of this thread.
        unsafe { patchmix_begin_casts() };
        CastsOnce { _of_thread: PhantomData }
    }
}

impl Drop for CastsOnce {
    fn drop(&mut self) {
        // SAFETY: counts the number of this thread down, once for each time that it was counted up.
        unsafe { patchmix_end_casts() };
    }
}

/// The weight `[N, K]` and the bias `[N]` of a linear layer, of `Float`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LinearWeights<'a> {
    pub(crate) weight: &'a Tensor,
    pub(crate) bias: Option<&'a Tensor>,
}

impl LinearWeights<'_> {
    /// The number of outputs, if the weights are of the form that the layers here support, for `inputs` inputs on
    /// `device`. A GPU adds up the columns of outputs eight at a time.
    fn supported(&self, inputs: i64, device: Device) -> Option<i64> {
        let &[outputs, actual] = self.weight.size().as_slice() else { return None };
        let fits = |tensor: &Tensor| is_dense(tensor, device, &[Kind::Float]);
        let biased = self.bias.is_none_or(|bias| fits(bias) && bias.size() == [outputs]);
        let divides = device == Device::Cpu || self.bias.is_none() || outputs % 8 == 0;
        (actual == inputs && outputs > 0 && inputs > 0 && biased && divides && fits(self.weight)).then_some(outputs)
    }
}

/// The number of features in `x` if it is of a form that the layers here support.
fn features(x: &Tensor) -> Option<i64> {
    let supported = ALLOWED.load(Ordering::Relaxed)
        && x.numel() > 0
        && is_dense(x, x.device(), &[Kind::Float, Kind::BFloat16])
        && match x.device() {
            Device::Cpu => true,
            Device::Cuda(index) => gpu::has(index, Kernels::Layers),
            _ => false,
        };
    x.size().last().copied().filter(|_| supported)
}

/// `x weightᵀ + bias` over the last dimension, in the kind of `x`; `None` if the arguments are not supported.
pub(crate) fn linear(x: &Tensor, weights: LinearWeights<'_>) -> Result<Option<Tensor>> {
    if features(x).and_then(|inputs| weights.supported(inputs, x.device())).is_none() {
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
    let device = x.device();
    let width = features(x).and_then(|inputs| first.supported(inputs, device));
    let (Some(bias_1), Some(bias_2), Some(_)) =
        (first.bias, second.bias, width.and_then(|width| second.supported(width, device)))
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

/// Attention of `heads` heads on a CPU, `[B, T, width]`, from queries, keys and values side by side,
/// `[B, T, 3 * width]`; `None` if the arguments are not supported.
pub(crate) fn attention(query_key_value: &Tensor, heads: i64) -> Result<Option<Tensor>> {
    let (Some(features), &[_, _, _]) = (features(query_key_value), query_key_value.size().as_slice()) else {
        return Ok(None);
    };
    let divides = heads > 0 && features % (3 * heads) == 0;
    // SAFETY: takes nothing and asks the processor.
    let has_bfloat16 = || unsafe { patchmix_has_bfloat16_attention() };
    let is_single = query_key_value.f_kind()? == Kind::Float;
    let on_cpu = query_key_value.device() == Device::Cpu;
    let supported = on_cpu && divides && (is_single || (features / (3 * heads) % 2 == 0 && has_bfloat16()));
    if !supported {
        return Ok(None);
    }
    let mut made = ptr::null_mut();
    // SAFETY: a live tensor of three dimensions, which is only read; the last one was checked to consist of the parts
    // of `heads` heads.
    check(unsafe { patchmix_attention(&mut made, query_key_value.as_ptr(), heads) })?;
    Ok(Some(new_tensor(made)?))
}

/// `COUNT` parts side by side, at most 3, `[B, T, COUNT * heads * depth]`, each as `[B, heads, T, depth]` in the memory
/// of `parts`, which must not be changed afterwards; `None` if the arguments are not supported.
pub(crate) fn split_heads<const COUNT: usize>(parts: &Tensor, heads: i64) -> Result<Option<[Tensor; COUNT]>> {
    let divides = |features: i64| COUNT > 0 && COUNT <= 3 && heads > 0 && features % (COUNT as i64 * heads) == 0;
    if !features(parts).is_some_and(divides) || parts.dim() != 3 || !parts.is_contiguous() {
        return Ok(None);
    }
    let mut split = [ptr::null_mut(); COUNT];
    // SAFETY: a live tensor, which is only read and was checked to be contiguous and of that many parts; there is a
    // place for each result.
    check(unsafe { patchmix_split_heads(split.as_mut_ptr(), parts.as_ptr(), COUNT as i64, heads) })?;
    let made = split.into_iter().map(new_tensor).collect::<Result<Vec<_>>>()?;
    Ok(made.try_into().ok())
}
