//! All options of a step at once.

use patchmix::Ranks;
use patchmix::contrast::LossConfig;

use crate::plain::{SEED, plain_losses};
use crate::scene::{BATCH, EVEN, Learner, Sizes, UNEVEN, Views, assert_all_close, generator, set, values};
use crate::threads::Thread;

/// Drop path in the trained encoder, smoothed targets, any number of groups, local views, micro-batches, a momentum
/// network and synchronized statistics: losses, gradients and running statistics are those of a plain loop, which drops
/// the same paths.
#[test]
fn every_combination_of_options_equals_a_plain_loop() {
    let _generator = generator();
    for groups in [1, 3, BATCH] {
        for sizes in [Sizes { views: 0, groups, ..EVEN }, Sizes { groups, ..UNEVEN }] {
            for micro_batch in [None, Some(2)] {
                for with_momentum in [false, true] {
                    for synchronized in [false, true] {
                        compare(sizes, micro_batch, with_momentum, synchronized);
                    }
                }
            }
        }
    }
}

fn compare(sizes: Sizes, micro_batch: Option<i64>, with_momentum: bool, synchronized: bool) {
    let config = LossConfig { temperature: 0.3, origin_smoothing: 0.1, mix_smoothing: 0.05, micro_batch };
    let (learner, views) = (Learner::new(sizes, with_momentum, 0.4), [Views::new(sizes)]);
    let before = learner.statistics();
    let expected = plain_losses(&learner, &views, &config);
    let expected_gradients = learner.gradients(|| expected["total"].backward());
    let expected_statistics = learner.statistics();
    set(&learner.live_statistics(), &before);
    let rank = Thread::all(1).remove(0);
    tch::manual_seed(SEED);
    let actual = learner.losses(&views[0], synchronized.then_some(&rank as &dyn Ranks), &config);
    assert_all_close(&values(&actual), &expected, 1e-10);
    assert_all_close(&learner.gradients(|| actual.backward().unwrap()), &expected_gradients, 1e-10);
    assert_all_close(&learner.statistics(), &expected_statistics, 1e-12);
}
