//! AdamW (Loshchilov and Hutter, 2019).

use std::collections::{HashMap, HashSet};

use tch::nn::VarStore;
use tch::{Device, Kind, Tensor, no_grad_guard};

use crate::error::{Error, Result, check_defined, check_device, check_float, check_shape, check_value};
use crate::native::{self, AdamWRates, AdamWTensors};
use crate::numbers::{scalar, to_device};

const BETA_1: f64 = 0.9;
const BETA_2: f64 = 0.999;
const EPSILON: f64 = 1e-8;

/// Tensors of two or more dimensions decay, class token and position embedding included; biases, scales and shifts do
/// not.
const DECAYING_DIMENSIONS: usize = 2;

/// How a variable is updated.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct UpdateRule {
    /// Its learning rate as a multiple of the step's. Weight decay scales with the learning rate.
    pub rate: f64,
    /// Whether weight decay applies.
    pub decays: bool,
}

impl UpdateRule {
    /// The rule of pre-training: the step's rate for all, and weight decay for tensors of two or more dimensions, class
    /// token and position embedding included.
    pub fn of(weight: &Tensor) -> UpdateRule {
        UpdateRule { rate: 1.0, decays: weight.dim() >= DECAYING_DIMENSIONS }
    }
}

#[derive(Debug)]
struct Parameter {
    name: String,
    weight: Tensor,
    /// Running mean of the gradient.
    mean: Tensor,
    /// Running mean of the squared gradient.
    mean_square: Tensor,
}

impl Parameter {
    fn has_gradient(&self) -> bool {
        self.weight.grad().defined()
    }

    /// An error unless the weight still has the kind and the device of its state.
    fn check(&self) -> Result<()> {
        check_device("weights", &self.weight, self.mean.device())?;
        let (actual, kept) = (self.weight.f_kind()?, self.mean.f_kind()?);
        let expected = "of the dtype that the optimizer was made for";
        if actual == kept { Ok(()) } else { Err(Error::Kind { name: "weights", expected, actual }) }
    }
}

/// Parameters that one kernel updates together.
#[derive(Debug)]
struct Group {
    /// Their learning rate in multiples of the step's.
    rate: f64,
    decays: bool,
    kind: Kind,
    /// Positions in [`AdamW::parameters`].
    members: Vec<usize>,
}

impl Group {
    /// Puts the parameter at position `member` into the group of its settings.
    fn assign(groups: &mut Vec<Group>, member: usize, weight: &Tensor, rule: UpdateRule) -> Result<()> {
        let (UpdateRule { rate, decays }, kind) = (rule, weight.f_kind()?);
        let same =
            |group: &&mut Group| group.rate.to_bits() == rate.to_bits() && (group.decays, group.kind) == (decays, kind);
        match groups.iter_mut().find(same) {
            Some(group) => group.members.push(member),
            None => groups.push(Group { rate, decays, kind, members: vec![member] }),
        }
        Ok(())
    }

    fn rates(&self, learning_rate: f64, weight_decay: f64) -> AdamWRates {
        AdamWRates {
            learning_rate: self.rate * learning_rate,
            beta_1: BETA_1,
            beta_2: BETA_2,
            weight_decay: if self.decays { weight_decay } else { 0.0 },
            epsilon: EPSILON,
        }
    }
}

/// AdamW with the published decay groups: weights of two or more dimensions decay, biases and scales do not.
///
/// β = (0.9, 0.999), ε = 1e-8. Saving and restoring the state ([`AdamW::state`], [`AdamW::load_state`]) resumes a run
/// bit for bit.
#[derive(Debug)]
pub struct AdamW {
    /// In the order of their names, which is the same on every rank.
    parameters: Vec<Parameter>,
    groups: Vec<Group>,
    steps: u64,
}

impl AdamW {
    /// An optimizer for all trainable variables of `store`.
    ///
    /// # Errors
    ///
    /// [`Error::Unsupported`] unless the variables are on the CPU or a CUDA GPU; [`Error::Torch`] if there is no memory
    /// for the state.
    pub fn new(store: &VarStore) -> Result<AdamW> {
        AdamW::with_rules(store, |_, weight| UpdateRule::of(weight))
    }

    /// [`AdamW::new`] with a rule per variable, from its name in the `VarStore` and its weights.
    ///
    /// # Errors
    ///
    /// [`Error::Value`] for a rate that is negative or not finite; those of [`AdamW::new`].
    pub fn with_rules(store: &VarStore, rule: impl Fn(&str, &Tensor) -> UpdateRule) -> Result<AdamW> {
        check_supported(store.device())?;
        let mut variables: Vec<(String, Tensor)> =
            store.variables().into_iter().filter(|(_, variable)| variable.requires_grad()).collect();
        variables.sort_by(|(name, _), (other, _)| name.cmp(other)); // a hash map's order differs from run to run
        // A weight shared under two names must be stepped once.
        let mut seen = HashSet::new();
        variables.retain(|(_, weight)| weight.numel() == 0 || seen.insert(weight.data_ptr()));
        let _no_grad = no_grad_guard();
        let (mut parameters, mut groups) = (Vec::with_capacity(variables.len()), Vec::new());
        for (name, weight) in variables {
            let rule = rule(&name, &weight);
            check_value("rate", rule.rate, "at least 0 and finite", rule.rate >= 0.0 && rule.rate.is_finite())?;
            Group::assign(&mut groups, parameters.len(), &weight, rule)?;
            let (mean, mean_square) = (weight.f_zeros_like()?, weight.f_zeros_like()?);
            parameters.push(Parameter { name, weight, mean, mean_square });
        }
        Ok(AdamW { parameters, groups, steps: 0 })
    }

    /// The number of steps taken.
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// Drops all gradients; call it before every backward pass.
    pub fn zero_grad(&mut self) -> Result<()> {
        native::drop_gradients(&self.parameters.iter().map(|parameter| &parameter.weight).collect::<Vec<_>>())
    }

    /// Takes one step with the current gradients, in one kernel per group of equal settings. A weight without a
    /// gradient stays as it is, decay included; the bias correction counts all steps for all weights.
    ///
    /// # Errors
    ///
    /// [`Error::Value`] unless both rates are finite; [`Error::Kind`] or [`Error::Device`] if the `VarStore` has
    /// changed its kind or device since, [`Error::Shape`] if a weight or gradient has changed its shape,
    /// [`Error::NotContiguous`] if a weight is not contiguous. Nothing is changed then. [`Error::Torch`] if there is no
    /// memory for temporaries.
    pub fn step(&mut self, learning_rate: f64, weight_decay: f64) -> Result<()> {
        self.update(&Tensor::f_zeros([], (Kind::Float, self.device()))?, learning_rate, weight_decay)
    }

    /// [`AdamW::step`] if `healthy` holds 1. If it holds 0, weights and state stay as they are, whatever the gradients.
    ///
    /// `healthy` is a scalar on the device: whether the loss and [`AdamW::gradient_norm`] are finite, say. The host
    /// does not read it and so does not wait for the GPU; this is why a skipped step counts as a step.
    ///
    /// # Errors
    ///
    /// Those of [`AdamW::step`]; [`Error::Shape`] unless `healthy` is a scalar, [`Error::Device`] if it is on another
    /// device.
    pub fn step_if(&mut self, healthy: &Tensor, learning_rate: f64, weight_decay: f64) -> Result<()> {
        check_shape("healthy", healthy, &[])?;
        check_float("healthy", healthy)?;
        check_device("healthy", healthy, self.device())?;
        let unhealthy = healthy.f_logical_not()?.f_to_kind(Kind::Float)?;
        self.update(&unhealthy, learning_rate, weight_decay)
    }

    fn device(&self) -> Device {
        self.parameters.first().map_or(Device::Cpu, |parameter| parameter.weight.device())
    }

    fn update(&mut self, unhealthy: &Tensor, learning_rate: f64, weight_decay: f64) -> Result<()> {
        check_value("learning_rate", learning_rate, "finite", learning_rate.is_finite())?;
        check_value("weight_decay", weight_decay, "finite", weight_decay.is_finite())?;
        self.parameters.iter().try_for_each(Parameter::check)?;
        let steps = self.steps.saturating_add(1);
        let steps_on_device = to_device(&scalar(steps as f64)?.f_to_kind(Kind::Float)?, unhealthy.device())?;
        native::adamw(&self.updates(learning_rate, weight_decay), &steps_on_device, unhealthy)?;
        self.steps = steps;
        Ok(())
    }

    /// The parameters that have a gradient.
    fn with_gradient(&self) -> impl Iterator<Item = &Parameter> {
        self.parameters.iter().filter(|parameter| parameter.has_gradient())
    }

    /// What each kernel updates, and at which rates: a group's parameters that have a gradient.
    fn updates(&self, learning_rate: f64, weight_decay: f64) -> Vec<(AdamWTensors<'_>, AdamWRates)> {
        let updates = self.groups.iter().map(|group| {
            let mut tensors = AdamWTensors::default();
            let members = group.members.iter().map(|&member| &self.parameters[member]);
            for parameter in members.filter(|parameter| parameter.has_gradient()) {
                tensors.weights.push(&parameter.weight);
                tensors.means.push(&parameter.mean);
                tensors.mean_squares.push(&parameter.mean_square);
            }
            (tensors, group.rates(learning_rate, weight_decay))
        });
        updates.filter(|(tensors, _)| !tensors.weights.is_empty()).collect()
    }

    /// The current gradients, sorted by the names of their weights. They share memory with the gradients that
    /// [`AdamW::step`] reads, so several ranks can average them in place before a step.
    pub fn gradients(&self) -> Vec<Tensor> {
        self.with_gradient().map(|parameter| parameter.weight.grad()).collect()
    }

    /// The L2 norm of all gradients together, a scalar on the device. The call does not wait for the device.
    ///
    /// # Errors
    ///
    /// [`Error::Shape`], [`Error::Kind`] or [`Error::Device`] if a gradient no longer fits its weight.
    pub fn gradient_norm(&self) -> Result<Tensor> {
        let weights: Vec<&Tensor> = self.with_gradient().map(|parameter| &parameter.weight).collect();
        if weights.is_empty() {
            return Ok(Tensor::f_zeros([], (Kind::Float, self.device()))?);
        }
        native::gradient_norm(&weights)
    }

    /// The tensors that [`AdamW::load_state`] takes: `NAME.mean` and `NAME.mean_square` for every parameter, sharing
    /// memory with the optimizer. The number of steps is separate: [`AdamW::steps`].
    pub fn state(&self) -> Vec<(String, Tensor)> {
        let tensors = |parameter: &Parameter| {
            [
                (format!("{}.mean", parameter.name), parameter.mean.shallow_clone()),
                (format!("{}.mean_square", parameter.name), parameter.mean_square.shallow_clone()),
            ]
        };
        self.parameters.iter().flat_map(tensors).collect()
    }

    /// Restores a saved state.
    ///
    /// # Errors
    ///
    /// [`Error::Weights`] if a tensor is missing, [`Error::Shape`] if it has another shape, [`Error::Kind`] unless it
    /// has a floating-point dtype, [`Error::Undefined`] if it is undefined. Nothing is changed then.
    pub fn load_state(&mut self, state: &HashMap<String, Tensor>, steps: u64) -> Result<()> {
        let own = self.state();
        for (name, tensor) in &own {
            let missing = || Error::Weights { problem: format!("the optimizer state has no {name}") };
            let saved = state.get(name).ok_or_else(missing)?;
            check_defined("optimizer state", saved)?;
            if saved.size() != tensor.size() {
                let expected = format!("{:?} for {name}", tensor.size());
                return Err(Error::Shape { name: "optimizer state", expected, actual: saved.size() });
            }
            check_float("optimizer state", saved)?;
        }
        let _no_grad = no_grad_guard();
        for (name, mut tensor) in own {
            tensor.f_copy_(&state[&name])?;
        }
        self.steps = steps;
        Ok(())
    }
}

/// An error unless AdamW can run on `device`.
fn check_supported(device: Device) -> Result<()> {
    match device {
        Device::Cpu | Device::Cuda(_) => Ok(()),
        _ => Err(Error::Unsupported {
            name: "AdamW",
            device,
            reason: "its fused kernel is not known to skip a step whose gradients are not finite",
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_without_the_fused_kernel_is_refused_by_name() {
        let error = AdamW::new(&VarStore::new(Device::Mps)).unwrap_err();
        assert!(matches!(error, Error::Unsupported { device: Device::Mps, .. }));
        assert!(error.to_string().contains("AdamW does not run on Mps"), "{error}");
    }
}
