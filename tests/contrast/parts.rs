//! Batches that the encoder works through in parts.

use patchmix::contrast::LossConfig;
use tch::{Kind, Tensor};

use crate::scene::{BATCH, DOUBLE, EVEN, Learner, Tensors, Views, assert_all_close, generator, set, values};

fn in_parts_of(images: i64) -> LossConfig {
    LossConfig { images_at_a_time: Some(images), ..LossConfig::default() }
}

/// Nothing in the encoder mixes images: in parts of any size, losses, gradients and statistics are those of the whole
/// batch.
#[test]
fn parts_change_neither_losses_nor_gradients() {
    let _generator = generator();
    for with_momentum in [false, true] {
        let (learner, views) = (Learner::new(EVEN, with_momentum, 0.0), Views::new(EVEN));
        let before = learner.statistics();
        let whole = learner.losses(&views, None, &LossConfig::default());
        let gradients = learner.gradients(|| whole.backward().unwrap());
        let statistics = learner.statistics();
        for images_at_a_time in [1, 3, BATCH, i64::MAX] {
            set(&learner.statistics_in_use(), &before);
            let in_parts = learner.losses(&views, None, &in_parts_of(images_at_a_time));
            assert_all_close(&values(&in_parts), &values(&whole), 1e-10);
            assert_all_close(&learner.gradients(|| in_parts.backward().unwrap()), &gradients, 1e-10);
            assert_all_close(&learner.statistics(), &statistics, 1e-12);
        }
    }
}

/// With drop path, the gradient belongs to the loss only if the second pass leaves out what the first left out: then it
/// predicts how the loss of the same draws changes with the weights. A momentum network makes the keys, so that they
/// stay.
#[test]
fn parts_leave_out_the_same_paths_when_they_are_computed_again() {
    let _generator = generator();
    let (learner, views) = (Learner::new(EVEN, true, 0.5), Views::new(EVEN));
    let with_seed = |seed| {
        tch::manual_seed(seed);
        learner.losses(&views, None, &in_parts_of(3))
    };
    let value = |seed| with_seed(seed).total().unwrap().double_value(&[]);
    let gradients = learner.gradients(|| with_seed(7).backward().unwrap());
    let (one, again, other) = (value(7), value(7), value(8));
    assert_eq!(one, again, "the same draws");
    assert!((one - other).abs() > 1e-3, "other draws: {one} and {other}");

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
    assert!((measured - slope).abs() < 1e-5 * slope.abs().max(1.0), "{measured} measured, {slope} by the gradient");
}

/// What is drawn after a step depends on what was drawn before it alone, and does not repeat what drop path drew.
#[test]
fn the_generator_goes_on_from_a_state_of_its_own() {
    let _generator = generator();
    let (learner, views) = (Learner::new(EVEN, false, 0.5), Views::new(EVEN));
    let draw = || Vec::<f64>::try_from(Tensor::rand([4], DOUBLE)).unwrap();
    let after_step = |seed| {
        tch::manual_seed(seed);
        learner.losses(&views, None, &in_parts_of(2)).backward().unwrap();
        draw()
    };
    let drawn = after_step(7);
    assert_eq!(drawn, after_step(7));
    assert_ne!(drawn, after_step(8));
    tch::manual_seed(7);
    assert_ne!(drawn, draw());
}
