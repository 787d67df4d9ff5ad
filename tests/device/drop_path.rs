//! Drop path on the device: what it leaves out is drawn there, so there is no CPU to compare with.

use patchmix::contrast::LossConfig;
use tch::{Kind, Tensor};

use crate::contrast::{on_device, views_on_device};
use crate::scene::{EVEN, Learner, Tensors, Views, set, values};
use crate::turn::{Turn, assert_near};

fn in_parts_of(images_at_a_time: Option<i64>) -> LossConfig {
    LossConfig { images_at_a_time, ..LossConfig::default() }
}

/// One seed, one set of losses and gradients, whether the batch is whole or in parts; another seed, others.
#[test]
fn the_seed_decides_what_is_left_out() {
    let turn = Turn::take();
    let learner = on_device(&turn, &Learner::new(EVEN, true, 0.5), Kind::Double);
    let views = views_on_device(&turn, &Views::new(EVEN), Kind::Double);
    for config in [in_parts_of(None), in_parts_of(Some(3))] {
        let step = |seed| {
            tch::manual_seed(seed);
            let losses = learner.losses(&views, None, &config);
            (values(&losses), learner.gradients(|| losses.backward().unwrap()))
        };
        let ((losses, gradients), (again, gradients_again), (other, _)) = (step(7), step(7), step(8));
        for (name, loss) in &losses {
            assert_near(name, &again[name], loss, 1e-12);
        }
        for (name, gradient) in &gradients {
            assert_near(name, &gradients_again[name], gradient, 1e-10);
        }
        let difference = (&losses["total"] - &other["total"]).abs().double_value(&[]);
        assert!(difference > 1e-3, "two seeds differ by {difference:e}");
    }
}

/// The gradient belongs to the loss only if the second pass of a part leaves out what the first left out: then it
/// predicts how the loss of the same draws changes with the weights. A momentum network makes the keys, so that they
/// stay.
#[test]
fn parts_leave_out_the_same_paths_when_they_are_computed_again() {
    let turn = Turn::take();
    let learner = on_device(&turn, &Learner::new(EVEN, true, 0.5), Kind::Double);
    let views = views_on_device(&turn, &Views::new(EVEN), Kind::Double);
    let losses = || {
        tch::manual_seed(7);
        learner.losses(&views, None, &in_parts_of(Some(3)))
    };
    let gradients = learner.gradients(|| losses().backward().unwrap());
    let direction: Tensors = gradients.iter().map(|(name, gradient)| (name.clone(), gradient.randn_like())).collect();
    let slopes = gradients.iter().map(|(name, gradient)| (gradient * &direction[name]).sum(Kind::Double));
    let slope: f64 = slopes.map(|slope| slope.double_value(&[])).sum();
    let weights: Tensors =
        learner.store.variables().into_iter().filter(|(name, _)| direction.contains_key(name)).collect();
    let start: Tensors = weights.iter().map(|(name, weight)| (name.clone(), weight.detach().copy())).collect();
    let value_at = |distance: f64| {
        let moved = start.iter().map(|(name, start)| (name.clone(), start + &direction[name] * distance)).collect();
        set(&weights, &moved);
        let total: Tensor = losses().total().unwrap();
        total.double_value(&[])
    };
    let measured = (value_at(1e-7) - value_at(-1e-7)) / 2e-7;
    assert!((measured - slope).abs() < 1e-5 * slope.abs().max(1.0), "{measured} measured, {slope} by the gradient");
}
