//! The collectives that training needs from a group of ranks, whatever the transport.

use tch::{Tensor, no_grad_guard};

use crate::error::{Result, check_defined, check_float, check_in};
use crate::numbers::scalar;

/// The ranks that train one model together, each on its own part of every batch.
///
/// All ranks call the same methods in the same order, with tensors of the same shape, kind and device type; every call
/// waits for the other ranks. An implementation needs `rank`, `world_size`, `gather` and `sum`; the other methods are
/// built on these, and can be replaced by faster ones.
pub trait Ranks {
    /// The number of this rank, from 0 to `world_size() - 1`.
    fn rank(&self) -> i64;

    /// How many ranks there are, at least 1.
    fn world_size(&self) -> i64;

    /// The rows `[B, ...]` of all ranks in rank order, `[world_size * B, ...]`, without gradient.
    /// The provided [`numbers`](Ranks::numbers) and [`barrier`](Ranks::barrier) call it with `Int64` on the CPU;
    /// implement both if the transport only takes tensors of a GPU.
    ///
    /// # Errors
    ///
    /// If another rank is missing, or calls with another shape.
    fn gather(&self, rows: &Tensor) -> Result<Tensor>;

    /// The sum of a tensor over all ranks, on every rank. The gradient flows back to all ranks: the gradients of the
    /// sums on all ranks add up to the gradient of the tensor on each rank.
    ///
    /// # Errors
    ///
    /// If another rank is missing, or calls with another shape.
    fn sum(&self, tensor: &Tensor) -> Result<Tensor>;

    /// Replaces every tensor by its average over all ranks, in place and without gradient. Meant for gradients.
    ///
    /// # Errors
    ///
    /// [`Error::Undefined`](crate::Error::Undefined) or [`Error::Kind`](crate::Error::Kind) unless all tensors have a
    /// floating-point kind: nothing is changed then; those of [`Ranks::sum`].
    fn average(&self, tensors: &[Tensor]) -> Result<()> {
        for tensor in tensors {
            check_defined("tensors", tensor)?;
            check_float("tensors", tensor)?;
        }
        let _no_grad = no_grad_guard();
        let world_size = scalar(self.world_size() as f64)?;
        for tensor in tensors {
            let average = self.sum(&tensor.f_detach()?)?.f_div(&world_size)?;
            tensor.shallow_clone().f_copy_(&average)?;
        }
        Ok(())
    }

    /// Replaces `tensor` by that of rank `from_rank`, in place and without gradient.
    ///
    /// # Errors
    ///
    /// [`Error::Value`](crate::Error::Value) if `from_rank` is out of range; those of [`Ranks::gather`].
    fn broadcast(&self, tensor: &mut Tensor, from_rank: i64) -> Result<()> {
        check_in("from_rank", from_rank, 0..self.world_size())?;
        check_defined("tensor", tensor)?;
        let _no_grad = no_grad_guard();
        let gathered = self.gather(&tensor.f_detach()?.f_unsqueeze(0)?)?; // [world_size, ...]
        tensor.f_copy_(&gathered.f_select(0, from_rank)?)?;
        Ok(())
    }

    /// One number from every rank, in rank order, for decisions of the program such as when to stop.
    ///
    /// # Errors
    ///
    /// Those of [`Ranks::gather`].
    fn numbers(&self, number: i64) -> Result<Vec<i64>> {
        let numbers = self.gather(&Tensor::f_from_slice(&[number])?)?;
        Ok(Vec::try_from(numbers)?)
    }

    /// Returns once all ranks have called it. It does not wait for work queued on GPUs.
    ///
    /// # Errors
    ///
    /// Those of [`Ranks::gather`].
    fn barrier(&self) -> Result<()> {
        self.numbers(0).map(drop)
    }

    /// Turns off the checks that all ranks make the same calls, if there are any.
    ///
    /// # Errors
    ///
    /// If another rank is missing, or makes another call.
    fn trust_ranks(&self) -> Result<()> {
        Ok(())
    }
}
