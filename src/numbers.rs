//! Single numbers, ranges and small lists for tensor operations.
//!
//! tch's `Scalar` panics when it is dropped while an error is pending, so every `f_` function that takes one panics
//! where it should fail. Operations that may fail, above all for want of memory, therefore take a number as a tensor
//! from here, or work in place on memory that is there already.

use tch::{Device, Kind, Tensor};

use crate::error::Result;
use crate::native::memory;

/// `value` without dimensions. It does not change the kind of the floating-point tensors it meets, nor their device.
pub(crate) fn scalar(value: f64) -> Result<Tensor> {
    Ok(Tensor::f_from_slice(&[value])?.f_squeeze()?)
}

/// `0..length`.
pub(crate) fn range(length: i64, device: Device) -> Result<Tensor> {
    let options = (Kind::Int64, device);
    // Fails where there is no such device, or not the memory, which the range itself then takes over.
    drop(Tensor::f_empty([length], options)?);
    Ok(Tensor::f_arange(length, options)?)
}

/// `Float` `[B, classes]` with a 1 at each of the `labels` `[B]`; a row of zeros for a label that is none.
pub(crate) fn one_hot(labels: &Tensor, classes: i64) -> Result<Tensor> {
    Ok(labels.f_unsqueeze(1)?.f_eq_tensor(&range(classes, labels.device())?)?.f_to_kind(Kind::Float)?)
}

/// A tensor of the CPU on `device`, without waiting for the work that a GPU has yet to do.
pub(crate) fn to_device(tensor: &Tensor, device: Device) -> Result<Tensor> {
    match (tensor.device(), device) {
        (Device::Cpu, Device::Cuda(index)) => memory::upload(tensor, index),
        _ => Ok(tensor.f_to_device(device)?),
    }
}
