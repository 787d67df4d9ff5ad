//! Views against torchvision's own results, what must hold for every recipe, and what is refused.

// The lint's exception for tests does not reach the functions that tests share.
#![allow(clippy::unwrap_used)]

mod classifier;
mod errors;
mod properties;
mod torchvision;

use patchmix::augment::{ColorJitter, Crop, JitterStep, ViewParameters, ViewRecipe};
use tch::Tensor;

const STEPS: [JitterStep; 4] = [JitterStep::Brightness, JitterStep::Contrast, JitterStep::Saturation, JitterStep::Hue];

/// A recipe that leaves values as they are.
fn plain(size: i64) -> ViewRecipe {
    ViewRecipe { mean: [0.0; 3], std: [1.0; 3], ..ViewRecipe::first(size, 1.0) }
}

/// Everything shown, nothing changed.
fn unchanged(height: i64, width: i64) -> ViewParameters {
    let crop = Crop { top: 0, left: 0, height, width };
    ViewParameters { crop, jitter: None, grey: false, blur_sigma: None, solarize: false, flip: false }
}

const NO_JITTER: ColorJitter = ColorJitter { order: STEPS, brightness: 1.0, contrast: 1.0, saturation: 1.0, hue: 0.0 };

#[track_caller]
fn assert_near(actual: &Tensor, expected: &Tensor, tolerance: f64) {
    assert_eq!(actual.size(), expected.size());
    let difference = (actual - expected).abs().max().double_value(&[]);
    assert!(difference <= tolerance, "largest difference {difference:e}, allowed {tolerance:e}");
}
