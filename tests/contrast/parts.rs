//! Batches that the encoder processes in micro-batches.

use approx::assert_relative_eq;
use patchmix::contrast::LossConfig;
use tch::{Kind, Tensor};

use crate::common::assert_close;
use crate::scene::{BATCH, DOUBLE, EVEN, Learner, Tensors, Views, assert_all_close, generator, set, values};

fn micro_batches_of(images: i64) -> LossConfig {
    LossConfig { micro_batch: Some(images), ..LossConfig::default() }
}

/// Nothing in the encoder mixes images, so losses, gradients and statistics are those of the whole batch.
#[test]
fn micro_batches_change_neither_losses_nor_gradients() {
    let _generator = generator();
    for with_momentum in [false, true] {
        let (learner, views) = (Learner::new(EVEN, with_momentum, 0.0), Views::new(EVEN));
        let before = learner.statistics();
        let whole = learner.losses(&views, None, &LossConfig::default());
        let gradients = learner.gradients(|| whole.backward().unwrap());
        let statistics = learner.statistics();
        for micro_batch in [1, 3, BATCH, i64::MAX] {
            set(&learner.live_statistics(), &before);
            let micro_batched = learner.losses(&views, None, &micro_batches_of(micro_batch));
            assert_all_close(&values(&micro_batched), &values(&whole), 1e-10);
            assert_all_close(&learner.gradients(|| micro_batched.backward().unwrap()), &gradients, 1e-10);
            assert_all_close(&learner.statistics(), &statistics, 1e-12);
        }
    }
}

/// With drop path, the gradient belongs to the loss only if the second pass of a part drops the same paths as the
/// first. Then it predicts how the loss changes with the weights. A momentum network keeps the keys constant.
#[test]
fn the_second_pass_of_a_part_drops_the_same_paths() {
    let _generator = generator();
    let (learner, views) = (Learner::new(EVEN, true, 0.5), Views::new(EVEN));
    let with_seed = |seed| {
        tch::manual_seed(seed);
        learner.losses(&views, None, &micro_batches_of(3))
    };
    let value = |seed| with_seed(seed).total().unwrap().double_value(&[]);
    let gradients = learner.gradients(|| with_seed(7).backward().unwrap());
    let (one, again, other) = (value(7), value(7), value(8));
    assert_eq!(one, again, "the same seed");
    assert!((one - other).abs() > 1e-3, "another seed: {one} and {other}");

    let direction: Tensors = gradients.iter().map(|(name, gradient)| (name.clone(), gradient.randn_like())).collect();
    let slopes = gradients.iter().map(|(name, gradient)| (gradient * &direction[name]).sum(Kind::Double));
    let slope: f64 = slopes.map(|slope| slope.double_value(&[])).sum();
    let weights: Tensors = learner.store.variables().into_iter().collect();
    let start: Tensors = direction.keys().map(|name| (name.clone(), weights[name].detach().copy())).collect();
    let value_at = |distance: f64| {
        let moved = start.iter().map(|(name, start)| (name.clone(), start + &direction[name] * distance)).collect();
        set(&start.keys().map(|name| (name.clone(), weights[name].shallow_clone())).collect(), &moved);
        value(7)
    };
    let measured = (value_at(1e-7) - value_at(-1e-7)) / 2e-7;
    assert_relative_eq!(measured, slope, max_relative = 1e-5, epsilon = 1e-5);
}

/// Draws after a step depend only on the seed before it, and do not repeat the draws of drop path.
#[test]
fn the_generator_has_a_new_state_after_a_step() {
    let _generator = generator();
    let (learner, views) = (Learner::new(EVEN, false, 0.5), Views::new(EVEN));
    let draw = || Vec::<f64>::try_from(Tensor::rand([4], DOUBLE)).unwrap();
    let after_step = |seed| {
        tch::manual_seed(seed);
        learner.losses(&views, None, &micro_batches_of(2)).backward().unwrap();
        draw()
    };
    let drawn = after_step(7);
    assert_eq!(drawn, after_step(7));
    assert_ne!(drawn, after_step(8));
    tch::manual_seed(7);
    assert_ne!(drawn, draw());
}

/// They are those of the plain first view, and no gradient comes back through them.
#[test]
fn the_features_that_a_probe_sees_are_those_of_the_first_view() {
    let _generator = generator();
    for with_momentum in [false, true] {
        let (learner, views) = (Learner::new(EVEN, with_momentum, 0.0), Views::new(EVEN));
        let expected = learner.model.network.encoder.forward(&views.global[0].0, true).unwrap();
        for config in [LossConfig::default(), micro_batches_of(2)] {
            let losses = learner.losses(&views, None, &config);
            assert_close("features", losses.features.as_ref().unwrap(), &expected, 1e-12);
            assert!(!losses.features.unwrap().requires_grad());
        }
    }
}
