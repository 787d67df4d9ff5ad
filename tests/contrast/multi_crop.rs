//! Losses of global and local views. `tests/device/published_vit.rs` tests their interpolated position embedding.

use approx::assert_abs_diff_eq;
use patchmix::contrast::LossConfig;
use patchmix::{Error, MixPlan, loss};
use tch::Tensor;

use crate::common::{assert_close, dense};
use crate::plain::{mix_to_origin_target, plain_losses};
use crate::scene::{BATCH, DOUBLE, EVEN, Learner, Sizes, UNEVEN, Views, assert_all_close, generator, set, values};

/// `total = oo + (mo + mm)/2 + (1/n) Σ_l Σ_k [CE(q_l, k, I) + CE(q_l mixed, k, A_l)]`, and the gradient of every
/// weight.
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
            let expected_statistics = learner.statistics();
            set(&learner.live_statistics(), &before);
            let actual = learner.losses(&views[0], None, &config);
            assert_all_close(&values(&actual), &expected, 1e-10);
            assert_eq!(expected.len(), if sizes.views > 0 { 6 } else { 4 });
            assert_all_close(&learner.gradients(|| actual.backward().unwrap()), &expected_gradients, 1e-10);
            assert_all_close(&learner.statistics(), &expected_statistics, 1e-12);
        }
    }
}

/// 14 pixels are 7 patches per side, so one group has 24 of the 49 patches and the other 25.
#[test]
fn uneven_local_views_have_exact_targets() {
    let _generator = generator();
    let plan = MixPlan::random(49, 2, 1).unwrap();
    let targets = plan.targets(BATCH).unwrap();
    assert_close("A", &dense(&targets.mix_to_origin), &mix_to_origin_target(&plan), 1e-15);
    let shares: Vec<f64> = targets.mix_to_origin.shares().iter().map(|(_, share)| share * 49.0).collect();
    assert_abs_diff_eq!(shares[..], [24.0, 25.0][..], epsilon = 1e-12);
}

/// A target is repeated crop by crop: row `c * B + i` is row `i`.
#[test]
fn a_repeated_target_repeats_its_rows() {
    let _generator = generator();
    let plan = MixPlan::random(7, 3, 2).unwrap();
    let targets = plan.targets(BATCH).unwrap().smoothed(0.1).unwrap().gathered(1, 2).unwrap();
    let target = targets.mix_to_origin;
    let once = dense(&target);
    let repeated = target.clone().repeated(3).unwrap();
    assert_eq!((repeated.batch_size(), repeated.rows(), repeated.columns()), (BATCH, 3 * BATCH, 2 * BATCH));
    let matrix = dense(&repeated);
    assert_eq!(matrix, Tensor::cat(&[&once, &once, &once], 0));
    let (q, k) = (Tensor::randn([3 * BATCH, 4], DOUBLE), Tensor::randn([2 * BATCH, 4], DOUBLE));
    let sparse = loss::mix_to_origin(&q, &k, &repeated, 0.2).unwrap();
    assert_close("loss", &sparse, &loss::mix_to_origin(&q, &k, &matrix, 0.2).unwrap(), 1e-12);
    assert_eq!(target.clone().repeated(2).unwrap().repeated(3).unwrap().rows(), 6 * BATCH);
    assert!(matches!(target.clone().repeated(0), Err(Error::Value { name: "copies", .. })));
    assert!(matches!(target.repeated(i64::MAX), Err(Error::Value { name: "copies", .. })));
}
