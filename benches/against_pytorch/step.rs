//! A training step on two given views: mix, four forward passes, three losses, backward pass, AdamW.

use patchmix::MixPlan;
use patchmix::contrast::{self, LossConfig, Model, Networks, View};
use patchmix::optim::AdamW;
use patchmix::vit::VitConfig;
use tch::nn::VarStore;
use tch::{Kind, Tensor};

use crate::device;
use crate::shape::Shape;

/// A model, its optimizer and its input.
pub(crate) struct Step {
    _store: VarStore,
    config: VitConfig,
    model: Model,
    optimizer: AdamW,
    views: [Tensor; 2],
}

impl Step {
    pub(crate) fn new(shape: &Shape) -> Step {
        let store = VarStore::new(device());
        let model = Model::new(&store.root(), &shape.encoder, &shape.heads).unwrap();
        let side = shape.encoder.image_size;
        let views = [0, 1].map(|_| Tensor::rand([shape.batch, 3, side, side], (Kind::Float, device())));
        Step { optimizer: AdamW::new(&store).unwrap(), _store: store, config: shape.encoder.clone(), model, views }
    }

    pub(crate) fn run(&mut self) {
        self.run_mixed(2);
    }

    /// [`Step::run`] on other views.
    pub(crate) fn run_on(&mut self, views: [Tensor; 2]) {
        self.views = views;
        self.run();
    }

    pub(crate) fn run_mixed(&mut self, groups: i64) {
        let plans = [0, 1].map(|_| MixPlan::random(self.config.patches(), groups, 1).unwrap());
        let networks = Networks { model: &self.model, momentum: None, ranks: None };
        let global = [0, 1].map(|view| View { images: &self.views[view], plan: &plans[view] });
        let losses = contrast::losses(&networks, global, &[], &LossConfig::default()).unwrap();
        self.optimizer.zero_grad().unwrap();
        losses.backward().unwrap();
        self.optimizer.step(1e-4, 0.02).unwrap();
    }
}
