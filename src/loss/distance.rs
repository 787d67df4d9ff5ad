//! The negative-free form against soft targets: the distance of a query to the keys that it should match.

use tch::{Tensor, no_grad_guard};

use super::cross_entropy::{common_kind, normalize_rows, target_times_keys};
use super::{Keys, Target, check_queries_and_keys};
use crate::error::Result;
use crate::numbers::scalar;

impl Keys {
    /// The squared distance between normalized queries and keys, averaged with the target's weights: the form of BYOL
    /// and SimSiam, which has no negatives.
    ///
    /// `q` is `[B, D]`, `target` `[B, N]`. With rows of the target that sum to 1, the loss of row `i` is
    /// `Σ_j target[i, j] |q_i - k_j|² = 2 - 2 Σ_j target[i, j] cos(q_i, k_j)`, between 0 and 4. Returns the mean over
    /// the rows. A sparse target stays sparse, and memory does not grow with `B * N`.
    ///
    /// # Errors
    ///
    /// [`Error::Shape`](crate::Error::Shape), [`Error::Kind`](crate::Error::Kind) or
    /// [`Error::Device`](crate::Error::Device) if `q`, the keys and the target do not fit together.
    pub fn squared_distance<'a>(&self, q: &Tensor, target: impl Into<Target<'a>>) -> Result<Tensor> {
        check_queries_and_keys(q, &self.normalized)?;
        let kind = common_kind(q, &self.normalized)?;
        let (target_keys, row_sum) = {
            let _no_grad = no_grad_guard();
            target_times_keys(target.into(), q.size()[0], &self.normalized.f_to_kind(kind)?)?
        };
        let row_sum = match row_sum {
            Some(sum) => sum.f_squeeze_dim(-1)?,
            None => scalar(1.0)?.f_to_kind(kind)?,
        };
        let cosine = normalize_rows(q, kind)?.f_mul(&target_keys)?.f_sum_dim_intlist(-1, false, None)?;
        let half = row_sum.f_sub(&cosine)?.f_mean(kind)?;
        Ok(half.f_mul(&scalar(2.0)?.f_to_kind(kind)?)?)
    }
}
