//! The device under test, used by one test at a time.

use std::env;
use std::io::Write;
use std::sync::{Mutex, MutexGuard, PoisonError};

use patchmix::backend::{self, AttentionKernel};
use tch::{Cuda, Device, Kind, Tensor};

use crate::common::assert_close;

const VARIABLE: &str = "PATCHMIX_TEST_DEVICE";

/// A test's turn with the device: generators seeded with 1, and no TF32. Tests share these settings and the memory of a
/// GPU, so the next test waits until this is dropped.
pub(crate) struct Turn {
    pub(crate) device: Device,
    _alone: MutexGuard<'static, ()>,
}

impl Turn {
    pub(crate) fn take() -> Turn {
        static TURN: Mutex<()> = Mutex::new(());
        let alone = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        let device = env::var(VARIABLE).map_or(Device::Cpu, |name| test_device(&name));
        if device == Device::Cpu {
            // Small tensors gain nothing from more threads, which slow each other down on a busy machine.
            tch::set_num_threads(1);
        }
        backend::use_device(device).unwrap();
        backend::allow_tf32(false).unwrap();
        backend::allow_own_kernels(true);
        backend::set_attention_kernel(AttentionKernel::Cudnn).unwrap(); // libtorch's default
        tch::manual_seed(1);
        Turn { device, _alone: alone }
    }

    /// A copy of `tensor` on the device, of kind `kind`.
    pub(crate) fn put(&self, tensor: &Tensor, kind: Kind) -> Tensor {
        tensor.detach().to_kind(kind).to_device(self.device).copy()
    }

    /// Normal random numbers, the same on every device.
    pub(crate) fn randn(&self, size: &[i64], kind: Kind) -> Tensor {
        self.put(&Tensor::randn(size, (Kind::Double, Device::Cpu)), kind)
    }
}

fn test_device(name: &str) -> Device {
    device_named(name, Cuda::device_count()).unwrap_or_else(|reason| panic!("{reason}"))
}

/// The device of that name on a machine with `gpus` GPUs.
fn device_named(name: &str, gpus: i64) -> Result<Device, String> {
    let index = match name.split_once(':') {
        None if name == "cpu" => return Ok(Device::Cpu),
        None if name == "cuda" => 0,
        Some(("cuda", index)) => {
            index.parse().map_err(|_| format!("{VARIABLE}={name}: {index} is not a CUDA index"))?
        }
        _ => return Err(format!("{VARIABLE} must be cpu, cuda or cuda:N, got {name}")),
    };
    if index as i64 >= gpus {
        return Err(format!(
            "{VARIABLE}={name}: libtorch finds {gpus} GPUs; choose another index, or unset it for the CPU"
        ));
    }
    Ok(Device::Cuda(index))
}

/// Fails unless `actual` equals `expected` up to `tolerance` times the largest magnitude in it, or times 1 if that is
/// more. The devices may differ.
#[track_caller]
pub(crate) fn assert_near(what: &str, actual: &Tensor, expected: &Tensor, tolerance: f64) {
    let (actual, expected) = (actual.to(Device::Cpu), expected.to(Device::Cpu));
    let scale = if expected.numel() == 0 { 1.0 } else { expected.abs().max().double_value(&[]).max(1.0) };
    assert_close(what, &actual, &expected, tolerance * scale);
}

#[test]
fn device_names_are_parsed_or_refused_with_a_reason() {
    assert_eq!(device_named("cpu", 0), Ok(Device::Cpu));
    assert_eq!(device_named("cuda", 1), Ok(Device::Cuda(0)));
    assert_eq!(device_named("cuda:3", 4), Ok(Device::Cuda(3)));
    for (name, gpus, reason) in [
        ("cuda", 0, "PATCHMIX_TEST_DEVICE=cuda: libtorch finds 0 GPUs"),
        ("cuda:4", 4, "libtorch finds 4 GPUs"),
        ("cuda:one", 4, "one is not a CUDA index"),
        ("gpu", 4, "must be cpu, cuda or cuda:N, got gpu"),
        ("", 4, "must be cpu"),
    ] {
        let refused = device_named(name, gpus).unwrap_err();
        assert!(refused.contains(reason), "{refused}");
    }
}

/// Mentions an untested GPU on stderr, bypassing libtest, which captures prints.
#[test]
fn an_untested_gpu_is_mentioned() {
    if env::var_os(VARIABLE).is_none() && Cuda::is_available() {
        let note = format!("tested on the CPU; to test on the GPU: {VARIABLE}=cuda cargo test --test device\n");
        std::io::stderr().write_all(note.as_bytes()).unwrap();
    }
    let turn = Turn::take();
    let tensor = turn.put(&Tensor::ones([2], (Kind::Float, Device::Cpu)), Kind::Double);
    assert_eq!((tensor.device(), tensor.kind()), (turn.device, Kind::Double));
}
