//! Exponential moving average of weights.

use std::collections::{HashMap, HashSet};

use tch::nn::VarStore;
use tch::{TchError, Tensor, no_grad_guard};

use crate::error::{Error, Result, check_in};
use crate::native;

/// Updates an exponential moving average: `average = decay * average + (1 - decay) * weight` for every variable of
/// `average` whose counterpart in `model_store` is trainable. Others, such as the statistics of a BatchNorm, stay as
/// they are.
///
/// # Errors
///
/// [`Error::Value`] unless `0 <= decay <= 1`; [`Error::Torch`] if a variable of `average` is missing in `model_store`;
/// [`Error::Shape`], [`Error::Kind`] or [`Error::Device`] if it differs there. Nothing is changed then.
pub fn average_weights(average: &VarStore, model_store: &VarStore, decay: f64) -> Result<()> {
    check_in("decay", decay, 0.0..=1.0)?;
    let _no_grad = no_grad_guard();
    let source = model_store.variables();
    let copies = average.variables();
    let (mut moving, mut weights) = (Vec::new(), Vec::new());
    let mut seen = HashSet::new(); // a weight shared under two names moves once
    for (name, copy) in &copies {
        let weight = counterpart(&source, name, copy)?;
        if weight.requires_grad() && seen.insert((copy.data_ptr(), copy.size(), copy.stride())) {
            moving.push(copy);
            weights.push(weight.f_to_device(copy.device())?.f_to_kind(copy.f_kind()?)?);
        }
    }
    native::lerp(&moving, &weights.iter().collect::<Vec<_>>(), 1.0 - decay)
}

/// The variable `name` of `model`, which must have the shape of `copy`: libtorch would broadcast a smaller one.
pub(crate) fn counterpart<'a>(model: &'a HashMap<String, Tensor>, name: &str, copy: &Tensor) -> Result<&'a Tensor> {
    let missing = || TchError::TensorNameNotFound(name.to_owned(), "model_store".to_owned());
    let variable = model.get(name).ok_or_else(missing)?;
    if variable.size() != copy.size() {
        let expected = format!("{:?} for {name}", copy.size());
        return Err(Error::Shape { name: "model_store", expected, actual: variable.size() });
    }
    Ok(variable)
}
