//! Calls into `csrc`, which does what tch does not bind: here `kernels.cpp`, in the modules below the other files. With
//! `dist::native`, the one place with unsafe code.
//!
//! The functions here check what the C++ side and libtorch's fused kernels take on trust.

#![allow(unsafe_code)]

pub(crate) mod add_norm;
pub(crate) mod backend;
pub(crate) mod memory;
#[cfg(feature = "profile")]
pub(crate) mod profile;

use std::ffi::{CStr, c_char};
use std::ptr;

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
}

/// Mixes `batch` `[B, ...]`, on the CPU and without gradient, in one pass over its memory.
///
/// An image is cut into pieces of `piece_elements` neighbouring elements; piece `p` of mixed image `i` is that of image
/// `(i + shift_of_group[group_of_piece[p mod pieces]]) mod B`. Shifts lie in `0..B`.
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
    // SAFETY: the pointers are those of a living tensor and of slices of the lengths given, which are only read; the
    // indices in them and the size of an image were checked above, so the copies stay within batch and result.
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

/// The weights and state that one kernel of [`adamw`] updates: as many tensors each, at least one, of the same shapes.
#[derive(Debug, Default)]
pub(crate) struct AdamWTensors<'a> {
    pub(crate) weights: Vec<&'a Tensor>,
    pub(crate) means: Vec<&'a Tensor>,
    pub(crate) mean_squares: Vec<&'a Tensor>,
}

impl AdamWTensors<'_> {
    /// An error unless [`adamw`] takes them.
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
                let expected = "contiguous memory, as a VarStore makes it".to_owned();
                return Err(Error::Shape { name: "weights", expected, actual: tensor.size() });
            }
        }
        Ok(())
    }
}

/// Numbers of one step of AdamW.
#[derive(Debug, Clone, Copy)]
pub(crate) struct AdamWRates {
    pub(crate) learning_rate: f64,
    pub(crate) beta_1: f64,
    pub(crate) beta_2: f64,
    pub(crate) weight_decay: f64,
    pub(crate) epsilon: f64,
}

/// AdamW for every group of weights in one kernel each, with the gradients that they hold; every weight must have one.
///
/// `steps`, this one included, and `found_inf` are scalars of kind `Float` on the device of the weights; where
/// `found_inf` holds 1, nothing is changed. All groups are checked before the first is changed.
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
        // SAFETY: three lists of `weights.len()` living tensors whose shapes, kinds and devices agree, contiguous, each
        // weight with a gradient of its shape; the C++ side writes through them as tch's own in-place operations do.
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

/// The L2 norm of the gradients of all weights together; every weight must have one, and there must be a weight.
pub(crate) fn gradient_norm(weights: &[&Tensor]) -> Result<Tensor> {
    weights.iter().try_for_each(|weight| check_gradient(weight))?;
    let weights = pointers(weights);
    let mut norm = ptr::null_mut();
    // SAFETY: a list of living tensors, which are only read; each has a gradient.
    check(unsafe { patchmix_gradient_norm(&mut norm, weights.as_ptr(), weights.len()) })?;
    new_tensor(norm)
}

/// Forgets gradients: the next backward pass makes new ones instead of adding to zeros.
pub(crate) fn forget_gradients(weights: &[&Tensor]) -> Result<()> {
    let weights = pointers(weights);
    // SAFETY: a list of living, defined tensors; what a gradient's memory holds is freed by its last owner.
    check(unsafe { patchmix_forget_gradients(weights.as_ptr(), weights.len()) })
}

/// `start += share * (end - start)` for every pair.
pub(crate) fn lerp(starts: &[&Tensor], ends: &[&Tensor], share: f64) -> Result<()> {
    check_like(starts, &[ends])?;
    if starts.is_empty() {
        return Ok(());
    }
    let (starts, ends) = (pointers(starts), pointers(ends));
    // SAFETY: two lists of `starts.len()` living tensors whose shapes, kinds and devices agree.
    check(unsafe { patchmix_lerp(starts.as_ptr(), ends.as_ptr(), starts.len(), share) })
}

fn pointers(tensors: &[&Tensor]) -> Vec<*const C_tensor> {
    tensors.iter().map(|tensor| tensor.as_ptr()).collect()
}

/// The tensor that a successful call has put at `made`.
pub(crate) fn new_tensor(made: *mut C_tensor) -> Result<Tensor> {
    if made.is_null() {
        return Err(TchError::Torch("no tensor was made".to_owned()).into());
    }
    // SAFETY: the C++ side has made it with `new`, and keeps no pointer to it.
    Ok(unsafe { Tensor::from_ptr(made) })
}

/// The message of the C++ side as an error.
fn check(message: *mut c_char) -> Result<()> {
    message_text(message).map_or(Ok(()), |text| Err(TchError::Torch(text).into()))
}

/// What a function of the C++ side has answered, which is handed back: nothing if all went well.
pub(crate) fn message_text(message: *mut c_char) -> Option<String> {
    if message.is_null() {
        return None;
    }
    // SAFETY: a string ended by a zero, made for us or standing for want of memory; copied before it is handed back,
    // once.
    unsafe {
        let text = CStr::from_ptr(message).to_string_lossy().into_owned();
        patchmix_free_message(message);
        Some(text)
    }
}

/// Every list as long as `tensors`, with the same shapes, kinds and devices.
fn check_like(tensors: &[&Tensor], lists: &[&[&Tensor]]) -> Result<()> {
    for other in lists {
        if other.len() != tensors.len() {
            let (expected, actual) = (format!("{} tensors", tensors.len()), vec![other.len() as i64]);
            return Err(Error::Shape { name: "a list of tensors", expected, actual });
        }
        for (tensor, other) in tensors.iter().zip(other.iter()) {
            if tensor.size() != other.size() {
                let expected = format!("{:?}", tensor.size());
                return Err(Error::Shape { name: "a list of tensors", expected, actual: other.size() });
            }
            check_kind("a list of tensors", other, tensor.f_kind()?)?;
            check_device("a list of tensors", other, tensor.device())?;
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
    if actual == kind { Ok(()) } else { Err(Error::Kind { name, expected: "one kind for all", actual }) }
}
