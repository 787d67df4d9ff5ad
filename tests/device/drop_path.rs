//! Drop path on the device. Its draws are made there, so there is no CPU result to compare with.

use approx::assert_relative_eq;
use patchmix::contrast::LossConfig;
use tch::{Kind, Tensor};

use crate::contrast::{on_device, views_on_device};
use crate::scene::{EVEN, Learner, Tensors, Views, set, values};
use crate::turn::{Turn, assert_near};

fn micro_batches_of(micro_batch: Option<i64>) -> LossConfig {
    LossConfig { micro_batch, ..LossConfig::default() }
}

/// The same seed gives the same losses and gradients, with and without micro-batches; another seed gives others.
#[test]
fn the_seed_determines_the_dropped_paths() {
    let turn = Turn::take();
    let learner = on_device(&turn, &Learner::new(EVEN, true, 0.5), Kind::Double);
    let views = views_on_device(&turn, &Views::new(EVEN), Kind::Double);
    for config in [micro_batches_of(None), micro_batches_of(Some(3))] {
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
        let [total, other] = [&losses, &other].map(|losses| losses["total"].double_value(&[]));
        assert!((total - other).abs() > 1e-3, "another seed: {total} and {other}");
    }
}

/// The gradient belongs to the loss only if the second pass of a part drops the same paths as the first. Then it
/// predicts how the loss changes with the weights. A momentum network keeps the keys constant.
#[test]
fn the_second_pass_of_a_part_drops_the_same_paths() {
    let turn = Turn::take();
    let learner = on_device(&turn, &Learner::new(EVEN, true, 0.5), Kind::Double);
    let views = views_on_device(&turn, &Views::new(EVEN), Kind::Double);
    let losses = || {
        tch::manual_seed(7);
        learner.losses(&views, None, &micro_batches_of(Some(3)))
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
    assert_relative_eq!(measured, slope, max_relative = 1e-5, epsilon = 1e-5);
}
