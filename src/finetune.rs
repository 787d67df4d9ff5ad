//! Fine-tuning: a classifier on an encoder, and layer-wise learning rates.
//!
//! See also [`AdamW::with_rates`](crate::optim::AdamW::with_rates), [`average_weights`](crate::optim::average_weights)
//! and the schedules in [`optim`](crate::optim), and Mixup, CutMix and RandomErasing in [`augment`](crate::augment).

use tch::nn::Path;
use tch::{Kind, Tensor};

use crate::error::{Result, check_in, check_shape};
use crate::vit::{Linear, Vit, VitConfig};

/// An encoder with a linear layer on its class token.
#[derive(Debug)]
pub struct Classifier {
    /// The Vision Transformer; its variables have timm's names.
    pub encoder: Vit,
    /// Its variables are under `head`, as in timm.
    head: Linear,
}

impl Classifier {
    /// Puts a linear layer on `encoder`, under the same `path`. Its weights are nearly zero, so that the first steps do
    /// not adapt the encoder to a random head.
    ///
    /// # Errors
    ///
    /// [`Error::Value`](crate::Error::Value) unless `classes` is between 1 and 2^20,
    /// [`Error::Torch`](crate::Error::Torch) if there is no memory for it.
    pub fn new(path: &Path<'_>, encoder: Vit, classes: i64) -> Result<Classifier> {
        const INITIAL_BOUND: f64 = 2e-5;
        check_in("classes", classes, 1..=1 << 20)?;
        let VitConfig { width, precision, .. } = *encoder.config();
        let head = Linear::new(&(path / "head"), width, classes, true, INITIAL_BOUND, precision)?;
        Ok(Classifier { encoder, head })
    }

    /// Logits `[B, classes]` of normalized images `[B, 3, H, W]`. `train` turns drop path on.
    ///
    /// # Errors
    ///
    /// Those of [`Vit::forward`].
    pub fn forward(&self, images: &Tensor, train: bool) -> Result<Tensor> {
        self.logits(&self.encoder.forward(images, train)?)
    }

    /// Logits `[B, classes]`, `Float` or `Double`, of class tokens `[B, width]` from
    /// [`eval::features`](crate::eval::features).
    ///
    /// # Errors
    ///
    /// [`Error::Shape`](crate::Error::Shape) for features of another width; [`Error::Torch`](crate::Error::Torch)
    /// unless they have the dtype and the device of the weights.
    pub fn logits(&self, features: &Tensor) -> Result<Tensor> {
        check_shape("features", features, &[("B", None), ("D", Some(self.head.inputs()))])?;
        let logits = self.head.forward(features)?;
        let kind = if logits.f_kind()? == Kind::Double { Kind::Double } else { Kind::Float };
        Ok(logits.f_to_kind(kind)?)
    }
}

/// Layer decay (Clark et al., 2020): the learning rate of a [`Classifier`]'s variable `name` in multiples of the
/// head's.
///
/// It is 1 for the head and the last norm, `decay` for the last of `depth` blocks, `decay` squared for the block
/// before, and so on; embeddings and class token get one more factor than the first block. A `decay` of 1 makes all
/// rates equal.
///
/// ```
/// use patchmix::finetune::layer_rate;
/// assert_eq!(layer_rate("head.weight", 12, 0.75), 1.0);
/// assert_eq!(layer_rate("blocks.11.mlp.fc1.weight", 12, 0.75), 0.75);
/// assert_eq!(layer_rate("pos_embed", 12, 0.5), 0.5_f64.powi(13));
/// ```
pub fn layer_rate(name: &str, depth: i64, decay: f64) -> f64 {
    let (first, rest) = name.split_once('.').unwrap_or((name, ""));
    let layers_above = match first {
        "cls_token" | "pos_embed" | "patch_embed" => depth.saturating_add(1),
        "blocks" => rest
            .split('.')
            .next()
            .and_then(|index| index.parse().ok())
            .map_or(0, |index: i64| depth.saturating_sub(index)),
        _ => 0,
    };
    decay.powf(layers_above as f64)
}
