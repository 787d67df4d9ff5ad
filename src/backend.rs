//! Settings of libtorch for the whole process that tch does not bind: on what GPU it works, in what precision, and
//! whether it gives the same bits every time.
//!
//! A training program calls them once, before its first work on a GPU:
//!
//! ```no_run
//! use patchmix::backend;
//!
//! let device = tch::Device::cuda_if_available();
//! backend::use_device(device)?;
//! backend::allow_tf32(true)?;
//! # Ok::<(), patchmix::Error>(())
//! ```

use std::sync::atomic::Ordering;

use tch::Device;

use crate::error::{Error, Result, check_index, check_value};
use crate::native::{add_norm, backend};

/// The fused kernel that half-precision attention takes on a GPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AttentionKernel {
    /// FlashAttention, which libtorch carries itself.
    Flash,
    /// cuDNN's, which is libtorch's own choice on some cards.
    Cudnn,
}

/// Makes a GPU the current device of this thread: without it, work on `cuda:1` also takes memory on `cuda:0`. Nothing
/// to do for the CPU.
///
/// # Errors
///
/// [`Error::Value`] if the CUDA index is out of range, [`Error::Torch`] if there is no such GPU.
pub fn use_device(device: Device) -> Result<()> {
    check_index(device)?;
    match device {
        Device::Cuda(index) => backend::use_gpu(index as i64),
        _ => Ok(()),
    }
}

/// Lets matrix products and convolutions of `Float` tensors round their inputs to TF32 (10 bits of mantissa) on a GPU,
/// which is several times faster there. Off by default for products, on by default for convolutions.
///
/// # Errors
///
/// [`Error::Torch`] if the environment forbids the change.
pub fn allow_tf32(allowed: bool) -> Result<()> {
    backend::allow_tf32(allowed)
}

/// Chooses the kernel of half-precision attention on a GPU.
///
/// # Errors
///
/// [`Error::Torch`] if libtorch refuses.
pub fn set_attention_kernel(kernel: AttentionKernel) -> Result<()> {
    backend::allow_cudnn_attention(kernel == AttentionKernel::Cudnn)
}

/// Takes only algorithms that give the same bits every time, at some cost in speed; an operation that has none is then
/// an error. On a CPU nothing changes: everything here gives the same bits anyway, given the same number of threads.
///
/// Call it before the first work on a GPU: cuBLAS looks only then. Chooses [`AttentionKernel::Flash`], since cuDNN's
/// attention has no such algorithm; with `false`, libtorch's own choice again.
///
/// # Safety
///
/// No other thread may read or write the environment meanwhile: it sets `CUBLAS_WORKSPACE_CONFIG` unless that is set.
///
/// # Errors
///
/// [`Error::Torch`] if libtorch refuses.
#[allow(unsafe_code)] // as `std::env::set_var` is
pub unsafe fn set_deterministic(deterministic: bool) -> Result<()> {
    set_attention_kernel(if deterministic { AttentionKernel::Flash } else { AttentionKernel::Cudnn })?;
    backend::set_deterministic(deterministic)
}

/// Whether this crate's own CUDA kernels may be used where there is one, as they are unless told otherwise. Without,
/// and where none fits, libtorch's operations compute the same, rounded in other places.
///
/// Their gradients have no gradient themselves: second derivatives need libtorch's.
pub fn allow_own_kernels(allowed: bool) {
    add_norm::ALLOWED.store(allowed, Ordering::Relaxed);
}

/// An error that says why an encoder of this width has no kernels of this crate's own on this device, if it has none.
///
/// # Errors
///
/// [`Error::Value`] for the CPU, and unless the width is a multiple of 64 and at most 1024; [`Error::Torch`] if they
/// cannot be compiled or loaded.
pub fn check_own_kernels(device: Device, width: i64) -> Result<()> {
    let index = gpu_index(device)?;
    let fits = add_norm::is_fitting(width);
    check_value("width", width as f64, "a multiple of 64 and at most 1024", fits)?;
    add_norm::load(index as usize, width)
}

/// Whether matrix products in bfloat16 are faster than in `Float` on this device: on GPUs of compute capability 8 or
/// above, and on CPUs with instructions for them (`avx512_bf16`, `amx_bf16`, Arm's `bf16`).
///
/// Makes a GPU the current device of this thread, as [`use_device`] does.
pub fn has_fast_bfloat16(device: Device) -> bool {
    match device {
        Device::Cpu => cpu_has_bfloat16(),
        Device::Cuda(_) => use_device(device).and_then(|()| backend::gpu_has_bfloat16()).unwrap_or(false),
        _ => false,
    }
}

#[cfg(target_arch = "x86_64")]
fn cpu_has_bfloat16() -> bool {
    // A processor with `amx_bf16` has this, too.
    std::arch::is_x86_feature_detected!("avx512bf16")
}

#[cfg(target_arch = "aarch64")]
fn cpu_has_bfloat16() -> bool {
    std::arch::is_aarch64_feature_detected!("bf16")
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn cpu_has_bfloat16() -> bool {
    false
}

/// The most bytes that tensors on a GPU took at a time since the program began, or since [`reset_peak_memory`].
///
/// # Errors
///
/// [`Error::Value`] for the CPU, of whose memory libtorch keeps no count; [`Error::Torch`] if there is no such GPU.
pub fn peak_memory(device: Device) -> Result<i64> {
    backend::peak_memory(gpu_index(device)?)
}

/// Begins to count [`peak_memory`] anew.
///
/// # Errors
///
/// Those of [`peak_memory`].
pub fn reset_peak_memory(device: Device) -> Result<()> {
    backend::reset_peak_memory(gpu_index(device)?)
}

fn gpu_index(device: Device) -> Result<i64> {
    check_index(device)?;
    match device {
        Device::Cuda(index) => Ok(index as i64),
        other => {
            let expected = format!("a CUDA device, not {other:?}");
            Err(Error::Value { name: "device", expected, actual: f64::NAN })
        }
    }
}
