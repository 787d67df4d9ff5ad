//! Bindings to `csrc/backend.cpp`: process-wide settings and queries.

use std::ffi::c_char;

use super::check;
use crate::error::Result;

unsafe extern "C" {
    fn patchmix_keep_freed_memory() -> bool;
    fn patchmix_use_gpu(index: i64) -> *mut c_char;
    fn patchmix_gpu_has_bfloat16(has: *mut bool) -> *mut c_char;
    fn patchmix_allow_tf32(allowed: bool) -> *mut c_char;
    fn patchmix_allow_cudnn_attention(allowed: bool) -> *mut c_char;
    fn patchmix_set_deterministic(deterministic: bool) -> *mut c_char;
    fn patchmix_peak_memory(index: i64, bytes: *mut i64) -> *mut c_char;
    fn patchmix_reset_peak_memory(index: i64) -> *mut c_char;
}

pub(crate) fn keep_freed_memory() -> bool {
    // SAFETY: sets two words among the parameters of the C library's allocator. A thread that allocates meanwhile may
    // still read an old one, which is as good.
    unsafe { patchmix_keep_freed_memory() }
}

pub(crate) fn use_gpu(index: i64) -> Result<()> {
    // SAFETY: takes a number only; the C++ side checks that the GPU exists.
    check(unsafe { patchmix_use_gpu(index) })
}

/// Whether the current GPU multiplies bfloat16 in hardware.
pub(crate) fn gpu_has_bfloat16() -> Result<bool> {
    let mut has = false;
    // SAFETY: writes to `has`, which outlives the call.
    check(unsafe { patchmix_gpu_has_bfloat16(&mut has) })?;
    Ok(has)
}

pub(crate) fn allow_tf32(allowed: bool) -> Result<()> {
    // SAFETY: takes a bool only.
    check(unsafe { patchmix_allow_tf32(allowed) })
}

pub(crate) fn allow_cudnn_attention(allowed: bool) -> Result<()> {
    // SAFETY: takes a bool only.
    check(unsafe { patchmix_allow_cudnn_attention(allowed) })
}

pub(crate) fn set_deterministic(deterministic: bool) -> Result<()> {
    // SAFETY: takes a bool only; callers of the public, unsafe function ensure that nothing else accesses the
    // environment.
    check(unsafe { patchmix_set_deterministic(deterministic) })
}

pub(crate) fn peak_memory(index: i64) -> Result<i64> {
    let mut bytes = 0;
    // SAFETY: writes to `bytes`, which outlives the call.
    check(unsafe { patchmix_peak_memory(index, &mut bytes) })?;
    Ok(bytes)
}

pub(crate) fn reset_peak_memory(index: i64) -> Result<()> {
    // SAFETY: takes a number only; the C++ side checks that the GPU exists.
    check(unsafe { patchmix_reset_peak_memory(index) })
}
