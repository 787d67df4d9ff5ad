//! The losses of a batch on the device, against the plain loop of `tests/contrast` on the CPU in double precision.

use patchmix::contrast::{LossConfig, Model, MomentumNetwork};
use tch::nn::VarStore;
use tch::{Device, Kind, Tensor};

use crate::plain::plain_losses;
use crate::scene::{EVEN, HEADS, Learner, Sizes, Tensors, UNEVEN, Views, set, values};
use crate::turn::Turn;

/// The same weights on the device, of kind `kind`.
pub(crate) fn on_device(turn: &Turn, learner: &Learner, kind: Kind) -> Learner {
    let vit = learner.model.network.encoder.config();
    let mut store = VarStore::new(turn.device);
    let model = Model::new(&store.root(), vit, &HEADS).unwrap();
    store.set_kind(kind);
    store.copy(&learner.store).unwrap();
    let momentum = learner.momentum.as_ref().map(|momentum| {
        let copy = MomentumNetwork::new(&store, vit, &HEADS, turn.device).unwrap();
        set(&copy.store().variables().into_iter().collect(), &momentum.store().variables().into_iter().collect());
        copy
    });
    Learner { store, model, momentum }
}

/// The same images on the device, with the same plans.
pub(crate) fn views_on_device(turn: &Turn, views: &Views, kind: Kind) -> Views {
    let put = |(images, plan): &(Tensor, _)| (turn.put(images, kind), patchmix::MixPlan::clone(plan));
    Views { global: views.global.each_ref().map(put), local: views.local.iter().map(put).collect() }
}

/// Fails unless every tensor is within `tolerance` of the expected one, relative to its norm or to a hundredth of the
/// largest norm. Some gradients should be zero and are sums of larger numbers.
#[track_caller]
pub(crate) fn assert_all_near(what: &str, actual: &Tensors, expected: &Tensors, tolerance: f64) {
    assert_eq!(actual.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>(), "{what}");
    let length = |tensor: &Tensor| tensor.to_kind(Kind::Double).norm().double_value(&[]);
    let longest = expected.values().map(length).fold(0.0, f64::max);
    for (name, expected) in expected {
        let [actual, expected] =
            [&actual[name], expected].map(|tensor| tensor.detach().to(Device::Cpu).to_kind(Kind::Double));
        let (difference, length) = (length(&(actual - &expected)), length(&expected));
        let allowed = tolerance * length.max(0.01 * longest);
        assert!(difference <= allowed, "{what} {name}: {difference:e} away, allowed {allowed:e}");
    }
}

/// Losses, gradients and running statistics of one step.
#[track_caller]
fn compare(turn: &Turn, what: &str, sizes: Sizes, with_momentum: bool, config: &LossConfig) {
    let (learner, views) = (Learner::new(sizes, with_momentum, 0.0), [Views::new(sizes)]);
    // Statistics over five images amplify rounding errors of 1e-7.
    let copies = [(Kind::Double, 1e-9), (Kind::Float, 1e-3)]
        .map(|(kind, tolerance)| (kind, tolerance, on_device(turn, &learner, kind)));
    let expected = plain_losses(&learner, &views, config);
    let gradients = learner.gradients(|| expected["total"].backward());
    let statistics = learner.statistics();
    for (kind, tolerance, copy) in &copies {
        let what = format!("{what}, {kind:?}");
        let actual = copy.losses(&views_on_device(turn, &views[0], *kind), None, config);
        assert_eq!(actual.total().unwrap().device(), turn.device);
        assert_all_near(&what, &values(&actual), &expected, *tolerance);
        assert_all_near(&what, &copy.gradients(|| actual.backward().unwrap()), &gradients, *tolerance);
        assert_all_near(&what, &copy.statistics(), &statistics, *tolerance);
    }
}

#[test]
fn two_views_with_and_without_a_momentum_network() {
    let turn = Turn::take();
    let global = Sizes { views: 0, ..EVEN };
    for groups in [1, 2, 3, 5] {
        let sizes = Sizes { groups, ..global };
        compare(&turn, &format!("{groups} groups"), sizes, false, &LossConfig::default());
        compare(&turn, &format!("{groups} groups, momentum"), sizes, true, &LossConfig::default());
    }
}

#[test]
fn local_views() {
    let turn = Turn::take();
    compare(&turn, "one local view", Sizes { views: 1, ..EVEN }, true, &LossConfig::default());
    compare(&turn, "three uneven local views", Sizes { views: 3, groups: 4, ..UNEVEN }, false, &LossConfig::default());
}

#[test]
fn smoothed_labels_and_another_temperature() {
    let turn = Turn::take();
    for (origin_smoothing, mix_smoothing, temperature) in [(0.0, 0.0, 1.0), (0.3, 0.0, 0.2), (0.1, 0.2, 0.1)] {
        let config = LossConfig { temperature, origin_smoothing, mix_smoothing, ..LossConfig::default() };
        compare(&turn, &format!("{config:?}"), EVEN, true, &config);
    }
}

#[test]
fn micro_batches() {
    let turn = Turn::take();
    for images in [1, 3, 5] {
        let config = LossConfig { micro_batch: Some(images), ..LossConfig::default() };
        compare(&turn, &format!("micro-batches of {images}"), Sizes { views: 0, ..EVEN }, false, &config);
    }
}

#[test]
fn variants_of_the_method() {
    let turn = Turn::take();
    let sizes = Sizes { groups: 3, per_image: true, ..UNEVEN };
    let symmetric = LossConfig { symmetric: true, ..LossConfig::default() };
    let weighted = LossConfig { weights: [0.8, 0.0, 1.5, 0.0, 0.25].into(), ..LossConfig::default() };
    let without_negatives = LossConfig { negatives: false, ..symmetric.clone() };
    let in_blocks = LossConfig { mix_patch_size: Some(2), ..LossConfig::default() };
    for with_momentum in [false, true] {
        compare(&turn, "symmetric", sizes, with_momentum, &symmetric);
        compare(&turn, "other weights", sizes, with_momentum, &weighted);
        compare(&turn, "without negatives", sizes, with_momentum, &without_negatives);
        compare(&turn, "smaller blocks", Sizes { block: 2, bands: true, ..EVEN }, with_momentum, &in_blocks);
    }
}

#[test]
fn everything_at_once() {
    let turn = Turn::take();
    for (groups, images) in [(2, 2), (3, 4), (5, 1)] {
        let config = LossConfig { mix_smoothing: 0.05, micro_batch: Some(images), ..LossConfig::default() };
        let sizes = Sizes { views: 2, groups, ..UNEVEN };
        compare(&turn, &format!("{groups} groups, micro-batches of {images}"), sizes, true, &config);
    }
}
