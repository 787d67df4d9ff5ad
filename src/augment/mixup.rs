//! Mixup (Zhang et al., 2018) and CutMix (Yun et al., 2019) with their soft labels. The partner of an image is the one
//! at its place in the reversed batch.

use tch::{Device, Kind, Tensor};

use super::boxes::{check_box, inside};
use super::parameters::{MAX_IMAGES, below};
use super::{Crop, check_images, draw_numbers};
use crate::error::{Error, Result, check_in, check_shape, check_value};
use crate::numbers::{one_hot, scalar, to_device};

/// The mix of one image with its partner: image `i` of `B` with image `B - 1 - i`. The middle image of an odd batch is
/// its own partner.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum PairMix {
    /// Mixup: each pixel is `share` of the image plus `1 - share` of its partner.
    Blend {
        /// Between 0 and 1.
        share: f64,
    },
    /// CutMix: the box shows the partner. Its height and width may be 0.
    Paste(Crop),
}

/// Mixup and CutMix: how to draw the mixes that [`mix_pairs`] applies.
#[derive(Debug, Clone, PartialEq)]
pub struct MixupCutMix {
    /// Mixup's share follows Beta(alpha, alpha). 0 turns Mixup off; otherwise 0.01 to 100.
    pub mixup_alpha: f64,
    /// The same for CutMix, where the share is the part of the image outside the box, before the box is clipped.
    pub cutmix_alpha: f64,
    /// Probability of CutMix if both are on.
    pub switch_probability: f64,
    /// Whether every image gets a mix of its own, instead of one share or box for the whole batch.
    pub per_image: bool,
}

impl Default for MixupCutMix {
    /// The published fine-tuning settings: Mixup 0.8, CutMix 1, equally often, one draw a batch.
    fn default() -> MixupCutMix {
        MixupCutMix { mixup_alpha: 0.8, cutmix_alpha: 1.0, switch_probability: 0.5, per_image: false }
    }
}

/// Random numbers per mix, besides its share.
const NUMBERS_PER_MIX: usize = 3;

impl MixupCutMix {
    /// Draws a mix for each of `batch_size` images of `height` x `width` pixels. With Mixup and CutMix both off, every
    /// mix is the identity.
    ///
    /// CutMix draws the center of the box uniformly and clips the box to the image, as published. Follows
    /// [`tch::manual_seed`]; drawn on the CPU, so that it never waits for a GPU.
    ///
    /// # Errors
    ///
    /// [`Error::Value`] if a setting or an argument is out of range; `batch_size` is at most 2^22.
    pub fn draw(&self, batch_size: i64, height: i64, width: i64) -> Result<Vec<PairMix>> {
        let MixupCutMix { mixup_alpha, cutmix_alpha, switch_probability, per_image } = *self;
        check_in("batch_size", batch_size, 0..=MAX_IMAGES)?;
        for (name, alpha) in [("mixup_alpha", mixup_alpha), ("cutmix_alpha", cutmix_alpha)] {
            check_value(name, alpha, "0 or between 0.01 and 100", alpha == 0.0 || (0.01..=100.0).contains(&alpha))?;
        }
        check_in("switch_probability", switch_probability, 0.0..=1.0)?;
        let cutmix_probability = match (mixup_alpha > 0.0, cutmix_alpha > 0.0) {
            (_, false) => 0.0,
            (false, true) => 1.0,
            (true, true) => switch_probability,
        };
        let count = if per_image { batch_size } else { 1 };
        let numbers = draw_numbers(count, (height, width), NUMBERS_PER_MIX)?;
        let shares = beta(mixup_alpha, count)?.into_iter().zip(beta(cutmix_alpha, count)?);
        let mixes = numbers.chunks_exact(NUMBERS_PER_MIX).zip(shares).map(|(numbers, (blend_share, cut_share))| {
            match numbers[0] < cutmix_probability {
                true => PairMix::Paste(cutmix_box(cut_share, height, width, &numbers[1..])),
                false => PairMix::Blend { share: blend_share },
            }
        });
        let mixes: Vec<PairMix> = mixes.collect();
        Ok(mixes.into_iter().cycle().take(batch_size as usize).collect())
    }
}

/// `count` draws from Beta(alpha, alpha); ones if `alpha` is 0.
fn beta(alpha: f64, count: i64) -> Result<Vec<f64>> {
    if alpha == 0.0 {
        return Ok(vec![1.0; count as usize]);
    }
    // A / (A + B) of two gamma draws follows the Beta distribution.
    let alphas = Tensor::f_ones([2, count], (Kind::Double, Device::Cpu))?.f_mul(&scalar(alpha)?)?;
    let gammas = alphas.f_internal_standard_gamma()?;
    Ok(Vec::<f64>::try_from(gammas.f_get(0)?.f_div(&gammas.f_sum_dim_intlist(0, false, None)?)?)?)
}

/// A box of the image's aspect ratio and `1 - share` of its area around a random pixel, clipped to the image.
fn cutmix_box(share: f64, height: i64, width: i64, numbers: &[f64]) -> Crop {
    let side = (1.0 - share).max(0.0).sqrt();
    let stretch = |limit: i64, number: f64| {
        let (center, half) = (below(number, limit), (limit as f64 * side) as i64 / 2);
        let (first, end) = ((center - half).max(0), center.saturating_add(half).min(limit));
        (first, end - first)
    };
    let ((top, height), (left, width)) = (stretch(height, numbers[0]), stretch(width, numbers[1]));
    Crop { top, left, height, width }
}

impl PairMix {
    fn check(&self, height: i64, width: i64) -> Result<()> {
        match self {
            PairMix::Blend { share } => check_in("share", *share, 0.0..=1.0),
            PairMix::Paste(pasted) => check_box(pasted, height, width),
        }
    }

    /// The share of the mixed image, of `height` x `width` pixels, that is the image's own and not its partner's.
    pub fn own_share(&self, height: i64, width: i64) -> f64 {
        match self {
            PairMix::Blend { share } => *share,
            PairMix::Paste(pasted) => {
                1.0 - (pasted.height as f64 * pasted.width as f64) / (height as f64 * width as f64)
            }
        }
    }
}

/// Mixes each of the images `[B, 3, H, W]`, `Float`, with its partner.
///
/// # Errors
///
/// [`Error::Shape`] and [`Error::Kind`] for other images, or if `mixes` has another length than the batch;
/// [`Error::Value`] unless every share is between 0 and 1 and every box lies within its image.
pub fn mix_pairs(images: &Tensor, mixes: &[PairMix]) -> Result<Tensor> {
    let (_, _, height, width) = check_images(images, mixes.len())?;
    if images.f_kind()? != Kind::Float {
        return Err(Error::Kind { name: "images", expected: "Float", actual: images.f_kind()? });
    }
    mixes.iter().try_for_each(|mix| mix.check(height, width))?;
    let _no_grad = tch::no_grad_guard();
    let nothing = Crop { top: 0, left: 0, height: 0, width: 0 };
    let parts = mixes.iter().map(|mix| match mix {
        PairMix::Blend { share } => (*share as f32, nothing),
        PairMix::Paste(pasted) => (1.0, *pasted),
    });
    let (shares, boxes): (Vec<f32>, Vec<Crop>) = parts.unzip();
    let device = images.device();
    let shares = to_device(&Tensor::f_from_slice(&shares)?, device)?.f_view([-1, 1, 1, 1])?;
    let own = inside(&boxes, height, width, device)?.f_logical_not()?.f_to_kind(Kind::Float)?.f_mul(&shares)?;
    Ok(images.f_flip([0])?.f_lerp_tensor(images, &own)?)
}

/// The soft labels `[B, classes]`, `Float`, of images of `height` x `width` pixels mixed by [`mix_pairs`]: the exact
/// shares of the image's class and of its partner's, with label smoothing, `target (1 - smoothing) + smoothing /
/// classes`.
///
/// `labels` is `[B]` of `Int64`. Rows sum to 1 for labels in `0..classes`; that is not checked, because it would wait
/// for the GPU.
///
/// # Errors
///
/// [`Error::Shape`] unless there are as many labels as mixes, [`Error::Kind`] unless they are `Int64`; [`Error::Value`]
/// unless `smoothing` is between 0 and 1, `classes` between 1 and 2^24, height and width at least 1, and every mix fits
/// the image.
pub fn pair_targets(
    labels: &Tensor,
    mixes: &[PairMix],
    (height, width): (i64, i64),
    classes: i64,
    smoothing: f64,
) -> Result<Tensor> {
    const MAX_CLASSES: i64 = 1 << 24;
    check_shape("labels", labels, &[("B", Some(mixes.len() as i64))])?;
    if labels.f_kind()? != Kind::Int64 {
        return Err(Error::Kind { name: "labels", expected: "Int64", actual: labels.f_kind()? });
    }
    check_in("classes", classes, 1..=MAX_CLASSES)?;
    check_in("smoothing", smoothing, 0.0..=1.0)?;
    check_in("height", height, 1..)?;
    check_in("width", width, 1..)?;
    mixes.iter().try_for_each(|mix| mix.check(height, width))?;
    let device = labels.device();
    let shares: Vec<f32> = mixes.iter().map(|mix| mix.own_share(height, width) as f32).collect();
    let shares = to_device(&Tensor::f_from_slice(&shares)?, device)?.f_unsqueeze(1)?;
    let own = one_hot(labels, classes)?;
    let mixed = own.f_flip([0])?.f_lerp_tensor(&own, &shares)?;
    Ok(mixed.f_mul(&scalar(1.0 - smoothing)?)?.f_add(&scalar(smoothing / classes as f64)?)?)
}
