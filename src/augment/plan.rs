//! Parameters of views as numbers for the operation that makes a whole view.

use tch::{Kind, Tensor};

use super::blur::BlurBox;
use super::{ColorJitter, Crop, JitterStep, ViewParameters, ViewRecipe, full_value};
use crate::error::Result;
use crate::native::views::{BlurWeights, ColorStep, ViewPlan, ViewSizes, views};

/// The views of a batch of images, as [`ViewRecipe::apply`] describes them, in one operation; `None` if there is none
/// for these arguments. `whole` shows the whole image instead of the crop.
pub(super) fn whole_views(
    recipe: &ViewRecipe,
    images: &Tensor,
    parameters: &[ViewParameters],
    whole: bool,
) -> Result<Option<Tensor>> {
    let full = full_value(images)?;
    let sizes = ViewSizes {
        size: recipe.size,
        gain: (1.0 / full) as f32,
        means: recipe.mean.map(|mean| mean as f32),
        inverse_stds: recipe.std.map(|std| (1.0 / std) as f32),
    };
    let (_, _, height, width) = images.size4()?;
    let all = Crop { top: 0, left: 0, height, width };
    let plan = |parameters| plan(parameters, if whole { all } else { parameters.crop });
    let plans: Vec<ViewPlan> = parameters.iter().map(plan).collect();
    match images.f_kind()? {
        Kind::Uint8 => views(images, &plans, sizes),
        _ => views(&images.f_to_kind(Kind::Float)?, &plans, sizes),
    }
}

/// The plan of one view that shows `crop`.
fn plan(parameters: &ViewParameters, crop: Crop) -> ViewPlan {
    let mut steps = [None; 5];
    if let Some(jitter) = parameters.jitter {
        for (step, turn) in steps.iter_mut().zip(jitter.order) {
            *step = color_step(&jitter, turn);
        }
    }
    if parameters.gray {
        steps[4] = Some((ColorStep::Saturation, 0.0));
    }
    ViewPlan {
        crop: [crop.top, crop.left, crop.height, crop.width].map(|pixels| pixels as f32),
        flip: parameters.flip,
        steps,
        blur: parameters.blur_sigma.map(|sigma| BlurBox::new(sigma).weights()),
        solarize: parameters.solarize,
    }
}

/// A step of color jitter, or `None` if it changes nothing.
fn color_step(jitter: &ColorJitter, step: JitterStep) -> Option<(ColorStep, f32)> {
    let (kind, value, unchanged) = match step {
        JitterStep::Brightness => (ColorStep::Brightness, jitter.brightness, 1.0),
        JitterStep::Contrast => (ColorStep::Contrast, jitter.contrast, 1.0),
        JitterStep::Saturation => (ColorStep::Saturation, jitter.saturation, 1.0),
        JitterStep::Hue => (ColorStep::Hue, jitter.hue, 0.0),
    };
    (value != unchanged).then_some((kind, value as f32))
}

impl BlurBox {
    /// The weights of single pixels.
    fn weights(&self) -> BlurWeights {
        let reach = self.reach as f64;
        let outer = self.share / (2.0 * reach + 3.0);
        let inner = (1.0 - self.share) / (2.0 * reach + 1.0) + outer;
        BlurWeights { reach: reach as f32, inner: inner as f32, outer: outer as f32 }
    }
}
