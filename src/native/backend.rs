//! Calls into `csrc/backend.cpp` that set or ask something of the whole process.

use std::ffi::c_char;

use super::check;
use crate::error::Result;

unsafe extern "C" {
    fn patchmix_use_gpu(index: i64) -> *mut c_char;
    fn patchmix_gpu_has_bfloat16(has: *mut bool) -> *mut c_char;
    fn patchmix_allow_tf32(allowed: bool) -> *mut c_char;
    fn patchmix_allow_cudnn_attention(allowed: bool) -> *mut c_char;
    fn patchmix_set_deterministic(deterministic: bool) -> *mut c_char;
    fn patchmix_peak_memory(index: i64, bytes: *mut i64) -> *mut c_char;
    fn patchmix_reset_peak_memory(index: i64) -> *mut c_char;
}

pub(crate) fn use_gpu(index: i64) -> Result<()> {
    // SAFETY: takes a number; whether there is such a GPU is checked on the other side.
    check(unsafe { patchmix_use_gpu(index) })
}

/// Of the current GPU.
pub(crate) fn gpu_has_bfloat16() -> Result<bool> {
    let mut has = false;
    // SAFETY: writes to the place that it is given, which outlives the call.
    check(unsafe { patchmix_gpu_has_bfloat16(&mut has) })?;
    Ok(has)
}

pub(crate) fn allow_tf32(allowed: bool) -> Result<()> {
    // SAFETY: takes a truth value.
    check(unsafe { patchmix_allow_tf32(allowed) })
}

pub(crate) fn allow_cudnn_attention(allowed: bool) -> Result<()> {
    // SAFETY: takes a truth value.
    check(unsafe { patchmix_allow_cudnn_attention(allowed) })
}

pub(crate) fn set_deterministic(deterministic: bool) -> Result<()> {
    // SAFETY: takes a truth value; that nobody else is at the environment is what the public function asks for.
    check(unsafe { patchmix_set_deterministic(deterministic) })
}

pub(crate) fn peak_memory(index: i64) -> Result<i64> {
    let mut bytes = 0;
    // SAFETY: writes to the place that it is given, which outlives the call.
    check(unsafe { patchmix_peak_memory(index, &mut bytes) })?;
    Ok(bytes)
}

pub(crate) fn reset_peak_memory(index: i64) -> Result<()> {
    // SAFETY: takes a number; whether there is such a GPU is checked on the other side.
    check(unsafe { patchmix_reset_peak_memory(index) })
}
