//! All options of a step at once.

use patchmix::Ranks;
use patchmix::contrast::{LossConfig, LossWeights};
use proptest::prelude::*;
use proptest::test_runner::TestCaseResult;
use tch::{Kind, Tensor};

use crate::common::assert_close;
use crate::plain::{SEED, momentum_model, plain_losses};
use crate::ranks;
use crate::scene::{BATCH, DOUBLE, EVEN, Learner, Sizes, UNEVEN, Views, assert_all_close, generator, set, values};
use crate::threads::Thread;

/// Even and uneven groups, blocks of other sizes than the patches, bands, plans per image.
fn sizes() -> impl Strategy<Value = Sizes> {
    let blocks = prop_oneof![
        3 => Just(EVEN),
        1 => Just(Sizes { block: 2, ..EVEN }),
        1 => Just(Sizes { local: 12, block: 2, patch: 4, ..EVEN }),
        1 => Just(Sizes { block: 4, patch: 2, local: 8, ..EVEN }),
        1 => Just(UNEVEN),
    ];
    let groups = prop::sample::select(vec![1, 2, 3, BATCH]);
    let stride = prop::sample::select(vec![1, 2, -1]);
    (blocks, 0..3_usize, groups, stride, any::<bool>(), any::<bool>()).prop_map(
        |(sizes, views, groups, stride, bands, per_image)| {
            // Local views of four blocks cannot be mixed by five groups.
            let groups = if sizes.local / sizes.block < 3 { groups.min(4) } else { groups };
            Sizes { views, groups, stride, bands, per_image, ..sizes }
        },
    )
}

fn weights() -> impl Strategy<Value = LossWeights> {
    let weight = prop_oneof![2 => Just(0.0), 1 => Just(1.0), 1 => 0.1..3.0_f64];
    let any = prop::array::uniform5(weight).prop_map(LossWeights::from);
    prop_oneof![1 => Just(LossWeights::default()), 3 => any]
}

fn configs() -> impl Strategy<Value = LossConfig> {
    let micro_batch = prop_oneof![Just(None), (1..4_i64).prop_map(Some)];
    (weights(), any::<bool>(), any::<bool>(), micro_batch).prop_map(|(weights, symmetric, negatives, micro_batch)| {
        LossConfig {
            temperature: 0.3,
            origin_smoothing: 0.1,
            mix_smoothing: 0.05,
            micro_batch,
            weights,
            symmetric,
            negatives,
            mix_patch_size: None,
        }
    })
}

fn in_blocks(config: LossConfig, sizes: Sizes) -> LossConfig {
    LossConfig { mix_patch_size: (sizes.block != sizes.patch).then_some(sizes.block), ..config }
}

fn has_a_term(config: &LossConfig, sizes: Sizes) -> bool {
    let terms = if sizes.views > 0 { 5 } else { 3 };
    config.weights.to_array()[..terms].iter().any(|weight| *weight > 0.0)
}

/// The next numbers of the generator.
fn draw() -> Vec<f64> {
    Tensor::rand([3], DOUBLE).try_into().unwrap()
}

/// One process: losses, gradients and running statistics are those of a plain loop that drops the same paths, and as
/// many numbers are drawn for them: no batch is encoded that no term needs.
fn compare(config: &LossConfig, sizes: Sizes, with_momentum: bool, synchronized: bool) -> TestCaseResult {
    let (learner, views) = (Learner::new(sizes, with_momentum, 0.4), [Views::new(sizes)]);
    let before = learner.statistics();
    let expected = plain_losses(&learner, &views, config);
    let drawn = draw();
    let expected_gradients = learner.gradients(|| expected["total"].backward());
    let expected_statistics = learner.statistics();
    set(&learner.live_statistics(), &before);
    let rank = Thread::all(1).remove(0);
    tch::manual_seed(SEED);
    let actual = learner.losses(&views[0], synchronized.then_some(&rank as &dyn Ranks), config);
    prop_assert_eq!(draw(), drawn);
    assert_all_close(&values(&actual), &expected, 1e-10);
    assert_all_close(&learner.gradients(|| actual.backward().unwrap()), &expected_gradients, 1e-9);
    assert_all_close(&learner.statistics(), &expected_statistics, 1e-12);
    prop_assert!(actual.feature_std.double_value(&[]).is_finite());
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// Weights, symmetric and negative-free forms, blocks, bands, plans per image, drop path in the trained encoder,
    /// smoothed targets, any number of groups, local views, micro-batches, a momentum network, synchronized statistics.
    #[test]
    fn every_combination_of_options_equals_a_plain_loop(
        (sizes, config) in (sizes(), configs()).prop_filter("a term", |(sizes, config)| has_a_term(config, *sizes)),
        (with_momentum, synchronized) in (any::<bool>(), any::<bool>()),
    ) {
        let _generator = generator();
        compare(&in_blocks(config, sizes), sizes, with_momentum, synchronized)?;
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    /// The same on several ranks, in whole batches: the graph of threads spans all of them. `tests/distributed` has
    /// micro-batches too.
    #[test]
    fn every_combination_on_several_ranks_equals_a_plain_loop(
        (sizes, config) in (sizes(), configs()).prop_filter("a term", |(sizes, config)| has_a_term(config, *sizes)),
        (with_momentum, world_size) in (any::<bool>(), 2..4_usize),
    ) {
        let _generator = generator();
        let config = in_blocks(LossConfig { micro_batch: None, ..config }, sizes);
        let learner = Learner::new(sizes, with_momentum, 0.0);
        ranks::compare(&learner, (0..world_size).map(|_| Views::new(sizes)).collect(), &config);
    }
}

/// MoCo v3, written down: the sum over both directions of `2τ CE(q, k)` with one-hot targets, and nothing mixed.
#[test]
fn moco_v3_is_one_term_in_its_symmetric_form() {
    let _generator = generator();
    let sizes = Sizes { views: 0, groups: 1, ..EVEN };
    let (learner, views) = (Learner::new(sizes, true, 0.0), Views::new(sizes));
    let temperature = 0.2;
    let weights = LossWeights { origin_to_origin: 4.0 * temperature, ..LossWeights::from([0.0; 5]) };
    let config = LossConfig { temperature, weights, origin_smoothing: 0.0, symmetric: true, ..LossConfig::default() };
    let total = learner.losses(&views, None, &config).total().unwrap();

    let [images_1, images_2] = views.global.each_ref().map(|(images, _)| images);
    let query = |images: &Tensor| {
        let projection = learner.model.network.forward(images, true).unwrap();
        learner.model.predictor.forward(&projection, true).unwrap()
    };
    let contrast = |q: Tensor, k: Tensor| {
        let unit = |x: Tensor| &x / x.square().sum_dim_intlist(-1, true, None::<Kind>).sqrt();
        let logits = unit(q).matmul(&unit(k).tr()) / temperature;
        logits.log_softmax(-1, Kind::Double).diagonal(0, 0, 1).mean(Kind::Double) * (-2.0 * temperature)
    };
    let key = |images: &Tensor| {
        let (_store, copy) = momentum_model(&learner).unwrap();
        copy.network.forward(images, true).unwrap().detach()
    };
    let expected = contrast(query(images_1), key(images_2)) + contrast(query(images_2), key(images_1));
    assert_close("total", &total, &expected, 1e-10);
}
