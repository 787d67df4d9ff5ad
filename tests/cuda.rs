//! The same numbers on a GPU as on the CPU. Without one, these tests say that they skip.
#![allow(clippy::unwrap_used)] // a test may panic, helpers included

mod common;

use common::{assert_close, golden_shape};
use patchmix::augment::ViewRecipe;
use patchmix::contrast::{LossConfig, Model, MomentumNetwork, Networks, View, losses};
use patchmix::data::procedural;
use patchmix::optim::AdamW;
use patchmix::{Error, MixPlan, loss, patch_mix};
use tch::nn::VarStore;
use tch::{Device, Kind, Tensor};

const CPU: Device = Device::Cpu;

/// The first GPU, or a word that there is none.
fn gpu() -> Option<Device> {
    let gpu = tch::Cuda::is_available().then_some(Device::Cuda(0));
    if gpu.is_none() {
        println!("skipped: no CUDA device");
    }
    gpu
}

#[test]
fn mixes_targets_and_losses_are_those_of_the_cpu() {
    let Some(gpu) = gpu() else { return };
    let plan = MixPlan::random(64, 4, 1).unwrap();
    let images = Tensor::rand([16, 3, 16, 16], (Kind::Float, CPU));
    assert_eq!(plan.mix_images(&images.to(gpu), 2).unwrap().to(CPU), plan.mix_images(&images, 2).unwrap());
    let on = |device| plan.targets(16, Kind::Float, device).and_then(|targets| targets.smoothed(0.1)).unwrap();
    assert_close("A", &on(gpu).mix_to_origin().unwrap().to(CPU), &on(CPU).mix_to_origin().unwrap(), 1e-7);
    assert_close("W", &on(gpu).mix_to_mix().unwrap().to(CPU), &on(CPU).mix_to_mix().unwrap(), 1e-7);
    let (_, mix_to_origin, _) = patch_mix(&images.flatten(2, 3).to(gpu), 2, 1).unwrap();
    assert_eq!(mix_to_origin.device(), gpu);

    let random = || Tensor::randn([16, 32], (Kind::Float, CPU));
    let (q, k) = (random(), random());
    let value_and_gradient = |device| {
        let q = q.to(device).detach().set_requires_grad(true);
        let loss = loss::mix_to_mix(&q, &k.to(device), &on(device), 0.2).unwrap();
        let gradient = Tensor::run_backward(&[&loss], &[&q], false, false).remove(0);
        (loss.to(CPU), gradient.to(CPU))
    };
    let ((gpu_loss, gpu_gradient), (cpu_loss, cpu_gradient)) = (value_and_gradient(gpu), value_and_gradient(CPU));
    assert_close("loss", &gpu_loss, &cpu_loss, 1e-5);
    assert_close("gradient", &gpu_gradient, &cpu_gradient, 1e-5);
    assert!(matches!(loss::origin_to_origin(&q.to(gpu), &k, 0.2), Err(Error::Device { .. })));
}

#[test]
fn views_are_those_of_the_cpu() {
    let Some(gpu) = gpu() else { return };
    let images = procedural(32, 32, 1).unwrap().images;
    let recipe = ViewRecipe::second(32, 0.1);
    let parameters = recipe.draw(32, 32, 32).unwrap();
    let on = |device| recipe.apply(&images.to(device), &parameters).unwrap().to(CPU);
    assert_close("views", &on(gpu), &on(CPU), 1e-3);
}

#[test]
fn three_training_steps_are_those_of_the_cpu() {
    let Some(gpu) = gpu() else { return };
    let (vit, head) = golden_shape();
    let start = VarStore::new(CPU);
    let _model = Model::new(&start.root(), &vit, &head).unwrap();
    let plan = MixPlan::random(16, 2, 1).unwrap();
    let views = [Tensor::randn([8, 3, 16, 16], (Kind::Float, CPU)), Tensor::randn([8, 3, 16, 16], (Kind::Float, CPU))];
    let config = LossConfig::default();
    let train = |device| {
        let mut store = VarStore::new(device);
        let model = Model::new(&store.root(), &vit, &head).unwrap();
        store.copy(&start).unwrap();
        let mut momentum = MomentumNetwork::new(&store, &vit, &head, device).unwrap();
        let mut optimizer = AdamW::new(&store).unwrap();
        let views = views.each_ref().map(|view| view.to(device));
        let step = |_| {
            momentum.update(&store, 0.9).unwrap();
            let networks = Networks { model: &model, momentum: Some(&momentum), ranks: None };
            let global = views.each_ref().map(|images| View { images, plan: &plan });
            let losses = losses(&networks, global, &[], &config).unwrap();
            optimizer.zero_grad().unwrap();
            losses.backward().unwrap();
            optimizer.step(1e-3, 0.1).unwrap();
            losses.total().unwrap().double_value(&[])
        };
        (0..3).map(step).collect::<Vec<_>>()
    };
    for (step, (gpu, cpu)) in train(gpu).into_iter().zip(train(CPU)).enumerate() {
        assert!((gpu - cpu).abs() < 1e-3, "step {step}: {gpu} on the GPU, {cpu} on the CPU");
    }
}
