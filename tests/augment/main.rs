//! Views and augmentations: against the results of torchvision, Pillow and timm, properties, and errors.

#![allow(clippy::unwrap_used)] // a test may panic, helpers included

#[path = "../common/mod.rs"]
mod common;

mod classifier;
mod errors;
mod pillow;
mod properties;
mod rand_augment;
mod torchvision;

use patchmix::augment::{ColorJitter, Crop, JitterStep, ViewParameters, ViewRecipe};
use tch::Tensor;

const STEPS: [JitterStep; 4] = [JitterStep::Brightness, JitterStep::Contrast, JitterStep::Saturation, JitterStep::Hue];

/// A recipe without normalization.
fn plain(size: i64) -> ViewRecipe {
    ViewRecipe { mean: [0.0; 3], std: [1.0; 3], ..ViewRecipe::first(size, 1.0) }
}

/// The whole image, unchanged.
fn unchanged(height: i64, width: i64) -> ViewParameters {
    let crop = Crop { top: 0, left: 0, height, width };
    ViewParameters { crop, jitter: None, gray: false, blur_sigma: None, solarize: false, flip: false }
}

const NO_JITTER: ColorJitter = ColorJitter { order: STEPS, brightness: 1.0, contrast: 1.0, saturation: 1.0, hue: 0.0 };

#[track_caller]
fn assert_near(actual: &Tensor, expected: &Tensor, tolerance: f64) {
    assert_eq!(actual.size(), expected.size());
    let difference = (actual - expected).abs().max().double_value(&[]);
    assert!(difference <= tolerance, "largest difference {difference:e}, allowed {tolerance:e}");
}
