//! CUDA kernels, which `csrc/gpu_kernels.h` compiles at run time.

use std::collections::HashMap;
use std::ffi::{CStr, c_char};
use std::sync::{Mutex, PoisonError};

use tch::{Device, Kind, Tensor};

use super::check;
use crate::error::{Error, Result};

unsafe extern "C" {
    fn patchmix_load_kernels(source: *const c_char, index: i64, width: i64) -> *mut c_char;
}

/// The kernels of one CUDA source.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Kernels {
    /// Residual addition and layer norm of tokens of `width` features.
    AddNorm { width: i64 },
    /// GELU, sums of columns, and gradients of heads.
    Layers,
    /// Views of images.
    Views,
}

/// Whether GPU `index` has the kernels. If they cannot be compiled, for example without CUDA's run-time compiler,
/// libtorch's operations take over. The result is cached, unless the GPU ran out of memory.
pub(super) fn has(index: usize, kernels: Kernels) -> bool {
    static KNOWN: Mutex<Option<HashMap<(usize, Kernels), bool>>> = Mutex::new(None);
    let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    let known = known.get_or_insert_default();
    if let Some(has) = known.get(&(index, kernels)) {
        return *has;
    }
    let loaded = load(index, kernels);
    if !loaded.as_ref().is_err_and(Error::is_out_of_memory) {
        known.insert((index, kernels), loaded.is_ok());
    }
    loaded.is_ok()
}

/// Compiles the kernels for GPU `index`, unless they are compiled already.
pub(crate) fn load(index: usize, kernels: Kernels) -> Result<()> {
    let (source, width): (&CStr, i64) = match kernels {
        Kernels::AddNorm { width } => (c"add_norm.cu", width),
        Kernels::Layers => (c"layers.cu", 0),
        Kernels::Views => (c"views.cu", 0),
    };
    // SAFETY: a string that ends in null, which is only read, and numbers; the C++ side checks that the GPU exists.
    check(unsafe { patchmix_load_kernels(source.as_ptr(), index as i64, width) })
}

/// Whether `tensor` is a dense one on `device`, of one of these kinds.
pub(super) fn is_dense(tensor: &Tensor, device: Device, kinds: &[Kind]) -> bool {
    tensor.device() == device && tensor.f_kind().is_ok_and(|kind| kinds.contains(&kind)) && !tensor.is_sparse()
}
