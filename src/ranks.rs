//! What training needs of the other ranks of a run, whoever carries it there.

use tch::Tensor;

use crate::error::Result;

/// The ranks that train one model together, each on its own part of every batch.
///
/// All ranks call the same methods in the same order, with tensors of the same shape, kind and device type: each of them
/// waits for the others.
pub trait Ranks {
    /// The number of this rank, from 0 to `world_size() - 1`.
    fn rank(&self) -> i64;

    /// How many ranks there are, at least 1.
    fn world_size(&self) -> i64;

    /// The rows `[B, ...]` of all ranks in rank order, `[world_size * B, ...]`, without gradient.
    ///
    /// # Errors
    ///
    /// If another rank does not come, or comes with rows of another shape.
    fn gather(&self, rows: &Tensor) -> Result<Tensor>;

    /// The sum of a tensor over all ranks, on every rank. Gradient flows back to all of them: what reaches any rank's sum
    /// reaches, added up, the tensor of every rank.
    ///
    /// # Errors
    ///
    /// If another rank does not come, or comes with a tensor of another shape.
    fn sum(&self, tensor: &Tensor) -> Result<Tensor>;
}
