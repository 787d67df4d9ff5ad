//! Several ranks: threads that bring each other tensors.

use std::cell::Cell;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;

use patchmix::contrast::LossConfig;
use patchmix::{Ranks, Result};
use tch::Tensor;

use crate::plain::{of_model, plain_losses};
use crate::scene::{EVEN, Learner, Sizes, Tensors, UNEVEN, Views, assert_all_close, generator, set, values};

/// A rank in a thread of its own. Tensors travel with their graph, so one backward pass goes through all ranks.
struct Thread {
    rank: usize,
    to_others: Vec<Sender<Tensor>>,
    from_others: Vec<Receiver<Tensor>>,
    gathered: Cell<usize>,
}

impl Thread {
    fn all(world_size: usize) -> Vec<Thread> {
        let mut receivers: Vec<Vec<Receiver<Tensor>>> = (0..world_size).map(|_| Vec::new()).collect();
        let mut senders: Vec<Vec<Sender<Tensor>>> = Vec::new();
        for _ in 0..world_size {
            let (of_rank, to_ranks): (Vec<_>, Vec<_>) = (0..world_size).map(|_| channel()).unzip();
            senders.push(of_rank);
            to_ranks.into_iter().enumerate().for_each(|(to, receiver)| receivers[to].push(receiver));
        }
        let parts = senders.into_iter().zip(receivers).enumerate();
        parts
            .map(|(rank, (to_others, from_others))| Thread { rank, to_others, from_others, gathered: Cell::new(0) })
            .collect()
    }

    /// The tensors of all ranks. A rank that panicked has hung up, and then this one panics too.
    fn exchange(&self, tensor: &Tensor) -> Vec<Tensor> {
        self.to_others.iter().for_each(|other| other.send(tensor.shallow_clone()).unwrap());
        self.from_others.iter().map(|other| other.recv().unwrap()).collect()
    }
}

impl Ranks for Thread {
    fn rank(&self) -> i64 {
        self.rank as i64
    }

    fn world_size(&self) -> i64 {
        self.to_others.len() as i64
    }

    fn gather(&self, rows: &Tensor) -> Result<Tensor> {
        assert!(!rows.requires_grad());
        self.gathered.set(self.gathered.get() + 1);
        Ok(Tensor::cat(&self.exchange(rows), 0))
    }

    fn sum(&self, tensor: &Tensor) -> Result<Tensor> {
        Ok(self.exchange(tensor).iter().sum())
    }
}

/// What the ranks make of their views, each with a learner of its own: its losses, and the learner.
fn run(learner: &Learner, views: Vec<Views>, config: &LossConfig) -> (Vec<Tensors>, Vec<Learner>) {
    let ranks = Thread::all(views.len()).into_iter().zip(views);
    let ranks: Vec<_> = ranks.map(|(rank, views)| (rank, views, learner.copy())).collect();
    thread::scope(|scope| {
        let run = |(rank, views, learner): (Thread, Views, Learner)| {
            let losses = values(&learner.losses(&views, Some(&rank), config));
            assert_eq!(rank.gathered.get(), 3, "keys are gathered once a step");
            (losses, learner)
        };
        let threads: Vec<_> = ranks.into_iter().map(|rank| scope.spawn(move || run(rank))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).unzip()
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

/// The mean of the ranks' losses, its gradient (the mean of the ranks' gradients) and the running statistics of each
/// are those of one process that has all images: keys of all are negatives, statistics are over all.
#[test]
fn ranks_together_are_one_large_batch() {
    let _generator = generator();
    let config = LossConfig { mix_smoothing: 0.05, ..LossConfig::default() };
    for (world_size, sizes) in
        [(2, EVEN), (3, EVEN), (2, Sizes { groups: 3, ..UNEVEN }), (2, Sizes { views: 0, ..EVEN })]
    {
        for with_momentum in [false, true] {
            let learner = Learner::new(sizes, with_momentum, 0.0);
            let views: Vec<Views> = (0..world_size).map(|_| Views::new(sizes)).collect();
            let before = learner.statistics();
            let expected = plain_losses(&learner, &views, &config);
            let expected_gradients = learner.gradients(|| expected["total"].backward());
            let expected_statistics = of_model(learner.statistics());
            set(&learner.statistics_in_use(), &before);

            let (losses, learners) = run(&learner, views, &config);
            let mean = sum(losses.into_iter()).into_iter().map(|(name, sum)| (name, sum / world_size as f64)).collect();
            assert_all_close(&mean, &expected, 1e-10);
            mean["total"].backward();
            let gradients = learners.iter().map(|learner| {
                let trained = learner.store.variables().into_iter().filter(|(_, weight)| weight.grad().defined());
                trained.map(|(name, weight)| (name, weight.grad())).collect()
            });
            assert_all_close(&sum(gradients), &expected_gradients, 1e-10);
            for learner in &learners {
                assert_all_close(&of_model(learner.statistics()), &expected_statistics, 1e-12);
            }
        }
    }
}

/// A rank by itself trains as if there were no ranks, statistics included.
#[test]
fn one_rank_is_none() {
    let _generator = generator();
    for (with_momentum, images_at_a_time) in [(false, None), (true, None), (true, Some(2))] {
        let (learner, views) = (Learner::new(EVEN, with_momentum, 0.0), Views::new(EVEN));
        let config = LossConfig { images_at_a_time, ..LossConfig::default() };
        let before = learner.statistics();
        let expected = learner.losses(&views, None, &config);
        let expected_gradients = learner.gradients(|| expected.backward().unwrap());
        let expected_statistics = learner.statistics();
        set(&learner.statistics_in_use(), &before);
        let rank = Thread::all(1).remove(0);
        let actual = learner.losses(&views, Some(&rank), &config);
        assert_all_close(&values(&actual), &values(&expected), 1e-12);
        assert_all_close(&learner.gradients(|| actual.backward().unwrap()), &expected_gradients, 1e-10);
        assert_all_close(&learner.statistics(), &expected_statistics, 1e-12);
    }
}
