//! The crate's own CUDA kernels, against libtorch's operations. Those of the CPU are tested where they are.

use patchmix::backend;
use patchmix::profile::kernel_times;
use patchmix::vit::{Precision, Vit, VitConfig};
use tch::nn::VarStore;
use tch::{Device, Kind, Tensor};

use crate::turn::Turn;

/// The features of a training pass, and the gradients of all weights, by name.
fn pass(turn: &Turn, width: i64, precision: Precision, images: &Tensor, own_kernels: bool) -> Vec<(String, Tensor)> {
    let drawn = VarStore::new(Device::Cpu);
    let mut store = VarStore::new(turn.device);
    let config = VitConfig { width, depth: 3, heads: width / 32, drop_path: 0.5, precision, ..VitConfig::tiny(16, 4) };
    tch::manual_seed(5);
    Vit::new(&drawn.root(), &config).unwrap();
    let encoder = Vit::new(&store.root(), &config).unwrap();
    store.copy(&drawn).unwrap();
    // Scales other than 1 and biases other than 0.
    tch::manual_seed(6);
    tch::no_grad(|| {
        for (_, mut variable) in store.variables().into_iter().collect::<std::collections::BTreeMap<_, _>>() {
            if variable.dim() == 1 {
                let noise = turn.randn(&variable.size(), Kind::Float) * 0.3;
                variable.copy_(&(&variable + noise));
            }
        }
    });
    backend::allow_own_kernels(own_kernels);
    tch::manual_seed(7);
    let features = encoder.forward(images, true);
    let loss = (features.as_ref().unwrap().square() * turn.randn(&[images.size()[0], width], Kind::Float)).sum(None);
    loss.backward();
    backend::allow_own_kernels(true);
    let mut all: Vec<(String, Tensor)> =
        store.variables().into_iter().map(|(name, weight)| (name, weight.grad())).collect();
    all.push(("features".to_owned(), features.unwrap().detach()));
    all.sort_by(|(name, _), (other, _)| name.cmp(other));
    all
}

/// The kernels that a pass launches.
const IN_BFLOAT16: &[&str] = &[
    "add_norm_forward",
    "add_norm_backward",
    "gelu_bfloat16",
    "gelu_backward_bfloat16",
    "add_columns_bfloat16",
    "join_heads",
];
const IN_FULL: &[&str] = &["gelu_float", "gelu_backward_float", "add_columns_float", "join_heads"];

#[test]
fn they_agree_with_the_operations_of_libtorch() {
    let turn = Turn::take();
    if !turn.device.is_cuda() {
        let refused = backend::check_own_kernels(turn.device, 192).unwrap_err().to_string();
        assert!(refused.contains("a CUDA device, not Cpu"), "{refused}");
        return;
    }
    backend::check_own_kernels(turn.device, 192).unwrap();
    let refused = backend::check_own_kernels(turn.device, 96).unwrap_err().to_string();
    assert!(refused.contains("a multiple of 64"), "{refused}");
    // In bfloat16, they round in different places.
    for (precision, names, tolerance) in [(Precision::BFloat16, IN_BFLOAT16, 0.03), (Precision::Full, IN_FULL, 1e-4)] {
        for width in [64, 192, 384, 768, 1024] {
            let images = turn.randn(&[9, 3, 16, 16], Kind::Float);
            let mut own = Vec::new();
            let kernels = kernel_times(|| {
                own = pass(&turn, width, precision, &images, true);
                Ok(())
            });
            let kernels = kernels.unwrap();
            for name in names {
                assert!(kernels.iter().any(|kernel| kernel.name.contains(name)), "no {name} in {kernels:?}");
            }
            for ((name, own), (_, other)) in own.iter().zip(pass(&turn, width, precision, &images, false)) {
                let (own, other) = (own.to_kind(Kind::Double), other.to_kind(Kind::Double));
                let distance = ((&own - &other).norm() / other.norm()).double_value(&[]);
                assert!(
                    distance <= tolerance,
                    "{precision:?}, width {width}, {name}: a relative distance of {distance:e}"
                );
            }
        }
    }
}
