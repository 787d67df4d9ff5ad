//! Several ranks learn what one process learns from the whole batch.

use patchmix::contrast::LossConfig;

use crate::plain::plain_losses;
use crate::scene::{EVEN, Learner, Sizes, Tensors, UNEVEN, Views, assert_all_close, generator, set, values};
use crate::threads::{self, Thread};

/// The losses of every rank on its views, and its learner.
pub(crate) fn run(learner: &Learner, views: Vec<Views>, config: &LossConfig) -> Vec<(Tensors, Learner)> {
    let parts = views.into_iter().map(|views| (views, learner.copy())).collect();
    threads::run(parts, |rank: &Thread, (views, learner): (Views, Learner)| {
        let losses = values(&learner.losses(&views, Some(rank), config));
        (losses, learner)
    })
}

fn sum(tensors: impl Iterator<Item = Tensors>) -> Tensors {
    let add = |mut sum: Tensors, tensors: Tensors| {
        for (name, tensor) in tensors {
            let with = sum.get(&name).map_or(tensor.shallow_clone(), |sum| sum + &tensor);
            sum.insert(name, with);
        }
        sum
    };
    tensors.fold(Tensors::new(), add)
}

/// Compares ranks, each with its `views`, with a plain loop over all images.
pub(crate) fn compare(learner: &Learner, views: Vec<Views>, config: &LossConfig) {
    let world_size = views.len();
    let before = learner.statistics();
    let expected = plain_losses(learner, &views, config);
    let expected_gradients = learner.gradients(|| expected["total"].backward());
    let expected_statistics = learner.statistics();
    set(&learner.live_statistics(), &before);

    let (losses, learners): (Vec<Tensors>, Vec<Learner>) = run(learner, views, config).into_iter().unzip();
    let average = sum(losses.into_iter()).into_iter().map(|(name, sum)| (name, sum / world_size as f64)).collect();
    assert_all_close(&average, &expected, 1e-10);
    average["total"].backward();
    let gradients = learners.iter().map(|learner| {
        let trained = learner.store.variables().into_iter().filter(|(_, weight)| weight.grad().defined());
        trained.map(|(name, weight)| (name, weight.grad())).collect()
    });
    assert_all_close(&sum(gradients), &expected_gradients, 1e-10);
    for learner in &learners {
        assert_all_close(&learner.statistics(), &expected_statistics, 1e-12);
    }
}

/// The average of the ranks' losses, its gradient (the average of the ranks' gradients) and the running statistics of
/// each rank equal those of one process with all images: negatives and statistics are those of all ranks.
#[test]
fn ranks_learn_what_one_process_learns() {
    let _generator = generator();
    let config = LossConfig { mix_smoothing: 0.05, ..LossConfig::default() };
    for (world_size, sizes) in
        [(2, EVEN), (3, EVEN), (2, Sizes { groups: 3, ..UNEVEN }), (2, Sizes { views: 0, ..EVEN })]
    {
        for with_momentum in [false, true] {
            let learner = Learner::new(sizes, with_momentum, 0.0);
            let views: Vec<Views> = (0..world_size).map(|_| Views::new(sizes)).collect();
            compare(&learner, views, &config);
        }
    }
}

/// A group of one rank trains like a single process, statistics included.
#[test]
fn one_rank_trains_like_a_single_process() {
    let _generator = generator();
    for (with_momentum, micro_batch) in [(false, None), (true, None), (true, Some(2))] {
        let (learner, views) = (Learner::new(EVEN, with_momentum, 0.0), Views::new(EVEN));
        let config = LossConfig { micro_batch, ..LossConfig::default() };
        let before = learner.statistics();
        let expected = learner.losses(&views, None, &config);
        let expected_gradients = learner.gradients(|| expected.backward().unwrap());
        let expected_statistics = learner.statistics();
        set(&learner.live_statistics(), &before);
        let rank = Thread::all(1).remove(0);
        let actual = learner.losses(&views, Some(&rank), &config);
        assert_all_close(&values(&actual), &values(&expected), 1e-12);
        assert_all_close(&learner.gradients(|| actual.backward().unwrap()), &expected_gradients, 1e-10);
        assert_all_close(&learner.statistics(), &expected_statistics, 1e-12);
    }
}
