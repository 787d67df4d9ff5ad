//! Bindings to `csrc`: `kernels.cpp` here, the other files in the modules below. Together with `distributed::native`,
//! the only place with unsafe code.
//!
//! The functions here check everything that the C++ side and libtorch's fused kernels assume.

#![allow(unsafe_code)]

pub(crate) mod add_norm;
pub(crate) mod backend;
pub(crate) mod gpu;
pub(crate) mod layers;
pub(crate) mod memory;
#[cfg(feature = "profile")]
pub(crate) mod profile;
pub(crate) mod views;

use std::ffi::{CStr, c_char};
use std::ptr;
use std::sync::atomic::AtomicBool;

use tch::{Device, Kind, TchError, Tensor};
use torch_sys::C_tensor;

use crate::error::{Error, Result, check_defined, check_device, check_shape};

unsafe extern "C" {
    fn patchmix_free_message(message: *mut c_char);
    fn patchmix_mix(
        mixed: *mut *mut C_tensor,
        batch: *const C_tensor,
        group_of_piece: *const i64,
        pieces: i64,
        shift_of_group: *const i64,
        groups: i64,
        piece_elements: i64,
    ) -> *mut c_char;
    fn patchmix_adamw(
        weights: *const *const C_tensor,
        means: *const *const C_tensor,
        mean_squares: *const *const C_tensor,
        count: usize,
        steps: *const C_tensor,
        found_inf: *const C_tensor,
        learning_rate: f64,
        beta_1: f64,
        beta_2: f64,
        weight_decay: f64,
        epsilon: f64,
    ) -> *mut c_char;
    fn patchmix_gradient_norm(norm: *mut *mut C_tensor, weights: *const *const C_tensor, count: usize) -> *mut c_char;
    fn patchmix_forget_gradients(weights: *const *const C_tensor, count: usize) -> *mut c_char;
    fn patchmix_lerp(
        starts: *const *const C_tensor,
        ends: *const *const C_tensor,
        count: usize,
        share: f64,
    ) -> *mut c_char;
    fn patchmix_mean_of_rows(
        loss: *mut *mut C_tensor,
        query: *const C_tensor,
        row_losses: *const C_tensor,
        slope: *const C_tensor,
    ) -> *mut c_char;
}

/// See [`allow_own_kernels`](crate::backend::allow_own_kernels).
pub(crate) static ALLOWED: AtomicBool = AtomicBool::new(true);

/// Mixes `batch` `[B, ...]`, on the CPU and without gradient, in one pass over its memory.
///
/// An image consists of pieces of `piece_elements` contiguous elements. Piece `p` of mixed image `i` comes from image
/// `(i + shift_of_group[group_of_piece[p mod pieces]]) mod B`. Shifts are in `0..B`.
pub(crate) fn mix(
    batch: &Tensor,
    group_of_piece: &[i64],
    shift_of_group: &[i64],
    piece_elements: i64,
) -> Result<Tensor> {
    check_device("batch", batch, Device::Cpu)?;
    let (pieces, groups) = (group_of_piece.len() as i64, shift_of_group.len() as i64);
    let batch_size = batch.size()[0];
    let in_bounds = |values: &[i64], end: i64| values.iter().all(|value| (0..end).contains(value));
    let image_elements: i64 = batch.size()[1..].iter().product();
    let divides = pieces > 0 && piece_elements > 0 && image_elements % (pieces * piece_elements) == 0;
    if !(divides && in_bounds(group_of_piece, groups) && in_bounds(shift_of_group, batch_size)) {
        let expected = format!("[B, ...] of {pieces} pieces of {piece_elements} elements in {groups} groups");
        return Err(Error::Shape { name: "batch", expected, actual: batch.size() });
    }
    let mut mixed = ptr::null_mut();
    // SAFETY: the pointers are to a live tensor and to slices of the given lengths, which are only read. The indices
    // and the size of an image were checked above, so the copies stay within batch and result.
    let message = unsafe {
        patchmix_mix(
            &mut mixed,
            batch.as_ptr(),
            group_of_piece.as_ptr(),
            pieces,
            shift_of_group.as_ptr(),
            groups,
            piece_elements,
        )
    };
    check(message)?;
    new_tensor(mixed)
}

/// The weights and state that one kernel of [`adamw`] updates: lists of the same length, at least 1, and the same
/// shapes.
#[derive(Debug, Default)]
pub(crate) struct AdamWTensors<'a> {
    pub(crate) weights: Vec<&'a Tensor>,
    pub(crate) means: Vec<&'a Tensor>,
    pub(crate) mean_squares: Vec<&'a Tensor>,
}

impl AdamWTensors<'_> {
    /// An error unless the tensors fulfill the assumptions of the fused kernel.
    fn check(&self) -> Result<()> {
        let AdamWTensors { weights, means, mean_squares } = self;
        check_like(weights, &[means, mean_squares])?;
        for weight in weights {
            check_gradient(weight)?;
            check_kind("weights", weight, weights[0].f_kind()?)?;
            check_device("weights", weight, weights[0].device())?;
        }
        for tensor in weights.iter().chain(means).chain(mean_squares) {
            if !tensor.is_contiguous() {
                return Err(Error::NotContiguous { name: "weights" });
            }
        }
        Ok(())
    }
}

/// The hyperparameters of one step of AdamW.
#[derive(Debug, Clone, Copy)]
pub(crate) struct AdamWRates {
    pub(crate) learning_rate: f64,
    pub(crate) beta_1: f64,
    pub(crate) beta_2: f64,
    pub(crate) weight_decay: f64,
    pub(crate) epsilon: f64,
}

/// One AdamW step with the weights' gradients, in one kernel per group; every weight must have a gradient.
///
/// `steps` (this one included) and `found_inf` are `Float` scalars on the device of the weights. If `found_inf` holds
/// 1, nothing is changed. All groups are checked before the first is changed.
pub(crate) fn adamw(groups: &[(AdamWTensors<'_>, AdamWRates)], steps: &Tensor, found_inf: &Tensor) -> Result<()> {
    for (tensors, _) in groups {
        tensors.check()?;
        for scalar in [steps, found_inf] {
            check_shape("steps or found_inf", scalar, &[])?;
            check_device("steps or found_inf", scalar, tensors.weights[0].device())?;
            check_kind("steps or found_inf", scalar, Kind::Float)?;
        }
    }
    for (AdamWTensors { weights, means, mean_squares }, rates) in groups {
        let (weights, means, mean_squares) = (pointers(weights), pointers(means), pointers(mean_squares));
        // SAFETY: three lists of `weights.len()` live, contiguous tensors of equal shapes, kinds and devices; each
        // weight has a gradient of its shape. The C++ side writes to them like tch's own in-place operations.
        let message = unsafe {
            patchmix_adamw(
                weights.as_ptr(),
                means.as_ptr(),
                mean_squares.as_ptr(),
                weights.len(),
                steps.as_ptr(),
                found_inf.as_ptr(),
                rates.learning_rate,
                rates.beta_1,
                rates.beta_2,
                rates.weight_decay,
                rates.epsilon,
            )
        };
        check(message)?;
    }
    Ok(())
}

/// The L2 norm of the gradients of all weights together. There must be a weight, and every weight must have a gradient.
pub(crate) fn gradient_norm(weights: &[&Tensor]) -> Result<Tensor> {
    weights.iter().try_for_each(|weight| check_gradient(weight))?;
    let weights = pointers(weights);
    let mut norm = ptr::null_mut();
    // SAFETY: a list of live tensors, which are only read; each has a gradient.
    check(unsafe { patchmix_gradient_norm(&mut norm, weights.as_ptr(), weights.len()) })?;
    new_tensor(norm)
}

/// Drops gradients: the next backward pass allocates new ones instead of adding to zeros.
pub(crate) fn drop_gradients(weights: &[&Tensor]) -> Result<()> {
    let weights = pointers(weights);
    // SAFETY: a list of live, defined tensors; the memory of a gradient is freed by its last owner.
    check(unsafe { patchmix_forget_gradients(weights.as_ptr(), weights.len()) })
}

/// `start += share * (end - start)` for every pair.
pub(crate) fn lerp(starts: &[&Tensor], ends: &[&Tensor], share: f64) -> Result<()> {
    check_like(starts, &[ends])?;
    if starts.is_empty() {
        return Ok(());
    }
    let (starts, ends) = (pointers(starts), pointers(ends));
    // SAFETY: two lists of `starts.len()` live tensors of equal shapes, kinds and devices.
    check(unsafe { patchmix_lerp(starts.as_ptr(), ends.as_ptr(), starts.len(), share) })
}

/// The mean of `row_losses` `[B, 1]`, whose gradient with respect to `query` `[B, D]` is `slope / B`. A second
/// derivative is an error.
pub(crate) fn mean_of_rows(query: &Tensor, row_losses: &Tensor, slope: &Tensor) -> Result<Tensor> {
    check_like(&[query], &[&[slope]])?;
    check_shape("row_losses", row_losses, &[("B", Some(query.size()[0])), ("1", Some(1))])?;
    let mut loss = ptr::null_mut();
    // SAFETY: pointers to live tensors, which are only read; query and slope have one shape.
    check(unsafe { patchmix_mean_of_rows(&mut loss, query.as_ptr(), row_losses.as_ptr(), slope.as_ptr()) })?;
    new_tensor(loss)
}

fn pointers(tensors: &[&Tensor]) -> Vec<*const C_tensor> {
    tensors.iter().map(|tensor| tensor.as_ptr()).collect()
}

/// Takes ownership of the tensor that a successful call has stored in `made`.
pub(crate) fn new_tensor(made: *mut C_tensor) -> Result<Tensor> {
    if made.is_null() {
        return Err(TchError::Torch("the call returned no tensor".to_owned()).into());
    }
    // SAFETY: allocated with `new` on the C++ side, which keeps no pointer to it.
    Ok(unsafe { Tensor::from_ptr(made) })
}

/// An error if the C++ side returned a message.
fn check(message: *mut c_char) -> Result<()> {
    message_text(message).map_or(Ok(()), |text| Err(TchError::Torch(text).into()))
}

/// The text of a message from the C++ side, which is freed; `None` if the pointer is null.
pub(crate) fn message_text(message: *mut c_char) -> Option<String> {
    if message.is_null() {
        return None;
    }
    // SAFETY: NUL-terminated; allocated for us, or the static out-of-memory text. Copied, then freed once.
    unsafe {
        let text = CStr::from_ptr(message).to_string_lossy().into_owned();
        patchmix_free_message(message);
        Some(text)
    }
}

/// An error unless every list has the length of `tensors` and the same shapes, kinds and devices.
fn check_like(tensors: &[&Tensor], lists: &[&[&Tensor]]) -> Result<()> {
    for other in lists {
        if other.len() != tensors.len() {
            let expected = format!("{}, as many as in the first list", tensors.len());
            return Err(Error::Value { name: "number of tensors", expected, actual: other.len() as f64 });
        }
        for (tensor, other) in tensors.iter().zip(other.iter()) {
            if tensor.size() != other.size() {
                let expected = format!("{:?}", tensor.size());
                return Err(Error::Shape { name: "tensor", expected, actual: other.size() });
            }
            check_kind("tensor", other, tensor.f_kind()?)?;
            check_device("tensor", other, tensor.device())?;
        }
    }
    Ok(())
}

fn check_gradient(weight: &Tensor) -> Result<()> {
    let gradient = weight.grad();
    check_defined("gradient", &gradient)?;
    check_device("gradient", &gradient, weight.device())?;
    check_kind("gradient", &gradient, weight.f_kind()?)?;
    if gradient.size() == weight.size() {
        return Ok(());
    }
    Err(Error::Shape { name: "gradient", expected: format!("{:?}", weight.size()), actual: gradient.size() })
}

fn check_kind(name: &'static str, tensor: &Tensor, kind: Kind) -> Result<()> {
    let actual = tensor.f_kind()?;
    if actual == kind { Ok(()) } else { Err(Error::Kind { name, expected: "of the same dtype as the others", actual }) }
}
