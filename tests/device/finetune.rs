//! Fine-tuning on the device: a classifier on mixed images, layer-wise learning rates, averaged weights.

use std::collections::BTreeMap;

use approx::assert_abs_diff_eq;
use patchmix::augment::{MixupCutMix, mix_pairs, pair_targets};
use patchmix::finetune::{Classifier, update_rule};
use patchmix::optim::{AdamW, average_weights};
use patchmix::vit::Vit;
use tch::nn::VarStore;
use tch::{Device, Kind, Reduction, Tensor};

use crate::common::golden_shape;
use crate::turn::{Turn, assert_near};

const CLASSES: i64 = 5;

/// The losses of three steps, the gradients of the first, and the averaged weights.
struct Trained {
    losses: Vec<f64>,
    gradients: BTreeMap<String, Tensor>,
    average: BTreeMap<String, Tensor>,
}

fn classifier(device: Device, kind: Kind) -> (VarStore, Classifier) {
    let mut store = VarStore::new(device);
    let (config, _) = golden_shape();
    let encoder = Vit::new(&store.root(), &config).unwrap();
    let classifier = Classifier::new(&store.root(), encoder, CLASSES).unwrap();
    store.set_kind(kind);
    (store, classifier)
}

/// Three steps on the same images, starting from the weights of `start`.
fn train(start: &VarStore, images: &Tensor, targets: &Tensor) -> Trained {
    let (device, kind) = (images.device(), images.kind());
    let ((mut store, classifier), (mut average, _unused)) = (classifier(device, kind), classifier(device, kind));
    store.copy(start).unwrap();
    average.copy(start).unwrap();
    let depth = classifier.encoder.config().depth;
    let mut optimizer = AdamW::with_rules(&store, |name, weight| update_rule(name, weight, depth, 0.75)).unwrap();
    let (mut losses, mut gradients) = (Vec::new(), BTreeMap::new());
    for _ in 0..3 {
        let logits = classifier.forward(images, true).unwrap();
        let loss = logits.cross_entropy_loss(targets, None::<Tensor>, Reduction::Mean, -100, 0.0);
        optimizer.zero_grad().unwrap();
        loss.backward();
        if losses.is_empty() {
            let all = store.variables().into_iter();
            gradients = all.map(|(name, weight)| (name, weight.grad().copy())).collect();
        }
        optimizer.step(1e-3, 0.05).unwrap();
        average_weights(&average, &store, 0.5).unwrap();
        assert_eq!(loss.device(), device);
        losses.push(loss.double_value(&[]));
    }
    Trained { losses, gradients, average: average.variables().into_iter().collect() }
}

#[test]
fn three_steps_agree_with_the_cpu_in_double_precision() {
    let turn = Turn::take();
    let (start, _) = classifier(Device::Cpu, Kind::Double);
    let images = Tensor::randn([12, 3, 16, 16], (Kind::Float, Device::Cpu));
    let labels = Tensor::randint(CLASSES, [12], (Kind::Int64, Device::Cpu));
    let mixes = MixupCutMix::default().draw(12, 16, 16).unwrap();
    let mixed = |device| {
        let targets = pair_targets(&labels.to(device), &mixes, (16, 16), CLASSES, 0.1).unwrap();
        (mix_pairs(&images.to(device), &mixes).unwrap(), targets)
    };
    let (images, targets) = mixed(Device::Cpu);
    let expected = train(&start, &images.to_kind(Kind::Double), &targets.to_kind(Kind::Double));
    assert!(expected.losses[2] < expected.losses[0], "the loss must fall: {:?}", expected.losses);
    let (images, targets) = mixed(turn.device);
    for (kind, tolerance) in [(Kind::Double, 1e-6), (Kind::Float, 1e-5)] {
        let trained = train(&start, &images.to_kind(kind), &targets.to_kind(kind));
        for (loss, expected) in trained.losses.iter().zip(&expected.losses) {
            assert_abs_diff_eq!(loss, expected, epsilon = tolerance);
        }
        for (name, gradient) in &trained.gradients {
            assert_near(&format!("{name} {kind:?}"), gradient, &expected.gradients[name], tolerance);
        }
        if kind == Kind::Double {
            // In single precision, AdamW turns noise in gradients that should be zero into full-size steps.
            for (name, average) in &trained.average {
                assert_near(name, average, &expected.average[name], tolerance);
            }
        }
    }
}
