//! A run that is saved on the device and resumed from the file.

use approx::assert_abs_diff_eq;
use patchmix::MixPlan;
use patchmix::checkpoint::Checkpoint;
use patchmix::contrast::{LossConfig, Model, MomentumNetwork, Networks, View, losses};
use patchmix::optim::AdamW;
use tch::nn::VarStore;
use tch::{Kind, Tensor};

use crate::common::golden_shape;
use crate::turn::{Turn, assert_near};

/// The parts of a run.
struct Run {
    store: VarStore,
    model: Model,
    momentum: MomentumNetwork,
    optimizer: AdamW,
}

impl Run {
    fn new(turn: &Turn, kind: Kind) -> Run {
        let (vit, heads) = golden_shape();
        let mut store = VarStore::new(turn.device);
        let model = Model::new(&store.root(), &vit, &heads).unwrap();
        store.set_kind(kind);
        let momentum = MomentumNetwork::new(&store, &vit, &heads, turn.device).unwrap();
        let optimizer = AdamW::new(&store).unwrap();
        Run { store, model, momentum, optimizer }
    }

    fn step(&mut self, views: &[Tensor; 2], plan: &MixPlan) -> f64 {
        self.momentum.update(&self.store, 0.9).unwrap();
        let networks = Networks { model: &self.model, momentum: Some(&self.momentum), ranks: None };
        let global = views.each_ref().map(|images| View { images, plan });
        let losses = losses(&networks, global, &[], &LossConfig::default()).unwrap();
        self.optimizer.zero_grad().unwrap();
        losses.backward().unwrap();
        self.optimizer.step(1e-2, 0.1).unwrap();
        losses.total().unwrap().double_value(&[])
    }

    /// Everything that a checkpoint must hold, by part and name.
    fn parts(&self) -> [(&'static str, Vec<(String, Tensor)>); 3] {
        [
            ("model", self.store.variables().into_iter().collect()),
            ("momentum", self.momentum.store().variables().into_iter().collect()),
            ("optimizer", self.optimizer.state()),
        ]
    }
}

#[test]
fn a_resumed_run_makes_the_same_steps() {
    let turn = Turn::take();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("run.safetensors");
    let plan = MixPlan::random(16, 2, 1).unwrap();
    // On a GPU, sums are not deterministic. In single precision that leaves noise in gradients that should be zero, and
    // AdamW turns the noise into full-size steps. In double precision it is far below ε.
    for (kind, on_gpu) in [(Kind::Double, 1e-6), (Kind::Float, f64::INFINITY)] {
        let views = [(); 2].map(|()| turn.randn(&[8, 3, 16, 16], kind));
        let mut run = Run::new(&turn, kind);
        let start = run.step(&views, &plan);
        assert_ne!(run.step(&views, &plan), start, "the weights must change");
        let mut checkpoint = Checkpoint::default();
        run.parts().into_iter().for_each(|(part, tensors)| checkpoint.insert_all(part, tensors));
        checkpoint.save(&path).unwrap();

        let mut resumed = Run::new(&turn, kind);
        let loaded = Checkpoint::load(&path).unwrap();
        loaded.restore("model", resumed.store.variables(), &path).unwrap();
        loaded.restore("momentum", resumed.momentum.store().variables(), &path).unwrap();
        resumed.optimizer.load_state(&loaded.part("optimizer"), run.optimizer.steps()).unwrap();
        compare(&run, &resumed, 0.0);

        let (next, resumed_next) = (run.step(&views, &plan), resumed.step(&views, &plan));
        let tolerance = if turn.device.is_cuda() { on_gpu } else { 0.0 };
        assert_abs_diff_eq!(next, resumed_next, epsilon = tolerance.min(1e-5));
        compare(&run, &resumed, tolerance);
    }
}

fn compare(run: &Run, resumed: &Run, tolerance: f64) {
    for ((part, tensors), (_, others)) in run.parts().into_iter().zip(resumed.parts()) {
        for ((name, tensor), (other_name, other)) in sorted(tensors).iter().zip(&sorted(others)) {
            assert_eq!(name, other_name);
            assert_near(&format!("{part} {name}"), other, tensor, tolerance);
        }
    }
}

fn sorted(mut tensors: Vec<(String, Tensor)>) -> Vec<(String, Tensor)> {
    tensors.sort_by(|(name, _), (other, _)| name.cmp(other));
    tensors
}
