//! Numbers and copies for tensor operations that return errors.
//!
//! tch's `f_` functions that take a `Scalar` panic where they should fail, so numbers go in as tensors.

use tch::{TchError, Tensor};

/// `value` without dimensions, on the CPU; meeting tensors of a GPU costs no copy and no wait.
pub(crate) fn scalar(value: f64) -> Result<Tensor, TchError> {
    Tensor::f_from_slice(&[value])?.f_squeeze()
}

/// A copy in memory of its own, on the same device.
pub(crate) fn copied(tensor: &Tensor) -> Result<Tensor, TchError> {
    tensor.f_detach_copy()
}
