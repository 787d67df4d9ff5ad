//! Fine-tuning: a classifier on an encoder, and layer-wise learning rates.
//!
//! See also [`AdamW::with_rules`](crate::optim::AdamW::with_rules), [`average_weights`](crate::optim::average_weights)
//! and the schedules in [`optim`](crate::optim), and RandAugment, Mixup, CutMix and RandomErasing in
//! [`augment`](crate::augment).

use tch::nn::Path;
use tch::{Kind, Tensor};

use crate::error::{Result, check_in, check_shape};
use crate::optim::UpdateRule;
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
    /// Puts a linear layer on `encoder`, under the same `path`. Weights and biases start uniform in ±1/√width, as by
    /// PyTorch's default.
    ///
    /// # Errors
    ///
    /// [`Error::Value`](crate::Error::Value) unless `classes` is between 1 and 2^20,
    /// [`Error::Torch`](crate::Error::Torch) if there is no memory for it.
    pub fn new(path: &Path<'_>, encoder: Vit, classes: i64) -> Result<Classifier> {
        check_in("classes", classes, 1..=1 << 20)?;
        let VitConfig { width, precision, .. } = *encoder.config();
        let head = Linear::with_default_init(&(path / "head"), width, classes, precision)?;
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

/// The published rule of a [`Classifier`]'s variable in fine-tuning: layer decay (Clark et al., 2020), and no weight
/// decay for biases, scales and shifts, the class token and the position embedding.
///
/// The learning rate is that of the step for the head, `decay` times that for the last of `depth` blocks and the norm
/// behind it, `decay` squared for the block before, and so on; embeddings and class token get one more factor than the
/// first block. A `decay` of 1 makes all rates equal.
///
/// ```
/// use patchmix::finetune::update_rule;
///
/// let matrix = tch::Tensor::zeros([2, 2], tch::kind::FLOAT_CPU);
/// let rule = |name| update_rule(name, &matrix, 12, 0.75);
/// assert_eq!(rule("head.weight").rate, 1.0);
/// assert_eq!(rule("blocks.11.mlp.fc1.weight").rate, 0.75);
/// assert_eq!(rule("pos_embed").rate, 0.75_f64.powi(13));
/// assert!(rule("head.weight").decays && !rule("pos_embed").decays);
/// ```
pub fn update_rule(name: &str, weight: &Tensor, depth: i64, decay: f64) -> UpdateRule {
    let (first, rest) = name.split_once('.').unwrap_or((name, ""));
    let is_token = matches!(first, "cls_token" | "pos_embed");
    let layers_above = match first {
        _ if is_token || first == "patch_embed" => depth.saturating_add(1),
        "blocks" => rest
            .split('.')
            .next()
            .and_then(|index| index.parse().ok())
            .map_or(0, |index: i64| depth.saturating_sub(index)),
        "norm" => 1,
        _ => 0,
    };
    UpdateRule { rate: decay.powf(layers_above as f64), decays: UpdateRule::of(weight).decays && !is_token }
}
