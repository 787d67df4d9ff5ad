//! Bindings to `csrc/add_norm.cpp`: fused residual addition and layer norm.

use std::ffi::c_char;
use std::ptr;
use std::sync::atomic::Ordering;

use tch::{Device, Kind, Tensor};
use torch_sys::C_tensor;

use super::gpu::{self, Kernels, is_dense};
use super::{ALLOWED, check, new_tensor};
use crate::error::Result;

unsafe extern "C" {
    fn patchmix_add_norm(
        sum: *mut *mut C_tensor,
        normed: *mut *mut C_tensor,
        tokens: *const C_tensor,
        branch: *const C_tensor,
        kept: *const C_tensor,
        weight: *const C_tensor,
        bias: *const C_tensor,
        epsilon: f64,
    ) -> *mut c_char;
}

/// The arguments of [`add_norm`].
#[derive(Debug, Clone, Copy)]
pub(crate) struct AddNorm<'a> {
    /// `[B, T, width]` of `Float`.
    pub(crate) tokens: &'a Tensor,
    /// `[B, T, width]` of `BFloat16`; on a CPU also of `Float`.
    pub(crate) branch: &'a Tensor,
    /// The factor of each image's branch, `[B, 1, 1]` of `Float`; `None` for 1.
    pub(crate) kept: Option<&'a Tensor>,
    /// Scale and shift of the norm, `[width]` of `Float`.
    pub(crate) weight: &'a Tensor,
    pub(crate) bias: &'a Tensor,
    pub(crate) epsilon: f64,
}

impl AddNorm<'_> {
    /// Whether there is an operation for these arguments.
    fn is_supported(&self) -> bool {
        ALLOWED.load(Ordering::Relaxed)
            && match self.tokens.device() {
                Device::Cpu => {
                    let fits = |tensor: &Tensor, kinds: &[Kind]| is_dense(tensor, Device::Cpu, kinds);
                    self.has_form(&[Kind::Float, Kind::BFloat16], fits)
                }
                Device::Cuda(index) => self.is_supported_by_gpu(index),
                _ => false,
            }
    }

    /// Whether GPU `index` has a kernel for these arguments.
    fn is_supported_by_gpu(&self, index: usize) -> bool {
        let fits = |tensor: &Tensor, kinds: &[Kind]| {
            tensor.f_kind().is_ok_and(|actual| kinds.contains(&actual))
                && tensor.device() == Device::Cuda(index)
                && tensor.is_contiguous()
                && tensor.f_is_neg().is_ok_and(|negated| !negated)
                && !tensor.data_ptr().is_null() // as of a tensor of zeros without memory
                && (tensor.data_ptr() as usize).is_multiple_of(16) // for vector loads
        };
        let width = self.weight.size().first().copied().unwrap_or(0);
        supports_width(width) && self.has_form(&[Kind::BFloat16], fits) && gpu::has(index, Kernels::AddNorm { width })
    }

    /// Whether all shapes belong together and all tensors fit; a branch may be of the kinds `branch`.
    fn has_form(&self, branch: &[Kind], fits: impl Fn(&Tensor, &[Kind]) -> bool) -> bool {
        let size = self.tokens.size();
        let &[batch_size, length, width] = size.as_slice() else { return false };
        let has = |tensor: &Tensor, kinds: &[Kind], size: &[i64]| fits(tensor, kinds) && tensor.size() == size;
        batch_size > 0
            && length > 0
            && width > 0
            && has(self.tokens, &[Kind::Float], &size)
            && has(self.branch, branch, &size)
            && self.kept.is_none_or(|kept| has(kept, &[Kind::Float], &[batch_size, 1, 1]))
            && has(self.weight, &[Kind::Float], &[width])
            && has(self.bias, &[Kind::Float], &[width])
    }
}

/// Whether the GPU's kernels support tokens of `width` features: 32 threads load two or four numbers at a time, and a
/// token has to fit in their registers.
pub(crate) fn supports_width(width: i64) -> bool {
    width > 0 && width % 64 == 0 && width <= 1024
}

/// `sum = tokens + kept * branch` and its layer norm in the kind of the branch, as one operation with a gradient;
/// `None` if there is none for the arguments.
pub(crate) fn add_norm(parts: AddNorm<'_>) -> Result<Option<(Tensor, Tensor)>> {
    if !parts.is_supported() {
        return Ok(None);
    }
    let (mut sum, mut normed) = (ptr::null_mut(), ptr::null_mut());
    // SAFETY: live tensors whose shapes, kinds, devices and, for a GPU, layout were checked above, which are only read;
    // `kept` may be null.
    let message = unsafe {
        patchmix_add_norm(
            &mut sum,
            &mut normed,
            parts.tokens.as_ptr(),
            parts.branch.as_ptr(),
            parts.kept.map_or(ptr::null(), Tensor::as_ptr),
            parts.weight.as_ptr(),
            parts.bias.as_ptr(),
            parts.epsilon,
        )
    };
    check(message)?;
    Ok(Some((new_tensor(sum)?, new_tensor(normed)?)))
}
