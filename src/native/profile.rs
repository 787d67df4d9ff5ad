//! Bindings to `csrc/profile.cpp`: libtorch's profiler.

use std::ffi::c_char;
use std::ptr;

use super::{check, message_text};
use crate::error::Result;

unsafe extern "C" {
    fn patchmix_profile_begin(gpu: bool) -> *mut c_char;
    fn patchmix_profile_end(gpu: bool, lines: *mut *mut c_char) -> *mut c_char;
}

pub(crate) fn begin(gpu: bool) -> Result<()> {
    // SAFETY: takes a bool only.
    check(unsafe { patchmix_profile_begin(gpu) })
}

/// Ends the profile and returns one line per name: calls, nanoseconds, name.
pub(crate) fn end(gpu: bool) -> Result<String> {
    let mut lines = ptr::null_mut();
    // SAFETY: writes to `lines`, which outlives the call.
    check(unsafe { patchmix_profile_end(gpu, &mut lines) })?;
    Ok(message_text(lines).unwrap_or_default())
}
