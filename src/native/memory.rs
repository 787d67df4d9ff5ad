//! Bindings to `csrc/backend.cpp`: uploads to a GPU, batched copies, page-locked memory.

use std::ffi::c_char;
use std::ptr;

use tch::Tensor;
use torch_sys::C_tensor;

use super::{check, check_like, new_tensor, pointers};
#[cfg(feature = "image-folder")]
use crate::error::Error;
use crate::error::Result;

unsafe extern "C" {
    fn patchmix_upload(uploaded: *mut *mut C_tensor, source: *const C_tensor, index: i64) -> *mut c_char;
    fn patchmix_copy_all(targets: *const *const C_tensor, sources: *const *const C_tensor, count: usize)
    -> *mut c_char;
    #[cfg(feature = "image-folder")]
    fn patchmix_empty_bytes(
        made: *mut *mut C_tensor,
        sizes: *const i64,
        dimensions: usize,
        pinned: bool,
    ) -> *mut c_char;
}

/// Copies a CPU tensor to GPU `index` without waiting for the GPU.
pub(crate) fn upload(source: &Tensor, index: usize) -> Result<Tensor> {
    let mut uploaded = ptr::null_mut();
    // SAFETY: a pointer to a live tensor, which is only read.
    check(unsafe { patchmix_upload(&mut uploaded, source.as_ptr(), index as i64) })?;
    new_tensor(uploaded)
}

/// Copies every tensor of `sources` into its counterpart in `targets`, of the same shape, kind and device.
#[cfg_attr(not(feature = "distributed"), allow(dead_code))] // for averaged gradients
pub(crate) fn copy_all(targets: &[&Tensor], sources: &[&Tensor]) -> Result<()> {
    check_like(targets, &[sources])?;
    if targets.is_empty() {
        return Ok(());
    }
    let (targets, sources) = (pointers(targets), pointers(sources));
    // SAFETY: two lists of `targets.len()` live tensors of equal shapes, kinds and devices.
    check(unsafe { patchmix_copy_all(targets.as_ptr(), sources.as_ptr(), targets.len()) })
}

/// Concatenates `parts` in a new byte tensor on the CPU; `pinned` makes it page-locked, which needs a GPU.
#[cfg(feature = "image-folder")]
pub(crate) fn join<'a>(parts: impl Iterator<Item = &'a [u8]> + Clone, shape: &[i64], pinned: bool) -> Result<Tensor> {
    let mut made = ptr::null_mut();
    // SAFETY: a pointer to a slice of the given length, which is only read.
    check(unsafe { patchmix_empty_bytes(&mut made, shape.as_ptr(), shape.len(), pinned) })?;
    let joined = new_tensor(made)?;
    let bytes: usize = parts.clone().map(<[u8]>::len).sum();
    if bytes != joined.numel() {
        let expected = format!("{}, for shape {shape:?}", joined.numel());
        return Err(Error::Value { name: "number of bytes", expected, actual: bytes as f64 });
    }
    let mut place = joined.data_ptr().cast::<u8>();
    for part in parts {
        // SAFETY: the tensor is new, contiguous and has one byte per element. The parts cannot overlap it and have as
        // many bytes in total.
        unsafe {
            ptr::copy_nonoverlapping(part.as_ptr(), place, part.len());
            place = place.add(part.len());
        }
    }
    Ok(joined)
}
