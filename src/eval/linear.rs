//! The linear probe: a linear classifier on frozen features.

use tch::{Device, Kind, Tensor};

use super::accuracy::{Accuracy, accuracy, check_labeled};
use crate::data::Batches;
use crate::error::{Error, Result, check_device, check_float, check_in, check_shape, check_value};
use crate::numbers::{one_hot, scalar, to_device};
use crate::optim::schedule::cosine;

/// How to train a linear classifier: SGD with momentum, a cosine learning rate schedule down to 0, and no weight decay.
#[derive(Debug, Clone, PartialEq)]
pub struct LinearConfig {
    /// Number of epochs, at least 1.
    pub epochs: u64,
    /// Images per step. The incomplete last batch of an epoch is left out; each epoch leaves out other images.
    pub batch_size: i64,
    /// Initial learning rate for a batch of 256; it scales linearly with the batch size.
    pub learning_rate: f64,
    /// Momentum of SGD, at least 0 and below 1.
    pub momentum: f64,
    /// Seed of the order of the images.
    pub seed: u64,
}

impl Default for LinearConfig {
    /// The published probe: 100 epochs, learning rate 0.05, momentum 0.9.
    fn default() -> LinearConfig {
        LinearConfig { epochs: 100, batch_size: 256, learning_rate: 0.05, momentum: 0.9, seed: 0 }
    }
}

/// A linear classifier of features, trained by cross-entropy.
#[derive(Debug)]
pub struct LinearClassifier {
    /// `[classes, D]`; the bias is `[classes]`. Each has its momentum buffer.
    weight: Tensor,
    weight_step: Tensor,
    bias: Tensor,
    bias_step: Tensor,
}

impl LinearClassifier {
    /// Trains on `count` images of `width` features. For an epoch and positions in `0..count`, `batch_of` returns
    /// features `[P, width]` and labels `[P]` of `Int64` on `device`. It may return other features of an image each
    /// time, such as those of a random view. An empty batch makes no step.
    ///
    /// Weights start at zero, because the loss is convex. Nothing is read back from the device.
    ///
    /// # Errors
    ///
    /// [`Error::Value`] unless `1 <= batch_size <= count`, epochs and classes are at least 1, the learning rate is
    /// finite and the momentum at least 0 and below 1, and if all batches are empty; [`Error::Shape`], [`Error::Kind`]
    /// or [`Error::Device`] for features and labels that do not match; those of `batch_of`.
    pub fn train(
        config: &LinearConfig,
        count: i64,
        (width, classes): (i64, i64),
        device: Device,
        mut batch_of: impl FnMut(u64, &[i64]) -> Result<(Tensor, Tensor)>,
    ) -> Result<LinearClassifier> {
        let LinearConfig { epochs, batch_size, learning_rate, momentum, seed } = *config;
        check_value("epochs", epochs as f64, "at least 1", epochs >= 1)?;
        check_value("learning_rate", learning_rate, "finite", learning_rate.is_finite())?;
        check_in("momentum", momentum, 0.0..1.0)?;
        check_in("classes", classes, 1..)?;
        let _no_grad = tch::no_grad_guard();
        let zeros = |size: &[i64]| Tensor::f_zeros(size, (Kind::Float, device));
        let mut classifier = LinearClassifier {
            weight: zeros(&[classes, width])?,
            weight_step: zeros(&[classes, width])?,
            bias: zeros(&[classes])?,
            bias_step: zeros(&[classes])?,
        };
        let base = learning_rate * batch_size as f64 / 256.0;
        let (mut step, mut has_learned) = (0, false);
        for epoch in 0..epochs {
            let batches = Batches::new(count, batch_size, seed, epoch)?;
            for batch in batches.iter() {
                let (features, labels) = batch_of(epoch, batch)?;
                let rate = cosine(step, epochs.saturating_mul(batches.len() as u64), base, 0.0);
                step += 1;
                if labels.numel() > 0 {
                    classifier.step(&features, &labels, rate, momentum)?;
                    has_learned = true;
                }
            }
        }
        if has_learned {
            return Ok(classifier);
        }
        let expected = "given for at least one image".to_owned();
        Err(Error::Value { name: "labels", expected, actual: 0.0 })
    }

    /// One step of SGD. The gradient of the cross-entropy by the logits is `(softmax(logits) - one_hot(label)) / B`.
    fn step(&mut self, features: &Tensor, labels: &Tensor, learning_rate: f64, momentum: f64) -> Result<()> {
        let logits = self.logits(features)?;
        let (batch_size, classes) = logits.size2()?;
        check_shape("labels", labels, &[("B", Some(batch_size))])?;
        check_device("labels", labels, self.weight.device())?;
        if labels.f_kind()? != Kind::Int64 {
            return Err(Error::Kind { name: "labels", expected: "Int64", actual: labels.f_kind()? });
        }
        let residual = logits.f_softmax(-1, Kind::Float)?.f_sub_(&one_hot(labels, classes)?)?;
        let residual = { residual }.f_div_(&scalar(batch_size as f64)?)?; // [B, classes]
        let weight_gradient = residual.f_transpose(0, 1)?.f_mm(&features.f_to_kind(Kind::Float)?)?;
        let bias_gradient = residual.f_sum_dim_intlist(0, false, None)?;
        for (weight, step, gradient) in [
            (&mut self.weight, &mut self.weight_step, weight_gradient),
            (&mut self.bias, &mut self.bias_step, bias_gradient),
        ] {
            let _ = step.f_mul_(&scalar(momentum)?)?.f_add_(&gradient)?;
            let _ = weight.f_sub_(&step.f_mul(&scalar(learning_rate)?)?)?;
        }
        Ok(())
    }

    /// Logits `[N, classes]` of features `[N, D]`.
    ///
    /// # Errors
    ///
    /// [`Error::Shape`] for features of another width, [`Error::Kind`] unless they have a floating-point dtype,
    /// [`Error::Device`] for features on another device.
    pub fn logits(&self, features: &Tensor) -> Result<Tensor> {
        check_shape("features", features, &[("N", None), ("D", Some(self.weight.size()[1]))])?;
        check_float("features", features)?;
        check_device("features", features, self.weight.device())?;
        let _no_grad = tch::no_grad_guard();
        Ok(features.f_to_kind(Kind::Float)?.f_linear(&self.weight, Some(&self.bias))?)
    }
}

/// Trains a linear classifier on training features and measures its final accuracy on test features.
///
/// Features are `[N, D]` and `[M, D]`, labels `Int64` `[N]` and `[M]`, from 0 to `classes - 1`, all on one device. The
/// features are not normalized here, because the encoders of this crate end in a norm.
///
/// # Errors
///
/// Those of [`knn_accuracy`](super::knn_accuracy) for the tensors, and of [`LinearClassifier::train`] for the
/// settings; [`Error::Value`] for `scores` that are not finite, the result of too high a learning rate.
pub fn linear_accuracy(
    (train_features, train_labels): (&Tensor, &Tensor),
    (test_features, test_labels): (&Tensor, &Tensor),
    classes: i64,
    config: &LinearConfig,
) -> Result<Accuracy> {
    check_labeled(("train_features", train_features), ("train_labels", train_labels), classes)?;
    check_labeled(("test_features", test_features), ("test_labels", test_labels), classes)?;
    let (count, width) = train_features.size2()?;
    let device = train_features.device();
    let classifier = LinearClassifier::train(config, count, (width, classes), device, |_, positions| {
        let positions = to_device(&Tensor::f_from_slice(positions)?, device)?;
        Ok((train_features.f_index_select(0, &positions)?, train_labels.f_index_select(0, &positions)?))
    })?;
    accuracy(&classifier.logits(test_features)?, test_labels)
}
