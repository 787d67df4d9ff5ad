//! The device and the CPU threads that a program computes with.

use std::path::Path;

use clap::builder::RangedI64ValueParser;
use clap::{Args, value_parser};
use tch::Device;

use crate::Result;

/// Options that choose the device and the threads.
#[derive(Debug, Args)]
pub(crate) struct MachineOptions {
    /// auto (a GPU if there is one), cpu, cuda or cuda:N
    #[arg(long, default_value = "auto")]
    device: String,
    /// CPU threads; 0 leaves it to libtorch
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = thread_count())]
    threads: u16,
}

impl MachineOptions {
    /// Sets up the CPU, and returns the chosen device, made the current one.
    pub(crate) fn set_up(&self) -> Result<Device> {
        set_up_cpu(self.threads);
        choose_device(&self.device)
    }
}

/// Numbers of CPU threads. libgomp ends the process where the system has no room for as many as it is asked for.
pub(crate) fn thread_count() -> RangedI64ValueParser<u16> {
    value_parser!(u16).range(0..=1024)
}

/// Keeps freed memory for reuse, and sets the number of threads; 0 leaves it to libtorch.
pub(crate) fn set_up_cpu(threads: u16) {
    patchmix::backend::keep_freed_memory();
    if threads > 0 {
        tch::set_num_threads(threads.into());
    }
}

/// The device called `name`, made the current one. `auto` takes a GPU if there is one; any other must exist.
pub(crate) fn choose_device(name: &str) -> Result<Device> {
    let device = named(name)?;
    patchmix::backend::use_device(device)?;
    Ok(device)
}

fn named(name: &str) -> Result<Device> {
    let index = match name {
        "auto" => return Ok(Device::cuda_if_available()),
        "cpu" => return Ok(Device::Cpu),
        "cuda" => 0,
        "mps" => {
            return Err(
                "--device mps: not supported: it has no double precision, and libtorch's AdamW is not known to \
                        skip bad steps there; use --device cpu"
                    .into(),
            );
        }
        _ => match name.strip_prefix("cuda:").and_then(|index| index.parse().ok()) {
            Some(index) => index,
            None => return Err(format!("--device {name}: choose auto, cpu, cuda or cuda:N").into()),
        },
    };
    if lacks_cuda() {
        return Err(format!("--device {name}: {NO_CUDA}; to use the CPU, --device cpu").into());
    }
    let count = if tch::Cuda::is_available() { tch::Cuda::device_count() } else { 0 };
    match usize::try_from(count) {
        Ok(count) if index < count => Ok(Device::Cuda(index)),
        Ok(0) => Err(format!("--device {name}: libtorch finds no CUDA device; use --device cpu or auto").into()),
        _ => Err(format!("--device {name}: there are {count} CUDA devices, numbered from 0").into()),
    }
}

const NO_CUDA: &str = "no CUDA in libtorch, though this machine has an NVIDIA driver; run PATCHMIX_LIBTORCH=cuda make \
                       libtorch (or set LIBTORCH to one with CUDA) and build again";

/// Whether there is a GPU that only libtorch's CUDA half is missing for.
fn lacks_cuda() -> bool {
    let driver = ["/proc/driver/nvidia/version", "/usr/lib/wsl/lib/libcuda.so.1"]; // the second one in WSL 2
    !tch::utils::has_cudart() && driver.iter().any(|file| Path::new(file).exists())
}

/// The device in words: `the CPU (threads: 2)`, `Cuda(0)`; and if only libtorch is missing for a GPU.
pub(crate) fn describe(device: Device) -> String {
    match device {
        Device::Cpu => {
            let missing = if lacks_cuda() { format!("; {NO_CUDA}") } else { String::new() };
            format!("the CPU (threads: {}){missing}", tch::get_num_threads())
        }
        device => format!("{device:?}"),
    }
}
