//! The two layers that everything is made of.

use tch::nn::{Init, Path};
use tch::{Kind, Tensor};

use super::Precision;
use crate::error::Result;

/// Initial weights are uniform in ±√(6 / (inputs + outputs)) (Glorot and Bengio, 2010): the transformer's layers.
pub(crate) fn glorot_bound(inputs: i64, outputs: i64) -> f64 {
    (6.0 / (inputs + outputs) as f64).sqrt()
}

/// Initial weights are uniform in ±1/√inputs, as PyTorch begins its linear layers: the heads' layers.
pub(crate) fn fan_in_bound(inputs: i64) -> f64 {
    1.0 / (inputs as f64).sqrt()
}

/// Weights begin uniform in ±`bound`.
pub(crate) fn uniform(bound: f64) -> Init {
    Init::Uniform { lo: -bound, up: bound }
}

/// `x Wᵀ + b` over the last dimension.
#[derive(Debug)]
pub(crate) struct Linear {
    weight: Tensor,
    bias: Option<Tensor>,
    precision: Precision,
}

impl Linear {
    pub(crate) fn new(
        path: &Path<'_>,
        inputs: i64,
        outputs: i64,
        bias: bool,
        initial_bound: f64,
        precision: Precision,
    ) -> Result<Linear> {
        let weight = path.f_var("weight", &[outputs, inputs], uniform(initial_bound))?;
        let bias = if bias { Some(path.f_zeros("bias", &[outputs])?) } else { None };
        Ok(Linear { weight, bias, precision })
    }

    /// How many numbers it takes.
    pub(crate) fn inputs(&self) -> i64 {
        self.weight.size()[1]
    }

    /// The part of the layer that makes `count` of its outputs, from `first` on.
    pub(crate) fn outputs(&self, first: i64, count: i64) -> Result<Linear> {
        let part = |tensor: &Tensor| tensor.f_narrow(0, first, count);
        let bias = self.bias.as_ref().map(part).transpose()?;
        Ok(Linear { weight: part(&self.weight)?, bias, precision: self.precision })
    }

    pub(crate) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let cast = |tensor: &Tensor| in_precision(tensor, self.precision);
        let bias = self.bias.as_ref().map(cast).transpose()?;
        Ok(cast(x)?.f_linear(&cast(&self.weight)?, bias)?)
    }
}

/// `tensor` in the kind that matrix products are computed in.
pub(crate) fn in_precision(tensor: &Tensor, precision: Precision) -> Result<Tensor> {
    match precision {
        Precision::Full => Ok(tensor.shallow_clone()),
        Precision::BFloat16 => Ok(tensor.f_to_kind(Kind::BFloat16)?),
    }
}

/// Normalisation of every token, with learned scale and shift.
#[derive(Debug)]
pub(crate) struct LayerNorm {
    weight: Tensor,
    bias: Tensor,
}

impl LayerNorm {
    pub(crate) fn new(path: &Path<'_>, width: i64) -> Result<LayerNorm> {
        Ok(LayerNorm { weight: path.f_ones("weight", &[width])?, bias: path.f_zeros("bias", &[width])? })
    }

    /// Scale, shift, and what is added to the variance.
    pub(crate) fn parameters(&self) -> (&Tensor, &Tensor, f64) {
        const EPSILON: f64 = 1e-6;
        (&self.weight, &self.bias, EPSILON)
    }

    pub(crate) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let (weight, bias, epsilon) = self.parameters();
        Ok(x.f_layer_norm(weight.size(), Some(weight), Some(bias), epsilon, true)?)
    }
}
