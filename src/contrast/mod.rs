//! What is trained, and the losses of one batch.

mod head;
mod network;

use tch::{Device, Kind, Tensor, no_grad_guard};

use crate::error::{Error, Result, check_shape};
use crate::loss::{self, Target};
use crate::mix::MixPlan;
use crate::numbers::scalar;
use crate::target::SoftTarget;
use crate::vit::Vit;

pub use head::{Head, HeadConfig};
pub use network::{KeyNetwork, Model, MomentumNetwork};

/// Temperature and label smoothing of the losses.
#[derive(Debug, Clone, PartialEq)]
pub struct LossConfig {
    /// The logits' divisor.
    pub temperature: f64,
    /// Label smoothing of the origin-to-origin target; the published runs have 0.1.
    pub origin_smoothing: f64,
    /// Label smoothing of both mixed targets; the published runs have 0.
    pub mix_smoothing: f64,
}

/// The losses of one batch: scalars, on the device.
#[derive(Debug)]
pub struct Losses {
    /// Unmixed against unmixed.
    pub origin_to_origin: Tensor,
    /// Mixed against unmixed, not yet halved.
    pub mix_to_origin: Tensor,
    /// Mixed against mixed, not yet halved.
    pub mix_to_mix: Tensor,
    /// How far the encoder's features of the second view differ from image to image: the standard deviation of a
    /// coordinate of L2-normalised features, in units of `1 / √width`. Near 1 for features in all directions, 0 for an
    /// encoder that has collapsed and sees all images alike.
    pub feature_std: Tensor,
}

impl Losses {
    /// `origin_to_origin + (mix_to_origin + mix_to_mix) / 2`.
    ///
    /// # Errors
    ///
    /// [`Error::Torch`], which scalars on one device do not cause.
    pub fn total(&self) -> Result<Tensor> {
        let mixed = self.mix_to_origin.f_add(&self.mix_to_mix)?.f_div(&scalar(2.0)?)?;
        Ok(self.origin_to_origin.f_add(&mixed)?)
    }
}

/// The three losses of a batch, in the published order of forward passes.
///
/// `view_1` and `view_2` are two views `[B, 3, H, W]` of the same images; `plan_1` and `plan_2` mix them. The plans may
/// hold the positions of their groups differently, as the published training draws them, but must agree in the number
/// of groups and the stride: these alone decide the targets. Keys come from `momentum` where there is one, otherwise
/// from the model itself, without gradient in both cases.
///
/// # Errors
///
/// [`Error::Shape`] if the views differ, [`Error::Value`] if the plans do; those of [`MixPlan::mix_images`] and of the
/// losses.
pub fn losses(
    model: &Model,
    momentum: Option<&MomentumNetwork>,
    [view_1, view_2]: [&Tensor; 2],
    [plan_1, plan_2]: [&MixPlan; 2],
    config: &LossConfig,
) -> Result<Losses> {
    check_shape("view_1", view_1, &[("B", None), ("3", Some(3)), ("H", None), ("W", None)])?;
    let size = view_1.size();
    let named: Vec<(&str, Option<i64>)> =
        ["B", "3", "H", "W"].into_iter().zip(size.iter().copied().map(Some)).collect();
    check_shape("view_2", view_2, &named)?;
    check_plans(plan_1, plan_2)?;
    let patch_size = model.network.encoder.config().patch_size;
    let (mixed_1, mixed_2) = (plan_1.mix_images(view_1, patch_size)?, plan_2.mix_images(view_2, patch_size)?);

    // Images may share a pass through the encoder, but go through the heads apart, in the published order: the heads'
    // batch statistics are those of one kind of image.
    let Model { network: KeyNetwork { encoder, projector }, predictor } = model;
    let [features_1, mixed_features_2] = features_of(encoder, [view_1, &mixed_2])?;
    let projection_1 = projector.forward(&features_1, true)?;
    let query_1 = predictor.forward(&projection_1, true)?;
    let (feature_std, [key_1, key_2, mixed_key_1]) = {
        let _no_grad = no_grad_guard();
        let (key_1, features_2, mixed_features_1, projector) = match momentum.map(|momentum| &momentum.network) {
            None => {
                let [features_2, mixed_features_1] = features_of(encoder, [view_2, &mixed_1])?;
                (projection_1.f_detach()?, features_2, mixed_features_1, projector)
            }
            Some(KeyNetwork { encoder, projector }) => {
                let [features_1, features_2, mixed_features_1] = features_of(encoder, [view_1, view_2, &mixed_1])?;
                (projector.forward(&features_1, true)?, features_2, mixed_features_1, projector)
            }
        };
        let key_2 = projector.forward(&features_2, true)?;
        (spread(&features_2)?, [key_1, key_2, projector.forward(&mixed_features_1, true)?])
    };
    let mixed_query_2 = predictor.forward(&projector.forward(&mixed_features_2, true)?, true)?;

    let identity = SoftTarget::identity(size[0])?.smoothed(config.origin_smoothing)?;
    let kind = query_1.f_kind()?;
    let targets = plan_2.targets(size[0], kind, query_1.device())?.smoothed(config.mix_smoothing)?;
    let temperature = config.temperature;
    Ok(Losses {
        origin_to_origin: loss::soft_cross_entropy(&query_1, &key_2, Target::Sparse(&identity), temperature)?,
        mix_to_origin: loss::mix_to_origin(&mixed_query_2, &key_1, &targets, temperature)?,
        mix_to_mix: loss::mix_to_mix(&mixed_query_2, &mixed_key_1, &targets, temperature)?,
        feature_std,
    })
}

/// Features of several batches of images of one size. On a GPU in one pass, which fills it better; a CPU is full with one
/// batch, and faster where less memory is in use at a time.
fn features_of<const N: usize>(encoder: &Vit, batches: [&Tensor; N]) -> Result<[Tensor; N]> {
    let mut features = batches.map(Tensor::shallow_clone);
    if encoder.device() == Device::Cpu {
        for features in &mut features {
            *features = encoder.forward(features, true)?;
        }
        return Ok(features);
    }
    let together = encoder.forward(&Tensor::f_cat(&batches, 0)?, true)?.f_split(batches[0].size()[0], 0)?;
    for (features, part) in features.iter_mut().zip(together) {
        *features = part;
    }
    Ok(features)
}

/// The standard deviation over the rows of normalised features `[B, D]`, meaned over the coordinates, times `√D`.
fn spread(features: &Tensor) -> Result<Tensor> {
    let normalized = loss::normalize_rows(features, Kind::Float)?;
    let width = features.size()[1] as f64;
    Ok(normalized.f_std_dim(0, false, false)?.f_mean(Kind::Float)?.f_mul_scalar(width.sqrt())?)
}

/// Views mixed by different numbers of groups, or strides, have no common target.
fn check_plans(plan_1: &MixPlan, plan_2: &MixPlan) -> Result<()> {
    for (name, of_1, of_2) in [
        ("groups of plan_2", plan_1.groups(), plan_2.groups()),
        ("mix_stride of plan_2", plan_1.mix_stride(), plan_2.mix_stride()),
    ] {
        if of_1 != of_2 {
            return Err(Error::Value { name, expected: format!("{of_1} as in plan_1"), actual: of_2 as f64 });
        }
    }
    Ok(())
}
