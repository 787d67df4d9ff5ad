//! Running out of memory is a clear error, and the process can continue.

use approx::assert_abs_diff_eq;
use patchmix::contrast::{HeadConfig, LossConfig, Model, Networks, View, losses};
use patchmix::vit::VitConfig;
use patchmix::{MixPlan, Result, loss};
use tch::nn::VarStore;
use tch::{Device, Kind, Tensor};

use crate::common::golden_shape;
use crate::turn::Turn;

/// More images than any machine can hold. As an expanded tensor they take the memory of one.
const HUGE: i64 = 1 << 44;

#[track_caller]
fn assert_out_of_memory<T>(what: &str, result: Result<T>) {
    match result {
        Err(error) => assert!(error.is_out_of_memory(), "{what}: {error}"),
        Ok(_) => panic!("{what} fits into memory"),
    }
}

/// The total of one step; `before_backward` runs between the forward and the backward pass.
fn step(model: &Model, images: &Tensor, plan: &MixPlan, before_backward: impl FnOnce()) -> Result<f64> {
    let networks = Networks { model, momentum: None, ranks: None };
    let view = View { images, plan };
    let losses = losses(&networks, [view, view], &[], &LossConfig::default())?;
    before_backward();
    losses.backward()?;
    Ok(losses.total()?.double_value(&[]))
}

#[test]
fn running_out_of_memory_is_recognized() {
    let turn = Turn::take();
    let (vit, heads) = golden_shape();
    let store = VarStore::new(turn.device);
    let model = Model::new(&store.root(), &vit, &heads).unwrap();
    let plan = MixPlan::random(16, 2, 1).unwrap();
    let few = turn.randn(&[8, 3, 16, 16], Kind::Float);
    let before = step(&model, &few, &plan, || ()).unwrap();
    let images = few.narrow(0, 0, 1).expand([HUGE, 3, 16, 16], false);
    let rows = turn.randn(&[1, 8], Kind::Float).expand([HUGE, 8], false);
    assert_out_of_memory("mix_images", plan.mix_images(&images, 4));
    assert_out_of_memory("encoder", model.network.encoder.forward(&images, true));
    assert_out_of_memory("losses", step(&model, &images, &plan, || ()));
    assert_out_of_memory("origin_to_origin", loss::origin_to_origin(&rows, &rows, 0.2));
    let after = step(&model, &few, &plan, || ()).unwrap();
    assert_abs_diff_eq!(after, before, epsilon = 1e-5);
}

/// Tensors that fill a GPU but for less than 64 MiB.
fn fill(device: Device) -> Vec<Tensor> {
    let mut all = Vec::new();
    for mebibytes in [4096, 256, 32] {
        while let Ok(tensor) = Tensor::f_empty([mebibytes << 20], (Kind::Uint8, device)) {
            all.push(tensor);
        }
    }
    all
}

/// If GPU memory runs out in the middle of a step, forward or backward, later steps work once there is memory again.
#[test]
fn a_step_works_again_after_gpu_memory_ran_out() {
    let turn = Turn::take();
    if !turn.device.is_cuda() {
        return; // filling the memory of the CPU would disturb the machine
    }
    let vit = VitConfig { depth: 2, drop_path: 0.0, ..VitConfig::tiny(32, 2) };
    let store = VarStore::new(turn.device);
    let model = Model::new(&store.root(), &vit, &HeadConfig { hidden: 256, output: 64 }).unwrap();
    let plan = MixPlan::random(256, 2, 1).unwrap();
    let images = turn.randn(&[512, 3, 32, 32], Kind::Float);
    let before = step(&model, &images, &plan, || ()).unwrap();
    let full = fill(turn.device);
    assert_out_of_memory("forward", step(&model, &images, &plan, || ()));
    drop(full);
    let mut full = Vec::new();
    assert_out_of_memory("backward", step(&model, &images, &plan, || full = fill(turn.device)));
    drop(full);
    let after = step(&model, &images, &plan, || ()).unwrap();
    assert_abs_diff_eq!(after, before, epsilon = 1e-4);
}
