//! Numbers, ranges and small lists as tensors.
//!
//! tch's `Scalar` panics when it is dropped while an error is pending, so every `f_` function that takes one panics
//! instead of returning the error. Operations that can fail, for example for lack of memory, therefore take a number
//! as a tensor from here, or work in place on existing memory.

use tch::{Device, Kind, Tensor};

use crate::error::Result;
use crate::native::memory;

/// `value` as a tensor without dimensions. It works with tensors on any device, and does not change the floating-point
/// kind of a tensor that has dimensions.
pub(crate) fn scalar(value: f64) -> Result<Tensor> {
    Ok(Tensor::f_from_slice(&[value])?.f_squeeze()?)
}

/// `0..length`.
pub(crate) fn range(length: i64, device: Device) -> Result<Tensor> {
    let options = (Kind::Int64, device);
    // `f_arange` takes scalars. This allocation fails in its place; the range then reuses the memory.
    drop(Tensor::f_empty([length], options)?);
    Ok(Tensor::f_arange(length, options)?)
}

/// `Float` `[B, classes]` with a 1 at each of the `labels` `[B]`. A label out of range gives a row of zeros.
pub(crate) fn one_hot(labels: &Tensor, classes: i64) -> Result<Tensor> {
    Ok(labels.f_unsqueeze(1)?.f_eq_tensor(&range(classes, labels.device())?)?.f_to_kind(Kind::Float)?)
}

/// A CPU tensor on `device`, without waiting for work queued on a GPU.
pub(crate) fn to_device(tensor: &Tensor, device: Device) -> Result<Tensor> {
    match (tensor.device(), device) {
        (Device::Cpu, Device::Cuda(index)) => memory::upload(tensor, index),
        _ => Ok(tensor.f_to_device(device)?),
    }
}
