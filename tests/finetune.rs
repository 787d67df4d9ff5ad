//! Fine-tuning: layer-wise learning rates, averaged weights, a classifier with timm's names.
#![allow(clippy::unwrap_used)] // a test may panic, helpers included

mod common;

use approx::assert_abs_diff_eq;
use common::{Golden, assert_close, golden_shape};
use patchmix::Error;
use patchmix::finetune::{Classifier, update_rule};
use patchmix::optim::{AdamW, UpdateRule, average_weights, schedule};
use patchmix::vit::{Vit, VitConfig};
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

/// A variable with its own rate moves as in an optimizer that uses this rate for all variables, and one without weight
/// decay as in an optimizer without.
#[test]
fn a_variables_rule_decides_its_rates() {
    let rule_of = |name: &str| match name {
        "low" => UpdateRule { rate: 0.25, decays: true },
        "vector" => UpdateRule { rate: 0.0, decays: false },
        _ => UpdateRule { rate: 1.0, decays: false },
    };
    let grouped = three_variables();
    let mut optimizer = AdamW::with_rules(&grouped, |name, _| rule_of(name)).unwrap();
    let singles = ["low", "high", "vector"].map(|name| (name, three_variables()));
    let mut plain = singles.each_ref().map(|(_, store)| AdamW::new(store).unwrap());
    for step in 0..4 {
        optimizer.zero_grad().unwrap();
        backward(&grouped, 1.0 + f64::from(step));
        optimizer.step(0.1, 0.3).unwrap();
        for ((name, store), optimizer) in singles.iter().zip(&mut plain) {
            let UpdateRule { rate, decays } = rule_of(name);
            optimizer.zero_grad().unwrap();
            backward(store, 1.0 + f64::from(step));
            optimizer.step(0.1 * rate, if decays { 0.3 } else { 0.0 }).unwrap();
        }
    }
    for (name, single) in singles {
        assert_close(name, &grouped.variables()[name], &single.variables()[name], 1e-6);
    }
    let refused = AdamW::with_rules(&grouped, |_, _| UpdateRule { rate: -1.0, decays: true });
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

/// As of an embedding that is the output layer, too.
#[test]
fn a_weight_with_two_names_is_averaged_once() {
    let [model, average] = [5.0, 1.0].map(|value| {
        let store = VarStore::new(Device::Cpu);
        let weight = store.root().var("weight", &[2], Init::Const(value));
        let mut variables = store.variables_.lock().unwrap();
        variables.named_variables.insert("tied".to_owned(), weight);
        drop(variables);
        store
    });
    average_weights(&average, &model, 0.5).unwrap();
    for (name, variable) in average.variables() {
        assert_close(&name, &variable, &Tensor::full_like(&variable, 3.0), 1e-6);
    }
}

#[test]
fn the_decay_of_the_average_rises_to_its_maximum() {
    let decays: Vec<f64> = [0, 10, 90, 1_000_000].map(|steps| schedule::average_decay(steps, 0.999)).to_vec();
    assert_eq!(decays, [0.1, 0.55, 0.91, 0.999]);
}

/// The published groups of parameters: `rate = 0.75^n` with `n` layers above, where the last norm counts as part of the
/// last block; no weight decay for 1-d parameters, class token and positions.
#[test]
fn every_parameter_has_its_published_rates() {
    let golden = Golden::read("protocol/finetune_rates.safetensors");
    let names: Vec<&str> = golden.keys().filter_map(|key| key.strip_prefix("group/")).collect();
    let block_of = |name: &str| name.strip_prefix("blocks.")?.split('.').next()?.parse::<i64>().ok();
    let depth = 1 + names.iter().filter_map(|name| block_of(name)).max().unwrap();
    let config = VitConfig { image_size: 4, patch_size: 2, width: 4, depth, heads: 1, ..golden_shape().0 };
    let store = VarStore::new(Device::Cpu);
    Classifier::new(&store.root(), Vit::new(&store.root(), &config).unwrap(), 5).unwrap();
    let variables = store.variables();
    assert_eq!(variables.len(), names.len(), "as many as timm's classifier has");
    let weight_decay = names.iter().map(|name| golden.numbers(&format!("group/{name}"))[1]).fold(0.0, f64::max);
    for name in names {
        let [rate, decay] = golden.numbers(&format!("group/{name}"))[..] else { panic!("{name}") };
        let rule = update_rule(name, &variables[name], depth, 0.75);
        assert_abs_diff_eq!(rule.rate, rate, epsilon = 1e-12);
        assert_eq!(if rule.decays { weight_decay } else { 0.0 }, decay, "{name}");
        assert_eq!(update_rule(name, &variables[name], depth, 1.0).rate, 1.0);
    }
}

/// `rate = 1e-6 + (base - 1e-6) t / 10` in the first 10 epochs, then `1e-5 + (base - 1e-5) / 2 (1 + cos(π t / E))`. The
/// published loop trains epoch `e` with the rate of epoch `e - 1`; the crate does not.
#[test]
fn the_rate_of_fine_tuning_follows_the_published_schedule() {
    let golden = Golden::read("protocol/finetune_rates.safetensors");
    let schedules = golden.keys().filter_map(|key| Some((key, key.strip_prefix("schedule_")?.parse().ok()?)));
    let schedules: Vec<(&str, f64)> = schedules.collect();
    assert!(!schedules.is_empty());
    for (key, base) in schedules {
        let rates = golden.numbers(key);
        for (epoch, rate) in rates.iter().enumerate() {
            let ours = schedule::warmup_over_cosine(epoch as u64, rates.len() as u64, 10, base, 1e-6, 1e-5);
            assert_abs_diff_eq!(ours, *rate, epsilon = 1e-12);
        }
        let late = golden.numbers(&key.replace("schedule", "lr_of_epoch"));
        assert_eq!(late[1..], rates[..rates.len() - 1]);
    }
}

/// PyTorch's default for linear layers: weights and biases uniform in ±1/√width.
#[test]
fn a_new_head_has_pytorchs_initial_weights() {
    tch::manual_seed(1);
    let store = VarStore::new(Device::Cpu);
    let encoder = Vit::new(&store.root(), &golden_shape().0).unwrap();
    let classifier = Classifier::new(&store.root(), encoder, 400).unwrap();
    let images = Tensor::rand([3, 3, 16, 16], (Kind::Float, Device::Cpu));
    let (weight, bias) = (&store.variables()["head.weight"], &store.variables()["head.bias"]);
    let plain = classifier.encoder.forward(&images, false).unwrap().linear(weight, Some(bias));
    assert_close("logits", &classifier.forward(&images, false).unwrap(), &plain, 1e-7);
    let bound = 1.0 / f64::from(48_i32).sqrt();
    for parameter in [weight, bias] {
        let largest = parameter.abs().max().double_value(&[]);
        assert!((0.95 * bound..=bound).contains(&largest), "{largest} of {bound}");
        assert_abs_diff_eq!(parameter.std(true).double_value(&[]), bound / 3.0_f64.sqrt(), epsilon = 0.09 * bound);
    }
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
