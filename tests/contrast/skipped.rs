//! Terms of weight 0 cost nothing: no pass, no batch of keys that ranks exchange.

use patchmix::Error;
use patchmix::contrast::{LossConfig, LossWeights, Networks, View, losses};

use crate::scene::{BATCH, EVEN, Learner, Sizes, Views, generator};
use crate::threads::Thread;

/// Batch normalizations of the projector and of the predictor.
const PROJECTOR: usize = 3;
const QUERY: usize = PROJECTOR + 2;

/// Weights, symmetric, momentum; then batches of queries, passes for keys alone, and batches of keys.
type Case = ([f64; 5], bool, bool, [usize; 3]);

/// Without a momentum network, the projection of a query is the key of the same images.
const CASES: [Case; 14] = [
    ([1.0, 0.5, 0.5, 1.0, 1.0], false, false, [4, 2, 3]),
    ([1.0, 0.5, 0.5, 1.0, 1.0], false, true, [4, 3, 3]),
    ([1.0, 0.5, 0.5, 1.0, 1.0], true, false, [6, 0, 4]),
    ([1.0, 0.5, 0.5, 1.0, 1.0], true, true, [6, 4, 4]),
    ([1.0, 0.0, 0.0, 0.0, 0.0], false, false, [1, 1, 1]),
    ([1.0, 0.0, 0.0, 0.0, 0.0], true, false, [2, 0, 2]),
    ([1.0, 0.0, 0.0, 0.0, 0.0], true, true, [2, 2, 2]),
    ([0.0, 1.0, 0.0, 0.0, 0.0], false, false, [1, 1, 1]),
    ([0.0, 0.0, 1.0, 0.0, 0.0], false, true, [1, 1, 1]),
    ([0.0, 0.0, 1.0, 0.0, 0.0], true, false, [2, 0, 2]),
    ([0.0, 1.0, 1.0, 0.0, 0.0], false, false, [1, 2, 2]),
    ([1.0, 1.0, 0.0, 0.0, 0.0], false, false, [2, 1, 2]),
    ([0.0, 0.0, 0.0, 1.0, 0.0], false, false, [1, 2, 2]),
    ([0.0, 0.0, 0.0, 0.0, 1.0], true, true, [1, 2, 2]),
];

/// Every batch normalization that is passed sums once over the ranks, and every batch of keys is gathered once. A
/// query passes projector and predictor, a key that is no query the projector.
#[test]
fn only_what_a_term_needs_passes_through_the_networks() {
    let _generator = generator();
    for (weights, symmetric, with_momentum, [queries, key_passes, keys]) in CASES {
        for negatives in [true, false] {
            let (learner, views) = (Learner::new(EVEN, with_momentum, 0.0), Views::new(EVEN));
            let rank = Thread::all(1).remove(0);
            let weights = LossWeights::from(weights);
            let config = LossConfig { weights, symmetric, negatives, ..LossConfig::default() };
            let losses = learner.losses(&views, Some(&rank), &config);
            let what = format!("{weights:?}, symmetric {symmetric}, momentum {with_momentum}");
            assert_eq!(rank.summed(), queries * QUERY + key_passes * PROJECTOR, "{what}");
            assert_eq!(rank.gathered(), if negatives { keys } else { 0 }, "{what}");
            let computed: Vec<f64> = losses.terms().map(|(term, _)| term.weight).collect();
            let wanted: Vec<f64> = weights.to_array().into_iter().filter(|weight| *weight > 0.0).collect();
            assert_eq!(computed, wanted, "{what}");
        }
    }
}

/// The features of the second view are measured, whichever pass computes them.
#[test]
fn the_spread_of_features_is_that_of_the_second_view() {
    let _generator = generator();
    for with_momentum in [false, true] {
        let (learner, views) = (Learner::new(EVEN, with_momentum, 0.0), Views::new(EVEN));
        let spread = |config: LossConfig| learner.losses(&views, None, &config).feature_std.double_value(&[]);
        let published = spread(LossConfig::default());
        let weights = LossWeights::from([1.0, 0.0, 0.0, 0.0, 0.0]);
        assert_eq!(spread(LossConfig { weights, symmetric: true, ..LossConfig::default() }), published);
        assert_eq!(spread(LossConfig { negatives: false, ..LossConfig::default() }), published);
        let weights = LossWeights::from([0.0, 1.0, 0.0, 0.0, 0.0]);
        assert_ne!(spread(LossConfig { weights, ..LossConfig::default() }), published, "no key of the second view");
    }
}

/// With a stride of the batch size, every image would be mixed with itself. Only a mixed term minds.
#[test]
fn a_batch_that_cannot_be_mixed_has_its_plain_terms() {
    let _generator = generator();
    let sizes = Sizes { stride: BATCH, ..EVEN };
    let learner = Learner::new(sizes, false, 0.0);
    let views = Views::new(sizes);
    let networks = Networks { model: &learner.model, momentum: None, ranks: None };
    let global = views.global.each_ref().map(|(images, plan)| View { images, plan });
    let local: Vec<View<'_>> = views.local.iter().map(|(images, plan)| View { images, plan }).collect();
    for (weights, is_mixed) in [
        ([1.0, 0.0, 0.0, 1.0, 0.0], false),
        ([0.0, 1.0, 0.0, 0.0, 0.0], true),
        ([0.0, 0.0, 1.0, 0.0, 0.0], true),
        ([1.0, 0.0, 0.0, 0.0, 1.0], true),
    ] {
        let config = LossConfig { weights: weights.into(), ..LossConfig::default() };
        match losses(&networks, global, &local, &config) {
            Ok(losses) => assert!(!is_mixed && losses.terms().count() == 2, "{weights:?}"),
            Err(error) => assert!(is_mixed && matches!(error, Error::SourcesCollide { .. }), "{weights:?}: {error}"),
        }
    }
}

#[test]
fn weights_that_leave_nothing_or_are_no_weights_are_refused() {
    let _generator = generator();
    let refused = |sizes: Sizes, weights: [f64; 5]| {
        let (learner, views) = (Learner::new(sizes, false, 0.0), Views::new(sizes));
        let networks = Networks { model: &learner.model, momentum: None, ranks: None };
        let global = views.global.each_ref().map(|(images, plan)| View { images, plan });
        let local: Vec<View<'_>> = views.local.iter().map(|(images, plan)| View { images, plan }).collect();
        let config = LossConfig { weights: weights.into(), ..LossConfig::default() };
        match losses(&networks, global, &local, &config).map(|_| ()).unwrap_err() {
            Error::Value { name, .. } => name,
            other => panic!("{other}"),
        }
    };
    assert_eq!(refused(EVEN, [0.0; 5]), "weights");
    assert_eq!(refused(Sizes { views: 0, ..EVEN }, [0.0, 0.0, 0.0, 1.0, 1.0]), "weights");
    assert_eq!(refused(EVEN, [1.0, -0.5, 0.0, 0.0, 0.0]), "mix_to_origin");
    assert_eq!(refused(EVEN, [1.0, 0.0, f64::NAN, 0.0, 0.0]), "mix_to_mix");
    assert_eq!(refused(EVEN, [1.0, 0.0, 0.0, 0.0, f64::INFINITY]), "local_mix_to_origin");
}
