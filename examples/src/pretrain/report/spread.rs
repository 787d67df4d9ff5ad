//! How the trained encoder spreads its features: alignment, uniformity and effective rank. No label is needed.

use patchmix::augment::{IMAGENET_MEAN, IMAGENET_STD, normalize};
use patchmix::data::Split;
use patchmix::eval::{alignment, effective_rank, uniformity};
use patchmix::vit::{Pooling, Vit};
use tch::Tensor;

use crate::Result;
use crate::images::Images;
use crate::seeds::{Purpose, seed_for};
use crate::settings::Settings;

/// Test images whose features are compared with each other: the time for it grows with the square.
const MAX_COMPARED: i64 = 4096;
/// Training images, where there are no test images.
const MAX_UNLABELED: i64 = 1024;
/// Test images of which two views are compared, and how many of them go through the encoder together.
const MAX_ALIGNED: i64 = 512;
const BATCH: i64 = 128;

/// Measures of the features of test images, as [`patchmix::eval`] defines them.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Spread {
    alignment: f64,
    /// Of two images or more.
    uniformity: Option<f64>,
    effective_rank: f64,
}

impl Spread {
    /// Measures features `[N, width]` of test images, and the encoder's features of their views. Without test images,
    /// those of images to train on.
    pub(super) fn measure(
        images: &Images,
        encoder: &Vit,
        test: Option<&Tensor>,
        settings: &Settings,
    ) -> Result<Spread> {
        let features = test.map_or_else(|| of_examples(images, encoder, settings), |test| Ok(test.shallow_clone()))?;
        let count = features.size()[0];
        let compared = features.f_slice(0, None, None, (count + MAX_COMPARED - 1) / MAX_COMPARED)?;
        Ok(Spread {
            alignment: aligned(images, test.is_some(), encoder, settings)?,
            uniformity: (count >= 2).then(|| uniformity(&compared)).transpose()?,
            effective_rank: effective_rank(&compared)?,
        })
    }

    /// The columns of `metrics.csv`, empty where nothing was measured.
    pub(super) fn columns(spread: Option<Spread>) -> [(&'static str, Option<f64>); 3] {
        [
            ("alignment", spread.map(|spread| spread.alignment)),
            ("uniformity", spread.and_then(|spread| spread.uniformity)),
            ("effective_rank", spread.map(|spread| spread.effective_rank)),
        ]
    }
}

/// The alignment of the features of a first and a second view of test images, drawn as for training. They are the same
/// views every time, so that epochs compare. Later draws of the run are seeded anew and do not depend on these.
fn aligned(images: &Images, has_test: bool, encoder: &Vit, settings: &Settings) -> Result<f64> {
    let _no_grad = tch::no_grad_guard();
    let (count, size) = (at_most(MAX_ALIGNED, settings), settings.image_size);
    let images =
        if has_test { images.dataset(Split::Test, count, size)?.images } else { images.examples(count, size)? };
    tch::manual_seed(seed_for(settings.seed, 0, 0, Purpose::Alignment));
    let mut features = [Vec::new(), Vec::new()];
    for batch in images.f_split(BATCH, 0)? {
        for (recipe, features) in settings.view_recipes().iter().zip(&mut features) {
            features.push(encoder.features(&recipe.view(&batch)?, Pooling::ClassToken, false)?);
        }
    }
    let [first, second] = features;
    Ok(alignment(&Tensor::f_cat(&first, 0)?, &Tensor::f_cat(&second, 0)?)?)
}

/// Features `[N, width]` of images to train on, which are evaluated like test images.
fn of_examples(images: &Images, encoder: &Vit, settings: &Settings) -> Result<Tensor> {
    let _no_grad = tch::no_grad_guard();
    let size = settings.image_size;
    let examples = images.examples(at_most(MAX_UNLABELED, settings), size)?;
    let mut features = Vec::new();
    for batch in examples.f_split(BATCH, 0)? {
        let views = normalize(&images.evaluated(&batch, size)?, IMAGENET_MEAN, IMAGENET_STD)?;
        features.push(encoder.features(&views, Pooling::ClassToken, false)?);
    }
    Ok(Tensor::f_cat(&features, 0)?)
}

/// `most` images, or as many as --knn-images says if these are fewer.
fn at_most(most: i64, settings: &Settings) -> i64 {
    if settings.knn_images == 0 { most } else { settings.knn_images.min(most) }
}
