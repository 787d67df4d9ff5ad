//! AdamW (Loshchilov and Hutter, 2019).

use std::collections::HashMap;

use tch::nn::VarStore;
use tch::{Device, Kind, Tensor, no_grad_guard};

use crate::error::{Error, Result, check_defined, check_device, check_float, check_shape, check_value};

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

    /// Sets all gradients to zero; call it before every backward pass.
    pub fn zero_grad(&mut self) {
        for parameter in &mut self.parameters {
            parameter.weight.zero_grad();
        }
    }

    /// One step with the gradients at hand. Weights that never had one are left as they are.
    ///
    /// # Errors
    ///
    /// [`Error::Value`] unless both rates are finite; [`Error::Kind`] or [`Error::Device`] if the `VarStore` was turned to
    /// another kind or device since; nothing is changed then. [`Error::Torch`] if there is no memory for temporaries.
    pub fn step(&mut self, learning_rate: f64, weight_decay: f64) -> Result<()> {
        let device = self.parameters.first().map_or(Device::Cpu, |parameter| parameter.weight.device());
        self.update(&Tensor::f_ones([], (Kind::Double, device))?, learning_rate, weight_decay, Ok)
    }

    /// [`AdamW::step`] where `healthy` holds 1, and no change of weights or state where it holds 0, whatever the
    /// gradients are.
    ///
    /// `healthy` is a scalar on the device: whether the loss and [`AdamW::gradient_norm`] are finite. It is not read, so
    /// nobody waits for a GPU; therefore a step that changes nothing is counted like any other.
    ///
    /// # Errors
    ///
    /// Those of [`AdamW::step`]; [`Error::Shape`] unless `healthy` is a scalar, [`Error::Torch`] if it is on another
    /// device.
    pub fn step_if(&mut self, healthy: &Tensor, learning_rate: f64, weight_decay: f64) -> Result<()> {
        check_shape("healthy", healthy, &[])?;
        check_float("healthy", healthy)?;
        // Nothing times NaN is NaN.
        self.update(healthy, learning_rate, weight_decay, |gradient| Ok(gradient.f_nan_to_num(0.0, 0.0, 0.0)?))
    }

    fn update(
        &mut self,
        healthy: &Tensor,
        learning_rate: f64,
        weight_decay: f64,
        clean: impl Fn(Tensor) -> Result<Tensor>,
    ) -> Result<()> {
        check_value("learning_rate", learning_rate, "finite", learning_rate.is_finite())?;
        check_value("weight_decay", weight_decay, "finite", weight_decay.is_finite())?;
        self.parameters.iter().try_for_each(Parameter::check)?;
        let _no_grad = no_grad_guard();
        self.steps = self.steps.saturating_add(1);
        let steps = self.steps as f64;
        let (correction_1, correction_2) = (1.0 - BETA_1.powf(steps), 1.0 - BETA_2.powf(steps));
        let healthy = healthy.f_to_kind(Kind::Double)?;
        for Parameter { weight, rate, mean, mean_square, .. } in &mut self.parameters {
            let gradient = weight.grad();
            if !gradient.defined() {
                continue;
            }
            let learning_rate = *rate * learning_rate;
            let rate = healthy.f_mul_scalar(learning_rate / correction_1)?;
            if weight.dim() >= DECAYING_DIMENSIONS {
                let kept = healthy.f_mul_scalar(-learning_rate * weight_decay)?.f_add_scalar(1.0)?;
                let _ = weight.f_mul_(&kept)?;
            }
            let gradient = clean(gradient)?;
            let share = |rate| healthy.f_mul_scalar(rate)?.f_to_kind(mean.f_kind()?);
            let (share_1, share_2) = (share(1.0 - BETA_1)?, share(1.0 - BETA_2)?);
            let _ = mean.f_lerp_tensor_(&gradient, &share_1)?;
            let _ = mean_square.f_lerp_tensor_(&gradient.f_square()?, &share_2)?;
            let mut scale = mean_square.f_sqrt()?;
            let _ = scale.f_div_scalar_(correction_2.sqrt())?.f_add_scalar_(EPSILON)?;
            let mut change = mean.f_div(&scale)?;
            let _ = weight.f_sub_(&change.f_mul_(&rate)?)?;
        }
        Ok(())
    }

    /// The L2 norm of all gradients together, a scalar on the device. Reading it waits for the device; this does not.
    ///
    /// # Errors
    ///
    /// [`Error::Torch`], which gradients on one device do not cause.
    pub fn gradient_norm(&self) -> Result<Tensor> {
        let gradients = self.parameters.iter().map(|parameter| parameter.weight.grad());
        let norms: Vec<Tensor> = gradients
            .filter(Tensor::defined)
            .map(|gradient| gradient.f_norm())
            .collect::<std::result::Result<_, _>>()?;
        if norms.is_empty() {
            return Ok(Tensor::f_zeros([], (Kind::Float, Device::Cpu))?);
        }
        Ok(Tensor::f_stack(&norms, 0)?.f_norm()?)
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
