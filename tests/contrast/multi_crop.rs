//! Global and local views, mixed and unmixed. That local views see the interpolated position embedding is tested in
//! `tests/device/published_vit.rs`.

use patchmix::contrast::LossConfig;
use patchmix::{Error, MixPlan};
use tch::{Device, Kind, Tensor};

use crate::common::assert_close;
use crate::plain::{mix_to_origin_target, of_model, plain_losses};
use crate::scene::{BATCH, DOUBLE, EVEN, Learner, Sizes, UNEVEN, Views, assert_all_close, generator, set, values};

/// `total = oo + (mo + mm)/2 + (1/n) Σ_l Σ_k [CE(q_l, k, I) + CE(q_l mixed, k, A_l)]`, and every weight's gradient.
#[test]
fn losses_of_local_views_equal_a_plain_loop() {
    let _generator = generator();
    let config = LossConfig { mix_smoothing: 0.05, ..LossConfig::default() };
    for sizes in [EVEN, Sizes { views: 1, ..EVEN }, Sizes { views: 0, ..EVEN }, UNEVEN, Sizes { groups: 3, ..UNEVEN }] {
        for with_momentum in [false, true] {
            let (learner, views) = (Learner::new(sizes, with_momentum, 0.0), [Views::new(sizes)]);
            let before = learner.statistics();
            let expected = plain_losses(&learner, &views, &config);
            let expected_gradients = learner.gradients(|| expected["total"].backward());
            let expected_statistics = of_model(learner.statistics());
            set(&learner.statistics_in_use(), &before);
            let actual = learner.losses(&views[0], None, &config);
            assert_all_close(&values(&actual), &expected, 1e-10);
            assert_eq!(expected.len(), if sizes.views > 0 { 6 } else { 4 });
            assert_all_close(&learner.gradients(|| actual.backward().unwrap()), &expected_gradients, 1e-10);
            assert_all_close(&of_model(learner.statistics()), &expected_statistics, 1e-12);
        }
    }
}

/// 14 pixels are 7 patches a side: one group holds 24 of the 49 patches, the other 25.
#[test]
fn uneven_local_views_have_exact_labels() {
    let _generator = generator();
    let plan = MixPlan::random(49, 2, 1).unwrap();
    let targets = plan.targets(BATCH, Kind::Double, Device::Cpu).unwrap();
    assert_close("A", &targets.mix_to_origin().unwrap(), &mix_to_origin_target(&plan), 1e-15);
    let shares = targets.sparse_mix_to_origin().shares().iter().map(|(_, share)| share * 49.0).collect::<Vec<_>>();
    assert!((shares[0] - 24.0).abs() < 1e-12 && (shares[1] - 25.0).abs() < 1e-12, "{shares:?}");
}

/// A label is repeated crop by crop: rows `c * B + i` are row `i`.
#[test]
fn a_repeated_target_is_the_target_again_and_again() {
    let _generator = generator();
    let plan = MixPlan::random(7, 3, 2).unwrap();
    let targets =
        plan.targets(BATCH, Kind::Double, Device::Cpu).unwrap().smoothed(0.1).unwrap().gathered(1, 2).unwrap();
    let target = targets.sparse_mix_to_origin().clone();
    let once = target.dense(Kind::Double, Device::Cpu).unwrap();
    let repeated = target.clone().repeated(3).unwrap();
    assert_eq!((repeated.batch_size(), repeated.rows(), repeated.columns()), (BATCH, 3 * BATCH, 2 * BATCH));
    let dense = repeated.dense(Kind::Double, Device::Cpu).unwrap();
    assert_eq!(dense, Tensor::cat(&[&once, &once, &once], 0));
    let (q, k) = (Tensor::randn([3 * BATCH, 4], DOUBLE), Tensor::randn([2 * BATCH, 4], DOUBLE));
    let sparse = patchmix::loss::mix_to_origin(&q, &k, &repeated, 0.2).unwrap();
    assert_close("loss", &sparse, &patchmix::loss::mix_to_origin(&q, &k, &dense, 0.2).unwrap(), 1e-12);
    assert_eq!(target.clone().repeated(2).unwrap().repeated(3).unwrap().rows(), 6 * BATCH);
    assert!(matches!(target.clone().repeated(0), Err(Error::Value { name: "copies", .. })));
    assert!(matches!(target.repeated(i64::MAX), Err(Error::Value { name: "copies", .. })));
}
