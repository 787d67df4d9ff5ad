//! Drop path on the device. Its draws are made there, so there is no CPU result to compare with.

use approx::assert_relative_eq;
use patchmix::contrast::LossConfig;
use tch::{Kind, Tensor};

use crate::contrast::{on_device, views_on_device};
use crate::scene::{EVEN, Learner, Sizes, Tensors, Views, running_statistics, set, values};
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

/// The momentum encoder drops no paths. The running statistics of its projector change with the keys of all three
/// passes, and `feature_std` with those of one. The keys of the trained encoder do drop paths.
#[test]
fn only_keys_without_a_momentum_network_depend_on_the_seed() {
    let turn = Turn::take();
    for (with_momentum, micro_batch) in [(true, None), (true, Some(3)), (false, None), (false, Some(3))] {
        let learner = on_device(&turn, &Learner::new(EVEN, with_momentum, 0.5), Kind::Double);
        let views = views_on_device(&turn, &Views::new(EVEN), Kind::Double);
        let before = learner.statistics();
        let keys = |seed| {
            set(&learner.live_statistics(), &before);
            tch::manual_seed(seed);
            let losses = learner.losses(&views, None, &micro_batches_of(micro_batch));
            let statistics = learner.momentum.as_ref().map(|momentum| running_statistics(momentum.store()));
            let mut keys: Tensors = statistics.unwrap_or_default();
            keys.iter_mut().for_each(|(_, statistic)| *statistic = statistic.copy());
            keys.insert("feature_std".to_owned(), losses.feature_std.shallow_clone());
            keys
        };
        let (keys, other) = (keys(7), keys(8));
        if with_momentum {
            assert_eq!(keys.len(), 7);
            keys.iter().for_each(|(name, tensor)| assert_near(name, &other[name], tensor, 1e-12));
        } else {
            let [keys, other] = [keys, other].map(|keys| keys["feature_std"].double_value(&[]));
            assert!((keys - other).abs() > 1e-3, "{keys} and {other}");
        }
    }
}

/// If both views are the same images and nothing is mixed, all three losses are the same, unless the plain and the
/// mixed queries drop different paths.
#[test]
fn plain_and_mixed_queries_drop_different_paths() {
    let turn = Turn::take();
    for (drop_path, micro_batch) in [(0.0, None), (0.0, Some(3)), (0.5, None), (0.5, Some(3))] {
        let sizes = Sizes { groups: 1, views: 0, ..EVEN };
        let learner = on_device(&turn, &Learner::new(sizes, true, drop_path), Kind::Double);
        let Views { global: [(images, plan), _], .. } = views_on_device(&turn, &Views::new(sizes), Kind::Double);
        let views = Views { global: [(images.copy(), plan.clone()), (images, plan)], local: Vec::new() };
        let config = LossConfig { origin_smoothing: 0.0, ..micro_batches_of(micro_batch) };
        let losses = values(&learner.losses(&views, None, &config));
        // The keys are the same, because the momentum network drops no paths.
        assert_near("mix to mix", &losses["mix_to_mix"], &losses["mix_to_origin"], 1e-12);
        if drop_path == 0.0 {
            assert_near("mix to origin", &losses["mix_to_origin"], &losses["origin_to_origin"], 1e-12);
        } else {
            let [plain, mixed] = ["origin_to_origin", "mix_to_origin"].map(|name| losses[name].double_value(&[]));
            assert!((plain - mixed).abs() > 1e-3, "{plain} and {mixed}");
        }
    }
}
