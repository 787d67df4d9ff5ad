//! However many ranks share a batch, they learn what one process learns of it.
//!
//! With the same global batch, one mixing plan for each rank's part and statistics over all ranks, the mean of the ranks'
//! losses and the mean of their gradients are those of one process that has every image.

use patchmix::contrast::LossConfig;
use patchmix::dist::{Bytes, Group};
use tch::Tensor;

use crate::plain::{of_model, plain_losses};
use crate::rank::ranks_with;
use crate::scene::{
    BATCH, EVEN, HEADS, Learner, Sizes, Tensors, UNEVEN, Views, assert_all_close, generator, set, values,
};

const GLOBAL_ALONE: Sizes = Sizes { views: 0, ..EVEN };

/// What one process computes of the images of all ranks, by the plain loop of the method's description.
struct Whole {
    losses: Tensors,
    gradients: Tensors,
    statistics: Tensors,
}

impl Whole {
    fn of(learner: &Learner, views: &[Views], config: &LossConfig) -> Whole {
        let before = learner.statistics();
        let losses = plain_losses(learner, views, config);
        let gradients = learner.gradients(|| losses["total"].backward());
        let statistics = of_model(learner.statistics());
        set(&learner.statistics_in_use(), &before);
        Whole { losses, gradients, statistics }
    }
}

/// What a rank has after a step: losses and gradients as a run uses them, averaged over all ranks.
struct Part {
    losses: Tensors,
    gradients: Tensors,
    statistics: Tensors,
    bytes: Bytes,
}

impl Part {
    fn of(group: &Group, learner: &Learner, views: &Views, config: &LossConfig) -> Part {
        let average =
            |tensors: &Tensors| group.average(&tensors.values().map(Tensor::shallow_clone).collect::<Vec<_>>());
        let losses = learner.losses(views, Some(group), config);
        let gradients = learner.gradients(|| losses.backward().unwrap());
        average(&gradients).unwrap();
        let bytes = group.bytes_sent();
        let losses = values(&losses).into_iter().map(|(name, loss)| (name, loss.detach().copy())).collect();
        average(&losses).unwrap();
        Part { losses, gradients, statistics: of_model(learner.statistics()), bytes }
    }
}

/// One step on random images, by one process and by ranks.
fn step(world_size: i64, sizes: Sizes, with_momentum: bool, images_at_a_time: Option<i64>) -> (Whole, Vec<Part>) {
    let _generator = generator();
    let config = LossConfig { mix_smoothing: 0.05, images_at_a_time, ..LossConfig::default() };
    let learner = Learner::new(sizes, with_momentum, 0.0);
    let views: Vec<Views> = (0..world_size).map(|_| Views::new(sizes)).collect();
    let whole = Whole::of(&learner, &views, &config);
    let of_each = views.into_iter().map(|views| (learner.copy(), views)).collect();
    let parts = ranks_with(of_each, |group, (learner, views)| Part::of(&group, &learner, &views, &config));
    (whole, parts)
}

fn check(sizes: Sizes, with_momentum: bool, images_at_a_time: Option<i64>) {
    for world_size in [2, 3] {
        let (whole, parts) = step(world_size, sizes, with_momentum, images_at_a_time);
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
fn ranks_that_work_through_their_part_bit_by_bit_learn_what_one_process_learns() {
    check(EVEN, false, Some(2));
    check(EVEN, true, Some(2));
}

/// A step brings to the other ranks: every gradient once, every key once, and of each batch normalisation the sums of the
/// values and of their squares, and on the way back their gradients. Nothing else; and nothing that grows with the ranks.
#[test]
fn a_step_sends_what_it_needs_and_no_more() {
    const DOUBLE: u64 = 8;
    let (hidden, output) = (HEADS.hidden as u64, HEADS.output as u64);
    let (projector, predictor) = (2 * hidden + output, hidden + output); // columns that are normalised
    for world_size in [2, 3] {
        for (sizes, with_momentum) in [(GLOBAL_ALONE, false), (GLOBAL_ALONE, true), (EVEN, false), (EVEN, true)] {
            let (whole, parts) = step(world_size, sizes, with_momentum, None);
            let gradients: usize = whole.gradients.values().map(Tensor::numel).sum();
            // Plain and mixed queries of the global views, and of all local views together.
            let queries = if sizes.views > 0 { 4 } else { 2 };
            let keys = if with_momentum { 3 } else { 2 }; // without one, the first is a query's projection
            let sums = 2 * (2 * queries * (projector + predictor) + keys * projector);
            let expected = Bytes {
                all_reduce: DOUBLE * (gradients as u64 + sums),
                all_gather: DOUBLE * 3 * BATCH as u64 * output,
                broadcast: 0,
            };
            for part in parts {
                assert_eq!(part.bytes, expected, "{world_size} ranks, {queries} kinds of query, {keys} of key");
            }
        }
    }
}
