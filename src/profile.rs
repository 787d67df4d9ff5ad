//! Kernel times from libtorch's profiler.
//!
//! ```no_run
//! use patchmix::profile;
//!
//! let a = tch::Tensor::rand([512, 512], (tch::Kind::Float, tch::Device::cuda_if_available()));
//! for kernel in profile::kernel_times(|| Ok(drop(a.f_mm(&a)?)))? {
//!     println!("{:>9.1} µs {:>4} calls  {}", kernel.microseconds, kernel.calls, kernel.name);
//! }
//! # Ok::<(), patchmix::Error>(())
//! ```

use crate::error::Result;
use crate::native::profile;

/// All calls of one kernel, or of one operator on a machine without a GPU.
#[derive(Debug, Clone, PartialEq)]
pub struct KernelTime {
    /// Its name, with its template arguments.
    pub name: String,
    /// The number of calls.
    pub calls: u64,
    /// The total time of all calls.
    pub microseconds: f64,
}

/// Profiles `work`: the kernels, copies and fills that the GPU ran, grouped by name, longest total first.
///
/// Without a GPU it lists CPU operators; the time of an operator includes the operators that it calls. Waits for the
/// GPU before and after. Only one profile can run at a time in a process.
///
/// # Errors
///
/// Those of `work`; [`Error::Torch`](crate::Error::Torch) if the profiler cannot start, for example because another
/// profile is running.
pub fn kernel_times(work: impl FnOnce() -> Result<()>) -> Result<Vec<KernelTime>> {
    let gpu = tch::Cuda::is_available();
    profile::begin(gpu)?;
    let profiler = Profiler { gpu };
    let done = work();
    let lines = profiler.end()?;
    done?;
    let mut kernels: Vec<KernelTime> = lines.lines().filter_map(kernel).collect();
    kernels.sort_by(|a, b| b.microseconds.total_cmp(&a.microseconds));
    Ok(kernels)
}

/// Guard that ends the profile even if the work panics.
struct Profiler {
    gpu: bool,
}

impl Profiler {
    fn end(self) -> Result<String> {
        let gpu = self.gpu;
        std::mem::forget(self);
        profile::end(gpu)
    }
}

impl Drop for Profiler {
    fn drop(&mut self) {
        let _ = profile::end(self.gpu); // the panic is what matters
    }
}

/// Parses `CALLS NANOSECONDS NAME`.
fn kernel(line: &str) -> Option<KernelTime> {
    let mut words = line.splitn(3, ' ');
    let (calls, nanoseconds) = (words.next()?.parse().ok()?, words.next()?.parse::<f64>().ok()?);
    Some(KernelTime { name: words.next()?.to_owned(), calls, microseconds: nanoseconds / 1e3 })
}

#[cfg(test)]
mod tests {
    use tch::{Device, Kind, Tensor};

    use super::*;
    use crate::error::Error;

    /// One test, because a process has one profiler.
    #[test]
    fn a_profile_counts_calls_and_ends_with_its_work() {
        let a = Tensor::rand([64, 64], (Kind::Float, Device::cuda_if_available()));
        let kernels = kernel_times(|| {
            for _ in 0..3 {
                drop(a.f_mm(&a)?);
            }
            Ok(())
        });
        let kernels = kernels.unwrap();
        assert!(kernels.iter().any(|kernel| kernel.calls == 3 && kernel.microseconds > 0.0), "{kernels:?}");
        assert!(kernels.is_sorted_by(|a, b| a.microseconds >= b.microseconds));
        let failed = kernel_times(|| Err(Error::Undefined { name: "work" }));
        assert!(matches!(failed, Err(Error::Undefined { .. })));
        kernel_times(|| Ok(())).unwrap();
    }
}
