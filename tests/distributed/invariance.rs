//! Any number of ranks learns what one process learns from the same global batch.
//!
//! With one plan per rank and statistics over all ranks, the average of the ranks' losses and of their gradients equals
//! those of one process with all images.

use patchmix::Ranks;
use patchmix::contrast::LossConfig;
use patchmix::distributed::{Bytes, Group};
use tch::Tensor;

use crate::plain::plain_losses;
use crate::rank::ranks_with;
use crate::scene::{
    BATCH, EVEN, HEADS, Learner, Sizes, Tensors, UNEVEN, Views, assert_all_close, generator, set, values,
};

const GLOBAL_ALONE: Sizes = Sizes { views: 0, ..EVEN };

/// The results of one process with the images of all ranks, from the plain implementation.
struct Whole {
    losses: Tensors,
    gradients: Tensors,
    statistics: Tensors,
}

impl Whole {
    fn new(learner: &Learner, views: &[Views], config: &LossConfig) -> Whole {
        let before = learner.statistics();
        let losses = plain_losses(learner, views, config);
        let gradients = learner.gradients(|| losses["total"].backward());
        let statistics = learner.statistics();
        set(&learner.live_statistics(), &before);
        Whole { losses, gradients, statistics }
    }
}

/// The results of a rank after a step: losses and gradients, averaged over all ranks.
struct Part {
    losses: Tensors,
    gradients: Tensors,
    statistics: Tensors,
    bytes: Bytes,
}

impl Part {
    fn new(group: &Group, learner: &Learner, views: &Views, config: &LossConfig) -> Part {
        let average =
            |tensors: &Tensors| group.average(&tensors.values().map(Tensor::shallow_clone).collect::<Vec<_>>());
        let losses = learner.losses(views, Some(group), config);
        let gradients = learner.gradients(|| losses.backward().unwrap());
        average(&gradients).unwrap();
        let bytes = group.bytes_sent();
        let losses = values(&losses).into_iter().map(|(name, loss)| (name, loss.detach().copy())).collect();
        average(&losses).unwrap();
        Part { losses, gradients, statistics: learner.statistics(), bytes }
    }
}

/// One step on random images, by one process and by several ranks.
fn step(world_size: i64, sizes: Sizes, with_momentum: bool, config: &LossConfig) -> (Whole, Vec<Part>) {
    let _generator = generator();
    let learner = Learner::new(sizes, with_momentum, 0.0);
    let views: Vec<Views> = (0..world_size).map(|_| Views::new(sizes)).collect();
    let whole = Whole::new(&learner, &views, config);
    let parts = views.into_iter().map(|views| (learner.copy(), views)).collect();
    let parts = ranks_with(parts, |group, (learner, views)| Part::new(&group, &learner, &views, config));
    (whole, parts)
}

fn usual(micro_batch: Option<i64>) -> LossConfig {
    LossConfig { mix_smoothing: 0.05, micro_batch, ..LossConfig::default() }
}

fn check(sizes: Sizes, with_momentum: bool, micro_batch: Option<i64>) {
    check_with(sizes, with_momentum, &usual(micro_batch));
}

fn check_with(sizes: Sizes, with_momentum: bool, config: &LossConfig) {
    for world_size in [2, 3] {
        let (whole, parts) = step(world_size, sizes, with_momentum, config);
        assert!(whole.gradients.values().any(|gradient| gradient.abs().max().double_value(&[]) > 1e-2));
        for part in parts {
            assert_all_close(&part.losses, &whole.losses, 1e-10);
            assert_all_close(&part.gradients, &whole.gradients, 1e-10);
            assert_all_close(&part.statistics, &whole.statistics, 1e-12);
        }
    }
}

#[test]
fn ranks_learn_what_one_process_learns() {
    check(GLOBAL_ALONE, false, None);
    check(Sizes { groups: 3, ..GLOBAL_ALONE }, false, None);
}

#[test]
fn ranks_with_a_momentum_network_learn_what_one_process_learns() {
    check(GLOBAL_ALONE, true, None);
}

#[test]
fn ranks_with_local_views_learn_what_one_process_learns() {
    check(EVEN, false, None);
    check(UNEVEN, false, None);
}

#[test]
fn ranks_with_local_views_and_a_momentum_network_learn_what_one_process_learns() {
    check(EVEN, true, None);
}

#[test]
fn ranks_with_micro_batches_learn_what_one_process_learns() {
    check(EVEN, false, Some(2));
    check(EVEN, true, Some(2));
}

/// Variants of the method, and micro-batches with them, which threads cannot have.
#[test]
fn ranks_with_all_variants_learn_what_one_process_learns() {
    let symmetric = LossConfig { symmetric: true, micro_batch: Some(2), ..LossConfig::default() };
    let weights = [0.8, 0.0, 1.5, 0.0, 0.25].into();
    let weighted = LossConfig { weights, mix_smoothing: 0.05, ..symmetric.clone() };
    let without_negatives = LossConfig { negatives: false, ..weighted.clone() };
    let sizes = Sizes { groups: 3, per_image: true, ..UNEVEN };
    for config in [symmetric, weighted, without_negatives] {
        for with_momentum in [false, true] {
            check_with(sizes, with_momentum, &config);
            check_with(Sizes { bands: true, per_image: false, ..sizes }, with_momentum, &config);
        }
    }
}

/// A rank sends every gradient once, every key once, and for every batch normalization the sums of the values and of
/// their squares, with their gradients in the backward pass. Nothing grows with the number of ranks.
#[test]
fn a_step_sends_no_more_than_it_needs() {
    const DOUBLE: u64 = 8;
    let (hidden, output) = (HEADS.hidden as u64, HEADS.output as u64);
    let (projector, predictor) = (2 * hidden + output, hidden + output); // normalized columns
    for world_size in [2, 3] {
        for (sizes, with_momentum) in [(GLOBAL_ALONE, false), (GLOBAL_ALONE, true), (EVEN, false), (EVEN, true)] {
            let (whole, parts) = step(world_size, sizes, with_momentum, &usual(None));
            let gradients: usize = whole.gradients.values().map(Tensor::numel).sum();
            // Plain and mixed queries of the global views, and of all local views together.
            let queries = if sizes.views > 0 { 4 } else { 2 };
            let keys = if with_momentum { 3 } else { 2 }; // without one, the queries' projections are the first keys
            let sums = 2 * (2 * queries * (projector + predictor) + keys * projector);
            let expected = Bytes {
                all_reduce: DOUBLE * (gradients as u64 + sums),
                all_gather: DOUBLE * 3 * BATCH as u64 * output,
                broadcast: 0,
            };
            for part in parts {
                assert_eq!(part.bytes, expected, "{world_size} ranks, {queries} batches of queries, {keys} of keys");
            }
        }
    }
}
