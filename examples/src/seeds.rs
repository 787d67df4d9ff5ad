//! Seeds for everything random in a program, so that a resumed run draws what an uninterrupted one would.

/// What a draw is for; draws for different purposes are independent. The numbers are part of the seeds: they stay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// Initial weights.
    Weights = 0,
    /// The first view of a batch.
    FirstView = 1,
    /// The second view of a batch.
    SecondView = 2,
    /// Whether a batch is mixed, and by how many groups.
    Groups = 3,
    /// Which positions belong to which group.
    Mix = 4,
    /// Drop path in the forward passes.
    Model = 5,
    /// The local views of a batch.
    LocalViews = 6,
    /// Crops that are cut out of image files ahead of the rest of a view.
    Crops = 7,
    /// The two views of test images whose features are compared.
    Alignment = 8,
}

/// A seed for [`tch::manual_seed`] from the run's seed, the place in the run and the purpose.
pub(crate) fn seed_for(seed: u64, epoch: u64, step: u64, purpose: Purpose) -> i64 {
    patchmix::random::seed_for(seed, &[epoch, step, purpose as u64])
}
