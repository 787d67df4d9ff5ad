//! The linear probe: a linear classifier on frozen features.

use tch::{Device, Kind, Tensor};

use super::accuracy::{Accuracy, accuracy, check_labeled};
use crate::data::Batches;
use crate::error::{Error, Result, check_device, check_float, check_in, check_shape, check_value};
use crate::numbers::{one_hot, scalar, to_device};
use crate::optim::schedule::cosine;

/// How to train a linear classifier: SGD with Nesterov momentum, a learning rate that falls to 0 along a cosine from
/// epoch to epoch, and no weight decay.
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
    /// The published probe of ViT-T: 100 epochs, learning rate 0.05, momentum 0.9.
    fn default() -> LinearConfig {
        LinearConfig { epochs: 100, batch_size: 256, learning_rate: 0.05, momentum: 0.9, seed: 0 }
    }
}

impl LinearConfig {
    /// The learning rate of an epoch, counted from 0, for the batch size.
    pub fn rate(&self, epoch: u64) -> f64 {
        cosine(epoch, self.epochs, self.learning_rate * self.batch_size as f64 / 256.0, 0.0)
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
    /// A classifier of features of `width` numbers. Weights start at zero, because the loss is convex.
    ///
    /// # Errors
    ///
    /// [`Error::Value`] unless there is at least 1 class and the width is at least 0, [`Error::Torch`] if memory runs
    /// out.
    pub fn new((width, classes): (i64, i64), device: Device) -> Result<LinearClassifier> {
        check_in("classes", classes, 1..)?;
        check_in("width", width, 0..)?;
        let zeros = |size: &[i64]| Tensor::f_zeros(size, (Kind::Float, device));
        LinearClassifier::from_weights(&zeros(&[classes, width])?, &zeros(&[classes])?)
    }

    /// A classifier with these weights `[classes, D]` and biases `[classes]`, which are copied, and no momentum yet.
    ///
    /// # Errors
    ///
    /// [`Error::Shape`], [`Error::Kind`] or [`Error::Device`] if they do not match or are not of a floating-point
    /// dtype.
    pub fn from_weights(weight: &Tensor, bias: &Tensor) -> Result<LinearClassifier> {
        check_shape("weight", weight, &[("classes", None), ("D", None)])?;
        check_shape("bias", bias, &[("classes", Some(weight.size()[0]))])?;
        check_device("bias", bias, weight.device())?;
        let own = |name, tensor: &Tensor| -> Result<Tensor> {
            check_float(name, tensor)?;
            Ok(tensor.f_detach_copy()?.f_to_kind(Kind::Float)?)
        };
        let (weight, bias) = (own("weight", weight)?, own("bias", bias)?);
        let (weight_step, bias_step) = (weight.f_zeros_like()?, bias.f_zeros_like()?);
        Ok(LinearClassifier { weight, weight_step, bias, bias_step })
    }

    /// Weights `[classes, D]` and biases `[classes]`, of `Float`.
    pub fn weights(&self) -> (&Tensor, &Tensor) {
        (&self.weight, &self.bias)
    }

    /// Trains a classifier on `count` images. For an epoch and positions in `0..count`, `batch_of` returns features
    /// `[P, width]` and labels `[P]` of `Int64` on `device`. It may return other features of an image each time, such
    /// as those of a random view. An empty batch makes no step. Nothing is read back from the device.
    ///
    /// # Errors
    ///
    /// [`Error::Value`] unless `1 <= batch_size <= count`, epochs and classes are at least 1, the learning rate is
    /// finite and the momentum at least 0 and below 1, and if all batches are empty; those of
    /// [`LinearClassifier::step`] and `batch_of`.
    pub fn train(
        config: &LinearConfig,
        count: i64,
        shape: (i64, i64),
        device: Device,
        mut batch_of: impl FnMut(u64, &[i64]) -> Result<(Tensor, Tensor)>,
    ) -> Result<LinearClassifier> {
        let LinearConfig { epochs, batch_size, seed, .. } = *config;
        check_value("epochs", epochs as f64, "at least 1", epochs >= 1)?;
        let mut classifier = LinearClassifier::new(shape, device)?;
        let mut has_learned = false;
        for epoch in 0..epochs {
            for batch in Batches::new(count, batch_size, seed, epoch)?.iter() {
                let (features, labels) = batch_of(epoch, batch)?;
                if labels.numel() > 0 {
                    let _ = classifier.step(&features, &labels, config.rate(epoch), config.momentum)?;
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

    /// One step of SGD with Nesterov momentum on features `[B, D]` and labels `[B]`, from 0 to `classes - 1`. Returns
    /// the cross-entropy before the step, averaged over the batch: a scalar on the device, which is not waited for.
    ///
    /// With the gradient `g`: `v = momentum * v + g`, `weight -= learning_rate * (g + momentum * v)`, as in PyTorch.
    ///
    /// # Errors
    ///
    /// [`Error::Value`] unless the learning rate is finite and the momentum at least 0 and below 1; [`Error::Kind`]
    /// unless the labels are `Int64`; [`Error::Shape`], [`Error::Kind`] or [`Error::Device`] for features and labels
    /// that do not match. Labels out of range are not checked, because that would wait for the device.
    pub fn step(&mut self, features: &Tensor, labels: &Tensor, learning_rate: f64, momentum: f64) -> Result<Tensor> {
        check_value("learning_rate", learning_rate, "finite", learning_rate.is_finite())?;
        check_in("momentum", momentum, 0.0..1.0)?;
        let _no_grad = tch::no_grad_guard();
        let log_probabilities = self.logits(features)?.f_log_softmax(-1, Kind::Float)?;
        let (batch_size, classes) = log_probabilities.size2()?;
        check_shape("labels", labels, &[("B", Some(batch_size))])?;
        check_device("labels", labels, self.weight.device())?;
        if labels.f_kind()? != Kind::Int64 {
            return Err(Error::Kind { name: "labels", expected: "Int64", actual: labels.f_kind()? });
        }
        // The gradient of the cross-entropy by the logits is (softmax(logits) - one_hot(label)) / B.
        let targets = one_hot(labels, classes)?;
        let count = scalar(batch_size as f64)?;
        let loss = log_probabilities.f_mul(&targets)?.f_sum(Kind::Float)?.f_neg()?.f_div(&count)?;
        let residual = log_probabilities.f_exp()?.f_sub_(&targets)?.f_div(&count)?; // [B, classes]
        let weight_gradient = residual.f_transpose(0, 1)?.f_mm(&features.f_to_kind(Kind::Float)?)?;
        let bias_gradient = residual.f_sum_dim_intlist(0, false, None)?;
        for (weight, step, gradient) in [
            (&mut self.weight, &mut self.weight_step, weight_gradient),
            (&mut self.bias, &mut self.bias_step, bias_gradient),
        ] {
            let _ = step.f_mul_(&scalar(momentum)?)?.f_add_(&gradient)?;
            let ahead = gradient.f_add(&step.f_mul(&scalar(momentum)?)?)?;
            let _ = weight.f_sub_(&ahead.f_mul(&scalar(learning_rate)?)?)?;
        }
        Ok(loss)
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
