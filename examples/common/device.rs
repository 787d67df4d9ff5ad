//! Where things are computed.

use tch::Device;

use super::Result;

/// The device that a name stands for, made the current one. `auto` takes a GPU if there is one; a GPU that is asked for
/// must be there.
pub(crate) fn choose_device(name: &str) -> Result<Device> {
    let device = device_of(name)?;
    patchmix::backend::use_device(device)?;
    Ok(device)
}

fn device_of(name: &str) -> Result<Device> {
    let index = match name {
        "auto" => return Ok(Device::cuda_if_available()),
        "cpu" => return Ok(Device::Cpu),
        "cuda" => 0,
        _ => match name.strip_prefix("cuda:").and_then(|index| index.parse().ok()) {
            Some(index) => index,
            None => return Err(format!("--device {name}: choose auto, cpu, cuda or cuda:N").into()),
        },
    };
    let count = if tch::Cuda::is_available() { tch::Cuda::device_count() } else { 0 };
    match usize::try_from(count) {
        Ok(count) if index < count => Ok(Device::Cuda(index)),
        Ok(0) => Err(format!("--device {name}: libtorch finds no CUDA device; use --device cpu or auto").into()),
        _ => Err(format!("--device {name}: there are {count} CUDA devices, numbered from 0").into()),
    }
}
