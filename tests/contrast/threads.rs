//! Ranks that are threads of the test.

use std::cell::Cell;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;

use patchmix::{Ranks, Result};
use tch::Tensor;

/// A rank in a thread of its own. Tensors are sent with their graph, so one backward pass covers all ranks.
pub(crate) struct Thread {
    rank: usize,
    to_others: Vec<Sender<Tensor>>,
    from_others: Vec<Receiver<Tensor>>,
    gathered: Cell<usize>,
    summed: Cell<usize>,
}

impl Thread {
    pub(crate) fn all(world_size: usize) -> Vec<Thread> {
        let mut receivers: Vec<Vec<Receiver<Tensor>>> = (0..world_size).map(|_| Vec::new()).collect();
        let mut senders: Vec<Vec<Sender<Tensor>>> = Vec::new();
        for _ in 0..world_size {
            let (from_rank, to_ranks): (Vec<_>, Vec<_>) = (0..world_size).map(|_| channel()).unzip();
            senders.push(from_rank);
            for (to, receiver) in to_ranks.into_iter().enumerate() {
                receivers[to].push(receiver);
            }
        }
        let thread = |(rank, (to_others, from_others))| Thread {
            rank,
            to_others,
            from_others,
            gathered: Cell::new(0),
            summed: Cell::new(0),
        };
        senders.into_iter().zip(receivers).enumerate().map(thread).collect()
    }

    /// How often this rank has called `gather`.
    pub(crate) fn gathered(&self) -> usize {
        self.gathered.get()
    }

    /// How often this rank has called `sum`: once for each batch normalization that it has passed.
    pub(crate) fn summed(&self) -> usize {
        self.summed.get()
    }

    /// A function of the tensors of all ranks. They share memory, so no rank may go on and write to its own tensor
    /// before all have read it.
    fn combine(&self, tensor: &Tensor, function: impl FnOnce(&[Tensor]) -> Tensor) -> Tensor {
        let result = function(&self.exchange(tensor));
        self.exchange(&Tensor::new());
        result
    }

    /// The tensors of all ranks. Panics if another rank has panicked and hung up.
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
        Ok(self.combine(rows, |rows| Tensor::cat(rows, 0)))
    }

    fn sum(&self, tensor: &Tensor) -> Result<Tensor> {
        self.summed.set(self.summed.get() + 1);
        Ok(self.combine(tensor, |tensors| tensors.iter().sum()))
    }
}

/// Runs `part` on every rank, each with a value of its own, and returns the results in rank order.
pub(crate) fn run<V: Send, T: Send>(values: Vec<V>, part: impl Fn(&Thread, V) -> T + Sync) -> Vec<T> {
    let part = &part;
    thread::scope(|scope| {
        let ranks = Thread::all(values.len()).into_iter().zip(values);
        let threads: Vec<_> = ranks.map(|(rank, value)| scope.spawn(move || part(&rank, value))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    })
}
