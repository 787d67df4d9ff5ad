//! AdamW and the schedules with arbitrary arguments.

use std::collections::HashMap;

use patchmix::Error;
use patchmix::optim::AdamW;
use patchmix::optim::schedule::{cosine, momentum, temperature, warmup_cosine};
use proptest::prelude::*;
use tch::nn::{Init, VarStore};
use tch::{Kind, Tensor};

use crate::any::*;
use crate::typed;

fn store() -> VarStore {
    let store = VarStore::new(CPU);
    let _ = store.root().var("matrix", &[2, 3], Init::Const(1.0));
    let _ = store.root().var("vector", &[3], Init::Const(1.0));
    store
}

/// A state tensor of the weight `matrix`, mostly of the right shape.
fn states() -> impl Strategy<Value = AnyTensor> {
    prop_oneof![4 => tensor_of(Just(vec![2, 3])), 1 => tensors()]
}

proptest! {
    #[test]
    fn schedules_take_any_numbers(
        (step, steps, warmup) in (unsigned(), unsigned(), unsigned()),
        (first, last) in (floats(), floats()),
    ) {
        for (name, value) in [
            ("warmup_cosine", typed("warmup_cosine", || warmup_cosine(step, steps, warmup, first, last))),
            ("cosine", typed("cosine", || cosine(step, steps, first, last))),
            ("momentum", typed("momentum", || momentum(step, steps, first))),
            ("temperature", typed("temperature", || temperature(step, warmup, first, last))),
        ] {
            let last = if name == "momentum" { 1.0 } else { last };
            let (low, high) = (first.min(last).min(0.0), first.max(last).max(0.0));
            if first.abs() <= 1e40 && last.abs() <= 1e40 {
                let slack = 1e-9 * (high - low);
                prop_assert!((low - slack..=high + slack).contains(&value), "{}: {}", name, value);
            }
        }
    }

    #[test]
    fn adamw_takes_any_rates_gradients_and_states(
        (rate, decay) in (floats(), floats()),
        steps in unsigned(),
        state in prop::array::uniform2(states()),
        gradient in prop_oneof![Just(1.0), floats()],
        max_norm in floats(),
    ) {
        let store = store();
        let mut optimizer = typed("new", || AdamW::new(&store)).unwrap();
        let mut saved: HashMap<String, Tensor> = optimizer.state().into_iter().collect();
        saved.insert("matrix.mean".into(), state[0].make());
        saved.insert("matrix.mean_square".into(), state[1].make());
        let before = optimizer.steps();
        let loaded = typed("load_state", || optimizer.load_state(&saved, steps));
        prop_assert_eq!(optimizer.steps(), if loaded.is_ok() { steps } else { before });
        typed("zero_grad", || optimizer.zero_grad()).unwrap();
        (store.root().get("matrix").unwrap().sum(Kind::Float) * gradient).backward();
        let norm = typed("gradient_norm", || optimizer.gradient_norm()).unwrap();
        prop_assert_eq!(norm.double_value(&[]).is_finite(), ((gradient as f32) * 6_f32.sqrt()).is_finite());
        let clipped = typed("clip_gradients", || optimizer.clip_gradients(max_norm));
        prop_assert_eq!(clipped.is_ok(), max_norm > 0.0 && max_norm.is_finite());
        let stepped = typed("step", || optimizer.step(rate, decay));
        prop_assert_eq!(stepped.is_ok(), rate.is_finite() && decay.is_finite());
    }
}

#[test]
fn the_largest_epoch_and_step_do_not_overflow() {
    assert_eq!(temperature(u64::MAX, 10, 0.1, 0.2), 0.2);
    assert_eq!(temperature(u64::MAX - 1, u64::MAX, 0.1, 0.2), 0.2);
    let store = store();
    let mut optimizer = AdamW::new(&store).unwrap();
    let state = optimizer.state().into_iter().collect();
    optimizer.load_state(&state, u64::MAX).unwrap();
    optimizer.step(0.1, 0.1).unwrap();
    assert_eq!(optimizer.steps(), u64::MAX);
}

#[test]
fn rates_and_states_that_would_spoil_the_weights_are_refused() {
    let store = store();
    let mut optimizer = AdamW::new(&store).unwrap();
    for (rate, decay, wrong) in [(f64::NAN, 0.1, "learning_rate"), (0.1, f64::INFINITY, "weight_decay")] {
        assert!(matches!(optimizer.step(rate, decay), Err(Error::Value { name, .. }) if name == wrong));
    }
    assert_eq!(optimizer.steps(), 0);
    let mut state: HashMap<String, Tensor> = optimizer.state().into_iter().collect();
    state.insert("vector.mean".into(), Tensor::new());
    assert!(matches!(optimizer.load_state(&state, 1), Err(Error::Undefined { name: "optimizer state" })));
    state.insert("vector.mean".into(), Tensor::zeros([3], (Kind::ComplexFloat, CPU)));
    let error = optimizer.load_state(&state, 1).unwrap_err();
    assert!(matches!(error, Error::Kind { name: "optimizer state", actual: Kind::ComplexFloat, .. }));
}

/// The state still has the old kind.
#[test]
fn weights_of_a_changed_kind_are_refused() {
    let mut store = store();
    let mut optimizer = AdamW::new(&store).unwrap();
    store.set_kind(Kind::Double);
    let error = optimizer.step(0.1, 0.1).unwrap_err();
    assert!(matches!(error, Error::Kind { name: "weights", actual: Kind::Double, .. }));
    assert_eq!(optimizer.steps(), 0);
}

/// The fused kernel would read out of bounds.
#[test]
fn a_gradient_of_a_changed_shape_is_refused() {
    let store = store();
    let mut optimizer = AdamW::new(&store).unwrap();
    let matrix = store.root().get("matrix").unwrap();
    let before = matrix.detach().copy();
    matrix.sum(Kind::Float).backward();
    let _ = matrix.grad().resize_([1]);
    let error = optimizer.step(0.1, 0.1).unwrap_err();
    assert!(matches!(error, Error::Shape { name: "gradient", .. }), "{error}");
    assert!(matches!(optimizer.gradient_norm(), Err(Error::Shape { name: "gradient", .. })));
    assert_eq!((optimizer.steps(), matrix.detach()), (0, before));
}

#[test]
fn averaging_frozen_weights_changes_nothing() {
    let (mut frozen, average) = (store(), store());
    frozen.freeze();
    let before: Vec<Tensor> = average.trainable_variables().iter().map(|weight| weight.detach().copy()).collect();
    patchmix::optim::average_weights(&average, &frozen, 0.5).unwrap();
    let after: Vec<Tensor> = average.trainable_variables().iter().map(Tensor::detach).collect();
    assert_eq!(before, after);
}
