//! Linear layer and layer norm.

use tch::nn::{Init, Path};
use tch::{Kind, Tensor};

use super::Precision;
use crate::error::Result;
use crate::native::layers::{self as native, LinearWeights};

/// Bound of the uniform initial weights of the transformer's layers, √(6 / (inputs + outputs)) (Glorot and Bengio,
/// 2010).
pub(crate) fn glorot_bound(inputs: i64, outputs: i64) -> f64 {
    (6.0 / (inputs + outputs) as f64).sqrt()
}

/// Bound of the uniform initial weights of the heads' layers, 1/√inputs, PyTorch's default for linear layers.
pub(crate) fn fan_in_bound(inputs: i64) -> f64 {
    1.0 / (inputs as f64).sqrt()
}

/// Initial weights uniform in ±`bound`.
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

    /// A layer with PyTorch's default initial weights and biases.
    pub(crate) fn with_default_init(
        path: &Path<'_>,
        inputs: i64,
        outputs: i64,
        precision: Precision,
    ) -> Result<Linear> {
        let init = uniform(fan_in_bound(inputs));
        let weight = path.f_var("weight", &[outputs, inputs], init)?;
        Ok(Linear { weight, bias: Some(path.f_var("bias", &[outputs], init)?), precision })
    }

    /// The number of input features.
    pub(crate) fn inputs(&self) -> i64 {
        self.weight.size()[1]
    }

    /// The part of the layer that computes outputs `first..first + count`.
    pub(crate) fn outputs(&self, first: i64, count: i64) -> Result<Linear> {
        let part = |tensor: &Tensor| tensor.f_narrow(0, first, count);
        let bias = self.bias.as_ref().map(part).transpose()?;
        Ok(Linear { weight: part(&self.weight)?, bias, precision: self.precision })
    }

    /// The weights for a native layer, if inputs of this dtype are what the layer computes with.
    fn for_native(&self, kind: Kind) -> Result<Option<LinearWeights<'_>>> {
        let weights = LinearWeights { weight: &self.weight, bias: self.bias.as_ref() };
        let fits = self.precision == Precision::BFloat16 || kind == self.weight.f_kind()?;
        Ok(fits.then_some(weights))
    }

    pub(crate) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let cast = |tensor: &Tensor| in_precision(tensor, self.precision);
        let x = cast(x)?;
        if let Some(weights) = self.for_native(x.f_kind()?)?
            && let Some(outputs) = native::linear(&x, weights)?
        {
            return Ok(outputs);
        }
        let bias = self.bias.as_ref().map(cast).transpose()?;
        Ok(x.f_linear(&cast(&self.weight)?, bias)?)
    }
}

/// Two linear layers with GELU between them, applied to every token.
#[derive(Debug)]
pub(crate) struct Perceptron {
    pub(crate) hidden: Linear,
    pub(crate) output: Linear,
}

impl Perceptron {
    pub(crate) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let Perceptron { hidden, output } = self;
        let x = in_precision(x, hidden.precision)?;
        let kind = x.f_kind()?;
        if let (Some(first), Some(second)) = (hidden.for_native(kind)?, output.for_native(kind)?)
            && let Some(outputs) = native::perceptron(&x, first, second)?
        {
            return Ok(outputs);
        }
        output.forward(&hidden.forward(&x)?.f_gelu("none")?)
    }
}

/// Casts `tensor` to the dtype of the matrix products.
pub(crate) fn in_precision(tensor: &Tensor, precision: Precision) -> Result<Tensor> {
    match precision {
        Precision::Full => Ok(tensor.shallow_clone()),
        Precision::BFloat16 => Ok(tensor.f_to_kind(Kind::BFloat16)?),
    }
}

/// Layer norm of every token, with learned scale and shift.
#[derive(Debug)]
pub(crate) struct LayerNorm {
    weight: Tensor,
    bias: Tensor,
}

impl LayerNorm {
    pub(crate) fn new(path: &Path<'_>, width: i64) -> Result<LayerNorm> {
        Ok(LayerNorm { weight: path.f_ones("weight", &[width])?, bias: path.f_zeros("bias", &[width])? })
    }

    /// Scale, shift, and the epsilon added to the variance.
    pub(crate) fn parameters(&self) -> (&Tensor, &Tensor, f64) {
        const EPSILON: f64 = 1e-6;
        (&self.weight, &self.bias, EPSILON)
    }

    pub(crate) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let (weight, bias, epsilon) = self.parameters();
        Ok(x.f_layer_norm(weight.size(), Some(weight), Some(bias), epsilon, true)?)
    }
}

#[cfg(test)]
mod tests {
    use tch::Device;
    use tch::nn::VarStore;

    use super::*;

    /// A layer in full precision takes what has the dtype of its weights, and no less.
    #[test]
    fn inputs_of_another_dtype_are_refused() {
        let store = VarStore::new(Device::Cpu);
        let layer = |name: &str, precision| Linear::with_default_init(&(store.root() / name), 4, 3, precision).unwrap();
        let x = Tensor::ones([2, 4], (Kind::BFloat16, Device::Cpu));
        assert!(layer("full", Precision::Full).forward(&x).is_err());
        let outputs = layer("half", Precision::BFloat16).forward(&x.to_kind(Kind::Float)).unwrap();
        assert_eq!(outputs.kind(), Kind::BFloat16);
    }
}
