//! AdamW and averaged weights on the device, against their formulas on the CPU in double precision.

use std::collections::BTreeMap;

use patchmix::optim::{AdamW, UpdateRule, average_weights};
use tch::nn::VarStore;
use tch::{Device, Kind, Tensor};

use crate::turn::{Turn, assert_near};

type Tensors = BTreeMap<String, Tensor>;

const SHAPES: [(&str, &[i64]); 5] =
    [("matrix", &[40, 30]), ("kernel", &[8, 3, 4, 4]), ("slow", &[7, 5]), ("bias", &[33]), ("unused", &[6, 6])];

fn rate_of(name: &str) -> f64 {
    if name == "slow" { 0.25 } else { 1.0 }
}

/// Variables of all shapes on the device, and their values on the CPU in double precision.
fn variables(turn: &Turn, kind: Kind) -> (VarStore, Tensors) {
    let mut store = VarStore::new(turn.device);
    for (name, shape) in SHAPES {
        let _ = store.root().zeros(name, shape);
    }
    store.set_kind(kind);
    // Values that are exact in `Float`.
    let values = random(SHAPES.iter().map(|(name, shape)| ((*name).to_owned(), shape.to_vec())));
    tch::no_grad(|| store.variables().iter().for_each(|(name, weight)| weight.shallow_clone().copy_(&values[name])));
    (store, values)
}

fn random(shapes: impl Iterator<Item = (String, Vec<i64>)>) -> Tensors {
    let single = |shape: Vec<i64>| Tensor::randn(shape, (Kind::Float, Device::Cpu)).to_kind(Kind::Double);
    shapes.map(|(name, shape)| (name, single(shape))).collect()
}

/// Gives every weight except `unused` a gradient, and returns the gradients in double precision.
fn set_gradients(turn: &Turn, optimizer: &mut AdamW, store: &VarStore) -> Tensors {
    optimizer.zero_grad().unwrap();
    let weights: Tensors = store.variables().into_iter().filter(|(name, _)| name != "unused").collect();
    let gradients = random(weights.iter().map(|(name, weight)| (name.clone(), weight.size())));
    for (name, weight) in &weights {
        (weight * turn.put(&gradients[name], weight.kind())).sum(weight.kind()).backward();
    }
    gradients
}

fn rule_of(name: &str, weight: &Tensor) -> UpdateRule {
    UpdateRule { rate: rate_of(name), ..UpdateRule::of(weight) }
}

/// `m = β₁ m + (1 - β₁) g`, `v = β₂ v + (1 - β₂) g²`, `w = w - η λ w - η m̂ / (√v̂ + ε)`, with a learning rate η that
/// changes every step and is scaled per variable. Only tensors with two or more dimensions decay.
#[test]
fn ten_steps_follow_the_formula() {
    let turn = Turn::take();
    for (kind, tolerance) in [(Kind::Double, 1e-12), (Kind::Float, 2e-6)] {
        let (store, mut expected) = variables(&turn, kind);
        let mut optimizer = AdamW::with_rules(&store, rule_of).unwrap();
        let zeros = || expected.iter().map(|(name, value)| (name.clone(), value.zeros_like())).collect::<Tensors>();
        let (mut means, mut squares) = (zeros(), zeros());
        for step in 1..=10 {
            let (learning_rate, decay) = (0.1 / f64::from(step), 0.3);
            for (name, gradient) in set_gradients(&turn, &mut optimizer, &store) {
                let (mean, square) = (means.get_mut(&name).unwrap(), squares.get_mut(&name).unwrap());
                *mean = &*mean * 0.9 + &gradient * 0.1;
                *square = &*square * 0.999 + gradient.square() * 0.001;
                let direction =
                    (&*mean / (1.0 - 0.9_f64.powi(step))) / ((&*square / (1.0 - 0.999_f64.powi(step))).sqrt() + 1e-8);
                let rate = learning_rate * rate_of(&name);
                let weight = expected.get_mut(&name).unwrap();
                let decay = if weight.dim() >= 2 { decay } else { 0.0 };
                *weight = &*weight * (1.0 - rate * decay) - direction * rate;
            }
            optimizer.step(learning_rate, decay).unwrap();
        }
        for (name, weight) in store.variables() {
            assert_eq!((weight.device(), weight.kind()), (turn.device, kind));
            assert_near(&format!("{name} {kind:?}"), &weight, &expected[&name], tolerance);
        }
        for (name, state) in optimizer.state() {
            let (name, part) = name.rsplit_once('.').unwrap();
            let expected = if part == "mean" { &means[name] } else { &squares[name] };
            assert_near(&format!("{name}.{part} {kind:?}"), &state, expected, tolerance);
        }
    }
}

/// A NaN or infinite gradient changes neither weights nor state, bit for bit, and the next healthy step works.
#[test]
fn an_unhealthy_step_changes_nothing() {
    let turn = Turn::take();
    for kind in [Kind::Double, Kind::Float] {
        let (store, _) = variables(&turn, kind);
        let mut optimizer = AdamW::new(&store).unwrap();
        set_gradients(&turn, &mut optimizer, &store);
        optimizer.step(0.1, 0.1).unwrap();
        let everything = |optimizer: &AdamW| {
            let all = store.variables().into_iter().chain(optimizer.state());
            all.map(|(name, tensor)| (name, tensor.detach().copy())).collect::<Tensors>()
        };
        let before = everything(&optimizer);
        let healthy = |loss: f64, optimizer: &AdamW| {
            let loss = turn.put(&Tensor::from(loss), Kind::Float);
            (loss + optimizer.gradient_norm().unwrap()).isfinite().to_kind(Kind::Float)
        };
        for (bad, loss) in [(f64::NAN, 1.0), (f64::INFINITY, 1.0), (1.0, f64::NAN)] {
            set_gradients(&turn, &mut optimizer, &store);
            let _ = store.variables()["bias"].grad().fill_(bad);
            let healthy = healthy(loss, &optimizer);
            let _ = optimizer.clip_gradients(1.0).unwrap();
            optimizer.step_if(&healthy, 0.1, 0.1).unwrap();
            assert_eq!(everything(&optimizer), before, "{bad} {loss}");
        }
        set_gradients(&turn, &mut optimizer, &store);
        optimizer.step_if(&healthy(1.0, &optimizer), 0.1, 0.1).unwrap();
        let after = everything(&optimizer);
        for (name, tensor) in before {
            assert_eq!(after[&name] == tensor, name.starts_with("unused"), "{name}");
        }
    }
}

/// Clipped steps are those with all gradients times `min(1, c / (‖g‖ + 1e-6))`; the norm is the one before.
#[test]
fn clipped_steps_follow_the_formula() {
    let turn = Turn::take();
    for (kind, tolerance) in [(Kind::Double, 1e-12), (Kind::Float, 2e-6)] {
        let ((clipped, _), (plain, _)) = (variables(&turn, kind), variables(&turn, kind));
        tch::no_grad(|| {
            clipped
                .variables()
                .iter()
                .for_each(|(name, weight)| weight.shallow_clone().copy_(&plain.variables()[name]));
        });
        let (mut ours, mut theirs) = (AdamW::new(&clipped).unwrap(), AdamW::new(&plain).unwrap());
        // Far below the norm, which is about 42, just around it, and far above.
        for max_norm in [1e-3, 1.0, 41.0, 43.0, 1e6] {
            let gradients = set_gradients(&turn, &mut ours, &clipped);
            let norm = norm_of(&gradients);
            assert_near("norm", &ours.clip_gradients(max_norm).unwrap(), &Tensor::from(norm), tolerance);
            let factor = (max_norm / (norm + 1e-6)).min(1.0);
            theirs.zero_grad().unwrap();
            for (name, weight) in plain.variables().iter().filter(|(name, _)| *name != "unused") {
                (weight * turn.put(&(&gradients[name] * factor), kind)).sum(kind).backward();
            }
            for (name, weight) in clipped.variables().iter().filter(|(name, _)| *name != "unused") {
                if norm < max_norm {
                    assert_near(name, &weight.grad(), &turn.put(&gradients[name], kind), 0.0);
                }
            }
            ours.step(0.1, 0.3).unwrap();
            theirs.step(0.1, 0.3).unwrap();
        }
        for (name, weight) in clipped.variables() {
            assert_near(&name, &weight, &plain.variables()[&name].detach().to_device(Device::Cpu), tolerance);
        }
    }
}

fn norm_of(gradients: &Tensors) -> f64 {
    gradients.values().map(|gradient| gradient.square().sum(Kind::Double).double_value(&[])).sum::<f64>().sqrt()
}

#[test]
fn the_norm_covers_all_gradients() {
    let turn = Turn::take();
    for (kind, tolerance) in [(Kind::Double, 1e-12), (Kind::Float, 1e-6)] {
        let (store, _) = variables(&turn, kind);
        let mut optimizer = AdamW::new(&store).unwrap();
        let gradients = set_gradients(&turn, &mut optimizer, &store);
        let norm = optimizer.gradient_norm().unwrap();
        assert_eq!(norm.device(), turn.device);
        assert_near("norm", &norm, &Tensor::from(norm_of(&gradients)), tolerance);
    }
}

/// `average = d average + (1 - d) weight` for weights on the device, averaged there and on the CPU.
#[test]
fn averages_follow_the_formula() {
    let turn = Turn::take();
    for (kind, tolerance) in [(Kind::Double, 1e-12), (Kind::Float, 1e-6)] {
        let (model, weights) = variables(&turn, kind);
        for device in [turn.device, Device::Cpu] {
            let mut average = VarStore::new(device);
            for (name, shape) in SHAPES {
                let _ = average.root().ones(name, shape);
            }
            average.set_kind(kind);
            average.freeze();
            for _ in 0..3 {
                average_weights(&average, &model, 0.9).unwrap();
            }
            let (old, new) = (0.9_f64.powi(3), 1.0 - 0.9_f64.powi(3));
            for (name, averaged) in average.variables() {
                assert_eq!((averaged.device(), averaged.kind()), (device, kind));
                assert_near(&name, &averaged, &(&weights[&name] * new + old), tolerance);
            }
        }
    }
}
