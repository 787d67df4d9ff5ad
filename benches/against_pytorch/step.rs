//! A training step on two given views: mix, four forward passes, three losses, backward pass, AdamW.

use std::time::Duration;

use patchmix::MixPlan;
use patchmix::contrast::{self, HeadConfig, LossConfig, Model, Networks, View};
use patchmix::optim::AdamW;
use patchmix::vit::{Precision, VitConfig};
use tch::nn::VarStore;
use tch::{Kind, Tensor};

use crate::peer::Peer;
use crate::{as_on_gpu, device, heading, medians, milliseconds, row, step_on_gpu, timed, times};

pub(crate) fn run(peer: &mut Peer) {
    if as_on_gpu() {
        return step_on_gpu::run(peer);
    }
    heading(
        "A step on 32 pixels, ViT-T with the published heads",
        &["patch", "batch", "precision", "PyTorch", "patchmix", "PyTorch / patchmix", "float32 / this"],
    );
    for (patch, batch) in [(4, 64), (2, 16)] {
        let mut single = f64::NAN;
        for (precision, way) in [(Precision::Full, "plain"), (Precision::Full, "fused"), (Precision::BFloat16, "bf16")]
        {
            let config = VitConfig { precision, ..VitConfig::tiny(32, patch) };
            let heads = HeadConfig { hidden: 4096, output: 256 };
            let mut step = Step::new(config, heads.clone(), batch);
            let case = format!("step 1 12 192 3 32 {patch} {batch} {} {} {way}", heads.hidden, heads.output);
            let [ours, pytorch] =
                medians(Duration::from_secs(25), [&mut || timed(|| step.run()), &mut || peer.seconds(&case)]);
            peer.seconds("forget");
            if precision == Precision::Full {
                single = ours;
            }
            let name = match way {
                "bf16" => "bfloat16".to_owned(),
                _ => format!("float32, peer's attention {way}"),
            };
            row(&[
                patch.to_string(),
                batch.to_string(),
                name,
                milliseconds(pytorch),
                milliseconds(ours),
                times(pytorch / ours),
                times(single / ours),
            ]);
        }
    }
}

/// A model, its optimizer and its input.
pub(crate) struct Step {
    _store: VarStore,
    config: VitConfig,
    model: Model,
    optimizer: AdamW,
    views: [Tensor; 2],
}

impl Step {
    pub(crate) fn new(config: VitConfig, heads: HeadConfig, batch: i64) -> Step {
        let store = VarStore::new(device());
        let model = Model::new(&store.root(), &config, &heads).unwrap();
        let side = config.image_size;
        let views = [0, 1].map(|_| Tensor::rand([batch, 3, side, side], (Kind::Float, device())));
        Step { optimizer: AdamW::new(&store).unwrap(), _store: store, config, model, views }
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
