//! Fine-tuning: layer-wise learning rates, averaged weights, a classifier with timm's names.
#![allow(clippy::unwrap_used)] // a test may panic, helpers included

mod common;

use common::{assert_close, golden_shape};
use patchmix::Error;
use patchmix::finetune::{Classifier, layer_rate};
use patchmix::optim::{AdamW, average_weights, schedule};
use patchmix::vit::Vit;
use tch::nn::{Init, VarStore};
use tch::{Device, Kind, Tensor};

/// Two matrices and a vector, each with a gradient.
fn three_variables() -> VarStore {
    let store = VarStore::new(Device::Cpu);
    for (name, size) in [("low", vec![2, 3]), ("high", vec![3, 3]), ("vector", vec![3])] {
        let _ = store.root().var(name, &size, Init::Const(2.0));
    }
    store
}

fn backward(store: &VarStore, factor: f64) {
    let loss: Tensor = store.variables().values().map(|variable| (variable * factor).square().sum(Kind::Float)).sum();
    loss.backward();
}

/// A variable with its own rate moves as in an optimizer that uses this rate for all variables.
#[test]
fn a_variables_rate_scales_its_learning_rate() {
    let rate_of = |name: &str| match name {
        "low" => 0.25,
        "vector" => 0.0,
        _ => 1.0,
    };
    let grouped = three_variables();
    let mut optimizer = AdamW::with_rates(&grouped, rate_of).unwrap();
    let singles = [0.25, 1.0, 0.0].map(|rate| (rate, three_variables()));
    let mut plain = singles.each_ref().map(|(_, store)| AdamW::new(store).unwrap());
    for step in 0..4 {
        optimizer.zero_grad().unwrap();
        backward(&grouped, 1.0 + f64::from(step));
        optimizer.step(0.1, 0.3).unwrap();
        for ((rate, store), optimizer) in singles.iter().zip(&mut plain) {
            optimizer.zero_grad().unwrap();
            backward(store, 1.0 + f64::from(step));
            optimizer.step(0.1 * rate, 0.3).unwrap();
        }
    }
    for (name, variable) in grouped.variables() {
        let (_, single) = singles.iter().find(|(rate, _)| *rate == rate_of(&name)).unwrap();
        assert_close(&name, &variable, &single.variables()[&name], 1e-6);
    }
    let refused = AdamW::with_rates(&grouped, |_| -1.0);
    assert!(matches!(refused, Err(Error::Value { name: "rate", actual: -1.0, .. })));
}

#[test]
fn averaged_weights_follow_their_definition() {
    let (model, mut average) = (three_variables(), three_variables());
    average.freeze();
    let set = |value: f64| {
        tch::no_grad(|| model.variables().values().for_each(|weight| drop(weight.shallow_clone().fill_(value))))
    };
    let mut expected = 2.0;
    for (step, value) in [5.0, -1.0, 3.0].into_iter().enumerate() {
        set(value);
        let decay = schedule::average_decay(step as u64, 0.9);
        average_weights(&average, &model, decay).unwrap();
        expected = decay * expected + (1.0 - decay) * value;
    }
    for (name, variable) in average.variables() {
        assert_close(&name, &variable, &Tensor::full_like(&variable, expected), 1e-6);
    }
    for decay in [-0.1, 1.1, f64::NAN] {
        assert!(matches!(average_weights(&average, &model, decay), Err(Error::Value { name: "decay", .. })));
    }
    let other = VarStore::new(Device::Cpu);
    assert!(matches!(average_weights(&average, &other, 0.5), Err(Error::Torch(_))));
}

#[test]
fn the_decay_of_the_average_rises_to_its_maximum() {
    let decays: Vec<f64> = [0, 10, 90, 1_000_000].map(|steps| schedule::average_decay(steps, 0.999)).to_vec();
    assert_eq!(decays, [0.1, 0.55, 0.91, 0.999]);
}

/// Head and last norm have the full rate, every block below the rate of the next times the decay, embeddings the
/// lowest.
#[test]
fn every_layer_has_its_rate() {
    let store = VarStore::new(Device::Cpu);
    let (config, _) = golden_shape(); // 2 blocks
    let encoder = Vit::new(&store.root(), &config).unwrap();
    let classifier = Classifier::new(&store.root(), encoder, 5).unwrap();
    for name in store.variables().keys() {
        let expected = match name.split('.').collect::<Vec<_>>()[..] {
            ["head" | "norm", _] => 1.0,
            ["blocks", "1", ..] => 0.75,
            ["blocks", "0", ..] => 0.75 * 0.75,
            ["cls_token" | "pos_embed"] | ["patch_embed", ..] => 0.75 * 0.75 * 0.75,
            _ => panic!("{name} is not a variable of timm's classifier"),
        };
        assert_eq!(layer_rate(name, config.depth, 0.75), expected, "{name}");
        assert_eq!(layer_rate(name, config.depth, 1.0), 1.0);
    }
    let images = Tensor::rand([3, 3, 16, 16], (Kind::Float, Device::Cpu));
    let (weight, bias) = (&store.variables()["head.weight"], &store.variables()["head.bias"]);
    let plain = classifier.encoder.forward(&images, false).unwrap().linear(weight, Some(bias));
    assert_close("logits", &classifier.forward(&images, false).unwrap(), &plain, 1e-7);
    assert!(plain.abs().max().double_value(&[]) < 0.01, "a new head predicts nothing");
}

/// libtorch's cross-entropy takes soft targets as distributions over the classes.
#[test]
fn libtorchs_cross_entropy_takes_soft_targets() {
    let logits = Tensor::randn([4, 6], (Kind::Double, Device::Cpu));
    let targets = Tensor::rand([4, 6], (Kind::Double, Device::Cpu)).softmax(-1, Kind::Double);
    let loss = logits.cross_entropy_loss(&targets, None::<Tensor>, tch::Reduction::Mean, -100, 0.0);
    let formula = -(targets * logits.log_softmax(-1, Kind::Double)).sum(Kind::Double) / 4.0;
    assert_close("loss", &loss, &formula, 1e-12);
}
