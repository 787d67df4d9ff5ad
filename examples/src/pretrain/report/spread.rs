//! How the trained encoder spreads its features: alignment, uniformity and effective rank. No label is needed.

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
    /// Measures the features `[N, width]` of test images, and the encoder's features of their views.
    pub(super) fn measure(images: &Images, encoder: &Vit, features: &Tensor, settings: &Settings) -> Result<Spread> {
        let count = features.size()[0];
        let compared = features.f_slice(0, None, None, (count + MAX_COMPARED - 1) / MAX_COMPARED)?;
        Ok(Spread {
            alignment: aligned(images, encoder, settings)?,
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
fn aligned(images: &Images, encoder: &Vit, settings: &Settings) -> Result<f64> {
    let _no_grad = tch::no_grad_guard();
    let count = if settings.knn_images == 0 { MAX_ALIGNED } else { settings.knn_images.min(MAX_ALIGNED) };
    let images = images.dataset(Split::Test, count, settings.image_size)?.images;
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
