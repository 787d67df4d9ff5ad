//! The projector and the predictor: small networks on top of the encoder.

use tch::Tensor;
use tch::nn::Path;

use super::batch_norm::BatchNorm;
use crate::error::{Error, Result, check_shape};
use crate::ranks::Ranks;
use crate::vit::{Linear, Precision, fan_in_bound};

/// The widths of the heads: a projector of three layers and a predictor of two.
#[derive(Debug, Clone, PartialEq)]
pub struct HeadConfig {
    /// Width of the hidden layers.
    pub hidden: i64,
    /// Width of queries and keys.
    pub output: i64,
}

impl Default for HeadConfig {
    /// The published 4096 and 256.
    fn default() -> HeadConfig {
        HeadConfig { hidden: 4096, output: 256 }
    }
}

/// Linear layers without bias, each followed by batch normalization, with ReLU between them. The last normalization has
/// no affine parameters.
#[derive(Debug)]
pub struct Head {
    layers: Vec<(Linear, BatchNorm)>,
}

impl Head {
    /// A head with one layer for each pair of neighboring `widths`. Variables are numbered as in PyTorch's
    /// `Sequential` of linear, normalization, ReLU, linear, ...
    pub(super) fn new(path: &Path<'_>, widths: &[i64], precision: Precision) -> Result<Head> {
        let last = widths.len().saturating_sub(2);
        let layers = widths.windows(2).enumerate().map(|(index, pair)| {
            let (inputs, outputs) = (pair[0], pair[1]);
            let linear = Linear::new(&(path / (3 * index)), inputs, outputs, false, fan_in_bound(inputs), precision)?;
            Ok((linear, BatchNorm::new(&(path / (3 * index + 1)), outputs, index < last)?))
        });
        Ok(Head { layers: layers.collect::<Result<_>>()? })
    }

    /// `[B, inputs]` to `[B, outputs]`. Training uses the statistics of the batch and updates the running ones.
    ///
    /// # Errors
    ///
    /// [`Error::Shape`] for features of another width, and for a training batch of one image, which has no variance;
    /// [`Error::Torch`] unless the features have the kind and the device of the weights.
    pub fn forward(&self, features: &Tensor, train: bool) -> Result<Tensor> {
        self.run(features, train, None)
    }

    /// [`Head::forward`] in training, with statistics over the batches of all `ranks`.
    ///
    /// # Errors
    ///
    /// Those of [`Head::forward`] and [`Ranks::sum`].
    pub(super) fn train(&self, features: &Tensor, ranks: Option<&dyn Ranks>) -> Result<Tensor> {
        self.run(features, true, ranks)
    }

    fn run(&self, features: &Tensor, train: bool, ranks: Option<&dyn Ranks>) -> Result<Tensor> {
        let inputs = self.layers.first().map(|(linear, _)| linear.inputs());
        check_shape("features", features, &[("B", None), ("D", inputs)])?;
        let several_ranks = ranks.is_some_and(|ranks| ranks.world_size() > 1);
        let min_batch = if several_ranks { 1 } else { 2 };
        if train && features.size()[0] < min_batch {
            let expected = format!("[B, D] with B at least {min_batch}, for batch statistics");
            return Err(Error::Shape { name: "features", expected, actual: features.size() });
        }
        let mut x = features.shallow_clone();
        for (index, (linear, norm)) in self.layers.iter().enumerate() {
            if index > 0 {
                x = x.f_relu()?;
            }
            x = norm.forward(&linear.forward(&x)?, train, ranks)?;
        }
        Ok(x)
    }
}
