//! AdamW (Loshchilov and Hutter, 2019).

use std::collections::{BTreeMap, HashMap, HashSet};

use tch::nn::VarStore;
use tch::{Device, Kind, Tensor, no_grad_guard};

use crate::error::{Error, Result, check_defined, check_device, check_float, check_shape, check_value};
use crate::native::{self, AdamWRates, AdamWTensors};
use crate::numbers::{scalar, to_device};

const BETA_1: f64 = 0.9;
const BETA_2: f64 = 0.999;
const EPSILON: f64 = 1e-8;

#[derive(Debug)]
struct Parameter {
    name: String,
    weight: Tensor,
    /// Its learning rate in multiples of the step's.
    rate: f64,
    /// Running mean of the gradient.
    mean: Tensor,
    /// Running mean of its square.
    mean_square: Tensor,
}

/// Tensors of two or more dimensions decay, class token and position embedding included; biases, scales and shifts do
/// not.
const DECAYING_DIMENSIONS: usize = 2;

impl Parameter {
    fn decays(&self) -> bool {
        self.weight.dim() >= DECAYING_DIMENSIONS
    }

    /// An error unless the weight is still of the kind and on the device of the state.
    fn check(&self) -> Result<()> {
        check_device("weights", &self.weight, self.mean.device())?;
        let (actual, kept) = (self.weight.f_kind()?, self.mean.f_kind()?);
        let expected = "numbers of the kind that the optimizer was made for";
        if actual == kept { Ok(()) } else { Err(Error::Kind { name: "weights", expected, actual }) }
    }
}

/// AdamW with the published decay groups: what has two or more dimensions decays, what has one does not.
///
/// β = (0.9, 0.999), ε = 1e-8. Its state can be taken out and put back ([`AdamW::state`], [`AdamW::load_state`]), so
/// that a resumed run goes on as if nothing had happened.
#[derive(Debug)]
pub struct AdamW {
    parameters: Vec<Parameter>,
    steps: u64,
}

impl AdamW {
    /// For all trainable variables of `store`.
    ///
    /// # Errors
    ///
    /// [`Error::Torch`] if there is no memory for the state.
    pub fn new(store: &VarStore) -> Result<AdamW> {
        AdamW::with_rates(store, |_| 1.0)
    }

    /// [`AdamW::new`] with learning rates of the variables' own: `rate` gives, for a variable's name in the `VarStore`,
    /// the multiple of the step's learning rate that it moves at. Its decay, which the learning rate scales, follows.
    ///
    /// # Errors
    ///
    /// [`Error::Value`] for a multiple that is negative or not finite; those of [`AdamW::new`].
    pub fn with_rates(store: &VarStore, rate: impl Fn(&str) -> f64) -> Result<AdamW> {
        let mut variables: Vec<(String, Tensor)> =
            store.variables().into_iter().filter(|(_, variable)| variable.requires_grad()).collect();
        variables.sort_by(|(name, _), (other, _)| name.cmp(other)); // a hash map's order differs from run to run
        // A weight with two names is stepped once.
        let mut seen = HashSet::new();
        variables.retain(|(_, weight)| weight.numel() == 0 || seen.insert(weight.data_ptr()));
        let _no_grad = no_grad_guard();
        let parameters = variables.into_iter().map(|(name, weight)| {
            let rate = rate(&name);
            check_value("rate", rate, "at least 0 and finite", rate >= 0.0 && rate.is_finite())?;
            let (mean, mean_square) = (weight.f_zeros_like()?, weight.f_zeros_like()?);
            Ok(Parameter { name, weight, rate, mean, mean_square })
        });
        Ok(AdamW { parameters: parameters.collect::<Result<_>>()?, steps: 0 })
    }

    /// How many steps were made.
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// Forgets all gradients; call it before every backward pass.
    ///
    /// # Errors
    ///
    /// [`Error::Torch`], which no weight causes.
    pub fn zero_grad(&mut self) -> Result<()> {
        native::forget_gradients(&self.parameters.iter().map(|parameter| &parameter.weight).collect::<Vec<_>>())
    }

    /// One step with the gradients at hand, in a kernel for every group of like rates. Weights without one are left as
    /// they are, decay included; the bias correction counts all steps for all weights.
    ///
    /// # Errors
    ///
    /// [`Error::Value`] unless both rates are finite; [`Error::Kind`] or [`Error::Device`] if the `VarStore` was turned
    /// to another kind or device since, [`Error::Shape`] for weights or gradients that were given another shape or
    /// layout; nothing is changed then. [`Error::Torch`] if there is no memory for temporaries.
    pub fn step(&mut self, learning_rate: f64, weight_decay: f64) -> Result<()> {
        self.update(&Tensor::f_zeros([], (Kind::Float, self.device()))?, learning_rate, weight_decay)
    }

    /// [`AdamW::step`] where `healthy` holds 1, and no change of weights or state where it holds 0, whatever the
    /// gradients are.
    ///
    /// `healthy` is a scalar on the device: whether the loss and [`AdamW::gradient_norm`] are finite. It is not read,
    /// so nobody waits for a GPU; therefore a step that changes nothing is counted like any other.
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
        native::adamw(&self.groups(learning_rate, weight_decay)?, &steps_on_device, unhealthy)?;
        self.steps = steps;
        Ok(())
    }

    /// The parameters that have a gradient.
    fn with_gradient(&self) -> impl Iterator<Item = &Parameter> {
        self.parameters.iter().filter(|parameter| parameter.weight.grad().defined())
    }

    /// What has a gradient, by rate, by whether it decays, and by kind.
    fn groups(&self, learning_rate: f64, weight_decay: f64) -> Result<Vec<(AdamWTensors<'_>, AdamWRates)>> {
        let mut groups = BTreeMap::<(u64, bool, String), AdamWTensors<'_>>::new();
        for parameter in self.with_gradient() {
            let kind = format!("{:?}", parameter.weight.f_kind()?);
            let group = groups.entry((parameter.rate.to_bits(), parameter.decays(), kind)).or_default();
            group.weights.push(&parameter.weight);
            group.means.push(&parameter.mean);
            group.mean_squares.push(&parameter.mean_square);
        }
        let with_rates = groups.into_iter().map(|((rate, decays, _), tensors)| {
            let rates = AdamWRates {
                learning_rate: f64::from_bits(rate) * learning_rate,
                beta_1: BETA_1,
                beta_2: BETA_2,
                weight_decay: if decays { weight_decay } else { 0.0 },
                epsilon: EPSILON,
            };
            (tensors, rates)
        });
        Ok(with_rates.collect())
    }

    /// The gradients at hand, in the order of the weights' names: what several ranks average before a step. They share
    /// memory with those that the step takes.
    pub fn gradients(&self) -> Vec<Tensor> {
        self.with_gradient().map(|parameter| parameter.weight.grad()).collect()
    }

    /// The L2 norm of all gradients together, a scalar on the device. Reading it waits for the device; this does not.
    ///
    /// # Errors
    ///
    /// [`Error::Torch`], which gradients on one device do not cause.
    pub fn gradient_norm(&self) -> Result<Tensor> {
        let weights: Vec<&Tensor> = self.with_gradient().map(|parameter| &parameter.weight).collect();
        if weights.is_empty() {
            return Ok(Tensor::f_zeros([], (Kind::Float, self.device()))?);
        }
        native::gradient_norm(&weights)
    }

    /// Everything that [`AdamW::load_state`] needs: for every parameter `NAME.mean` and `NAME.mean_square`, sharing
    /// memory with the optimizer. The number of steps is not among them; see [`AdamW::steps`].
    pub fn state(&self) -> Vec<(String, Tensor)> {
        let of_parameter = |parameter: &Parameter| {
            [
                (format!("{}.mean", parameter.name), parameter.mean.shallow_clone()),
                (format!("{}.mean_square", parameter.name), parameter.mean_square.shallow_clone()),
            ]
        };
        self.parameters.iter().flat_map(of_parameter).collect()
    }

    /// Puts a saved state back.
    ///
    /// # Errors
    ///
    /// [`Error::Shape`] if a tensor is missing or of another shape, [`Error::Kind`] if it does not hold floating-point
    /// numbers, [`Error::Undefined`] if it is undefined; nothing is changed then.
    pub fn load_state(&mut self, state: &HashMap<String, Tensor>, steps: u64) -> Result<()> {
        let own = self.state();
        for (name, tensor) in &own {
            let saved = state.get(name);
            saved.map_or(Ok(()), |saved| check_defined("optimizer state", saved))?;
            let actual = saved.map(Tensor::size).unwrap_or_default();
            if actual != tensor.size() || saved.is_none() {
                let expected = format!("{:?} for {name}", tensor.size());
                return Err(Error::Shape { name: "optimizer state", expected, actual });
            }
            saved.map_or(Ok(()), |saved| check_float("optimizer state", saved))?;
        }
        let _no_grad = no_grad_guard();
        for (name, mut tensor) in own {
            if let Some(saved) = state.get(&name) {
                tensor.f_copy_(saved)?;
            }
        }
        self.steps = steps;
        Ok(())
    }
}
