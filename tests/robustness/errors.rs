//! Every variant of the error, returned by some function with its numbers.

use std::collections::HashMap;
use std::path::Path;

use patchmix::checkpoint::Checkpoint;
use patchmix::contrast::{HeadConfig, Model, MomentumNetwork};
use patchmix::data::{Split, cifar10, procedural};
use patchmix::{Error, MixPlan, SoftTarget, loss};
use tch::nn::VarStore;
use tch::{Cuda, Device, Kind, Tensor};

use crate::any::CPU;
use crate::model::SMALL;

fn floats(size: &[i64]) -> Tensor {
    Tensor::ones(size, (Kind::Float, CPU))
}

#[test]
fn every_variant_carries_its_numbers() {
    let plan = MixPlan::random(4, 2, 3).unwrap();
    let error = plan.mix_patches(&floats(&[2, 5, 1])).unwrap_err();
    assert!(matches!(error, Error::Shape { name: "batch", expected, actual }
            if expected == "[B, 4, D]" && actual == [2, 5, 1]));
    let error = loss::negative_free(&floats(&[2, 2]).to_kind(Kind::Int64), &floats(&[2, 2])).unwrap_err();
    assert!(matches!(error, Error::Kind { name: "q", actual: Kind::Int64, .. }));
    assert!(matches!(plan.mix_patches(&Tensor::new()), Err(Error::Undefined { name: "batch" })));
    assert!(matches!(MixPlan::random(4, 5, 1), Err(Error::Groups { groups: 5, patches: 4 })));
    let error = plan.targets(3).unwrap_err();
    assert!(matches!(error, Error::SourcesCollide { batch_size: 3, groups: 2, mix_stride: 3, distinct: 1 }));
    let error = MixPlan::from_permutation(&[0, 2, 2], 1, 1).unwrap_err();
    assert!(matches!(error, Error::Permutation { length: 3, position: 2 }));
    let error = plan.mix_images(&floats(&[2, 3, 4, 5]), 2).unwrap_err();
    assert!(matches!(error, Error::PatchSize { height: 4, width: 5, patch_size: 2 }));
    let error = SoftTarget::identity(0).unwrap_err();
    assert!(matches!(error, Error::Value { name: "batch_size", actual: 0.0, .. }));
    let nowhere = Path::new("no such folder");
    let error = cifar10(nowhere, Split::Test, None).unwrap_err();
    assert!(matches!(error, Error::Data { path, .. } if path == nowhere));
    let error = Checkpoint::load(nowhere).unwrap_err();
    assert!(matches!(error, Error::Io { path, .. } if path == nowhere));
    let error = Checkpoint::from_bytes(b"no", nowhere).unwrap_err();
    assert!(matches!(error, Error::Checkpoint { path, .. } if path == nowhere));
    let missing = HashMap::from([("a".to_owned(), floats(&[1]))]);
    let error = Checkpoint::default().restore("model", missing, nowhere).unwrap_err();
    assert!(matches!(error, Error::Checkpoint { path, .. } if path == nowhere));
    let error = loss::origin_to_origin(&floats(&[2, 2]), &floats(&[2, 2]), 0.0).unwrap_err();
    assert!(matches!(error, Error::Value { name: "temperature", actual: 0.0, .. }));
}

/// In tch, an operation with a plain number among its arguments panics if libtorch returns an error.
#[test]
fn errors_of_libtorch_do_not_panic_where_numbers_are_passed() {
    for device in [Device::Mps, Device::Vulkan] {
        assert!(matches!(SoftTarget::identity(2).unwrap().dense(Kind::Float, device), Err(Error::Torch(_))));
    }
    let huge = floats(&[1, 1]).expand([1 << 40, 1], false);
    assert!(matches!(loss::negative_free(&huge, &huge), Err(Error::Torch(_))));
    let plan = MixPlan::random(1, 1, 1).unwrap();
    assert!(matches!(plan.mix_patches(&huge.unsqueeze(1)), Err(Error::Torch(_))));
}

/// Truncated to 8 bits, these indices would select the CPU or the first GPU.
#[test]
fn a_cuda_index_out_of_range_is_an_error() {
    for index in [128, 256, usize::MAX] {
        let device = Device::Cuda(index);
        let store = VarStore::new(CPU);
        let heads = HeadConfig { hidden: 2, output: 2 };
        let _model = Model::new(&store.root(), &SMALL, &heads).unwrap();
        for error in [
            SoftTarget::identity(2).unwrap().dense(Kind::Float, device).map(drop).unwrap_err(),
            procedural(1, 8, 0).unwrap().to_device(device).map(drop).unwrap_err(),
            MomentumNetwork::new(&store, &SMALL, &heads, device).map(drop).unwrap_err(),
        ] {
            assert!(matches!(error, Error::Value { name: "device", actual, .. } if actual == index as f64));
        }
    }
}

#[test]
fn tensors_on_two_devices_are_an_error() {
    if !Cuda::is_available() {
        eprintln!("skipped: there is no second device");
        return;
    }
    let gpu = Device::Cuda(0);
    let error = loss::negative_free(&floats(&[2, 2]), &floats(&[2, 2]).to_device(gpu)).unwrap_err();
    assert!(matches!(error, Error::Device { name: "k", expected: CPU, actual } if actual == gpu));
    let mut data = procedural(2, 8, 0).unwrap();
    data.images = data.images.to_device(gpu);
    let error = data.select(&[0]).unwrap_err();
    assert!(matches!(error, Error::Device { name: "labels", actual: CPU, .. }));
}
