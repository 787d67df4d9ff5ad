//! Process-wide settings that tch does not bind: current GPU, TF32, determinism, memory.
//!
//! Call them once, before the first work:
//!
//! ```no_run
//! use patchmix::backend;
//!
//! let device = tch::Device::cuda_if_available();
//! backend::keep_freed_memory();
//! backend::use_device(device)?;
//! backend::allow_tf32(true)?;
//! # Ok::<(), patchmix::Error>(())
//! ```

use std::sync::atomic::Ordering;

use tch::Device;

use crate::error::{Error, Result, check_index, check_value};
use crate::native::gpu::{self, Kernels};
use crate::native::{self, add_norm, backend};

/// The fused kernel for half-precision attention on a GPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AttentionKernel {
    /// FlashAttention, which is part of libtorch.
    Flash,
    /// cuDNN's, libtorch's default on some GPUs.
    Cudnn,
}

/// Makes the C library keep freed memory for the next allocation. Returns whether it does, which needs glibc.
///
/// By default, glibc returns blocks above 32 MiB to the system when they are freed, and a training step on the CPU
/// allocates and frees dozens of them: the system then clears the same pages again at every step. The price: memory
/// does not shrink after its peak, and the gaps between blocks can make the peak larger.
///
/// Call it before other threads start. Does nothing if one of glibc's variables `MALLOC_MMAP_THRESHOLD_`,
/// `MALLOC_MMAP_MAX_`, `MALLOC_TRIM_THRESHOLD_` or `GLIBC_TUNABLES` is set, and has no effect on another allocator.
pub fn keep_freed_memory() -> bool {
    const CHOSEN: [&str; 4] =
        ["MALLOC_MMAP_THRESHOLD_", "MALLOC_MMAP_MAX_", "MALLOC_TRIM_THRESHOLD_", "GLIBC_TUNABLES"];
    CHOSEN.iter().all(|name| std::env::var_os(name).is_none()) && backend::keep_freed_memory()
}

/// Makes a GPU the current device of this thread; otherwise work on `cuda:1` also takes memory on `cuda:0`. Does
/// nothing for the CPU.
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
/// where that is several times faster. libtorch's default is off for products and on for convolutions.
///
/// # Errors
///
/// [`Error::Torch`] if the environment forbids the change.
pub fn allow_tf32(allowed: bool) -> Result<()> {
    backend::allow_tf32(allowed)
}

/// Sets the kernel for half-precision attention on a GPU.
pub fn set_attention_kernel(kernel: AttentionKernel) -> Result<()> {
    backend::allow_cudnn_attention(kernel == AttentionKernel::Cudnn)
}

/// Restricts libtorch to deterministic algorithms, at some cost in speed; an operation without one then fails. Nothing
/// changes on a CPU, where results are the same bit for bit anyway, given the same number of threads.
///
/// Call it before the first work on a GPU, when cuBLAS reads its settings. It selects [`AttentionKernel::Flash`],
/// because cuDNN's attention is not deterministic; `false` restores libtorch's default.
///
/// # Safety
///
/// No other thread may access the environment at the same time: the function sets `CUBLAS_WORKSPACE_CONFIG` if it is
/// unset.
#[allow(unsafe_code)] // as `std::env::set_var` is
pub unsafe fn set_deterministic(deterministic: bool) -> Result<()> {
    set_attention_kernel(if deterministic { AttentionKernel::Flash } else { AttentionKernel::Cudnn })?;
    backend::set_deterministic(deterministic)
}

/// Allows or forbids this crate's own operations for layers and views, on CPUs and GPUs, which are allowed by default.
/// libtorch's operations compute the same, rounded differently, if they are forbidden or do not support the case.
///
/// The layers have no second derivatives; forbid them to compute any.
pub fn allow_own_kernels(allowed: bool) {
    native::ALLOWED.store(allowed, Ordering::Relaxed);
}

/// Checks that this crate's own CUDA kernels support an encoder of this width on this device.
///
/// # Errors
///
/// [`Error::Value`] for the CPU, and unless the width is a multiple of 64 from 64 to 1024; [`Error::Torch`] if the
/// kernels cannot be compiled or loaded.
pub fn check_own_kernels(device: Device, width: i64) -> Result<()> {
    let index = gpu_index(device)?;
    let supported = add_norm::supports_width(width);
    check_value("width", width as f64, "a multiple of 64 from 64 to 1024", supported)?;
    gpu::load(index as usize, Kernels::AddNorm { width })?;
    gpu::load(index as usize, Kernels::Layers)?;
    gpu::load(index as usize, Kernels::Views)
}

/// Whether matrix products in bfloat16 are faster than in `Float` on this device: on GPUs of compute capability 8 and
/// above, and on CPUs with bfloat16 instructions (`avx512_bf16`, `amx_bf16`, Arm's `bf16`).
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
    // CPUs with `amx_bf16` have `avx512_bf16`, too.
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

/// The peak of the bytes allocated for tensors on a GPU since the program started, or since [`reset_peak_memory`].
///
/// # Errors
///
/// [`Error::Value`] for the CPU, whose memory libtorch does not track; [`Error::Torch`] if there is no such GPU.
pub fn peak_memory(device: Device) -> Result<i64> {
    backend::peak_memory(gpu_index(device)?)
}

/// Resets [`peak_memory`].
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
