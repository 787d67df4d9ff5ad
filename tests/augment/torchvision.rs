//! Every operation, and the whole chain, against torchvision's. The blur is Pillow's.
//!
//! `scripts/make_augment_fixtures.py` writes `tests/fixtures/augment.safetensors` and documents its contents.

use std::collections::HashMap;

use patchmix::augment::{ColorJitter, Crop, IMAGENET_MEAN, IMAGENET_STD, ViewParameters, ViewRecipe, normalize};
use tch::{Kind, Tensor};

use crate::{NO_JITTER, STEPS, assert_near, plain, unchanged};

struct Fixtures(HashMap<String, Tensor>);

impl Fixtures {
    fn read() -> Fixtures {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/augment.safetensors");
        Fixtures(Tensor::read_safetensors(path).unwrap().into_iter().collect())
    }

    fn tensor(&self, name: &str) -> &Tensor {
        self.0.get(name).unwrap_or_else(|| panic!("no fixture {name}"))
    }

    fn numbers(&self, name: &str) -> Vec<f64> {
        Vec::try_from(self.tensor(name).to_kind(Kind::Double).flatten(0, -1)).unwrap()
    }

    fn flags(&self, name: &str) -> Vec<bool> {
        self.numbers(name).into_iter().map(|number| number != 0.0).collect()
    }

    fn crops(&self, name: &str) -> Vec<Crop> {
        let numbers = Vec::<i64>::try_from(self.tensor(name).flatten(0, -1)).unwrap();
        let crop = |box_: &[i64]| Crop { top: box_[0], left: box_[1], height: box_[2], width: box_[3] };
        numbers.chunks_exact(4).map(crop).collect()
    }
}

/// Asserts that the four square fixture images become the views of operation `name`. `change` sets the parameters of
/// each image from its number in the fixture `factors`.
#[track_caller]
fn assert_operation(name: &str, factors: &str, recipe: &ViewRecipe, change: impl Fn(&mut ViewParameters, f64)) {
    let fixtures = Fixtures::read();
    let factors = if factors.is_empty() { vec![0.0; 4] } else { fixtures.numbers(factors) };
    let parameters: Vec<ViewParameters> = factors
        .into_iter()
        .map(|factor| {
            let mut parameters = unchanged(16, 16);
            change(&mut parameters, factor);
            parameters
        })
        .collect();
    let views = recipe.apply(fixtures.tensor("square"), &parameters).unwrap();
    assert_near(&views, fixtures.tensor(&format!("{name}.view")), 1e-5);
}

#[test]
fn crop_and_resize_are_torchvisions() {
    let fixtures = Fixtures::read();
    let parameters: Vec<ViewParameters> =
        fixtures.crops("crop.box").into_iter().map(|crop| ViewParameters { crop, ..unchanged(20, 28) }).collect();
    for (name, size) in [("crop_up.view", 24), ("crop_down.view", 7)] {
        let views = plain(size).apply(fixtures.tensor("wide"), &parameters).unwrap();
        assert_near(&views, fixtures.tensor(name), 1e-5);
    }
}

#[test]
fn brightness_is_torchvisions() {
    assert_operation("brightness", "brightness.factor", &plain(16), |parameters, brightness| {
        parameters.jitter = Some(ColorJitter { brightness, ..NO_JITTER });
    });
}

#[test]
fn contrast_is_torchvisions() {
    assert_operation("contrast", "contrast.factor", &plain(16), |parameters, contrast| {
        parameters.jitter = Some(ColorJitter { contrast, ..NO_JITTER });
    });
}

#[test]
fn saturation_is_torchvisions() {
    assert_operation("saturation", "saturation.factor", &plain(16), |parameters, saturation| {
        parameters.jitter = Some(ColorJitter { saturation, ..NO_JITTER });
    });
}

#[test]
fn hue_is_torchvisions() {
    assert_operation("hue", "hue.factor", &plain(16), |parameters, hue| {
        parameters.jitter = Some(ColorJitter { hue, ..NO_JITTER });
    });
}

#[test]
fn gray_is_torchvisions() {
    assert_operation("gray", "", &plain(16), |parameters, _| parameters.gray = true);
}

/// The largest box is wider than the image.
#[test]
fn blur_is_pillows_on_floats() {
    assert_operation("blur", "blur.sigma", &plain(16), |parameters, sigma| parameters.blur_sigma = Some(sigma));
}

#[test]
fn solarize_is_torchvisions() {
    assert_operation("solarize", "", &plain(16), |parameters, _| parameters.solarize = true);
}

#[test]
fn flip_is_torchvisions() {
    assert_operation("flip", "", &plain(16), |parameters, _| parameters.flip = true);
}

#[test]
fn normalization_is_torchvisions() {
    assert_operation("normalize", "", &ViewRecipe::first(16, 1.0), |_, _| ());
    let fixtures = Fixtures::read();
    let normalized = normalize(fixtures.tensor("square"), IMAGENET_MEAN, IMAGENET_STD).unwrap();
    assert_near(&normalized, fixtures.tensor("normalize.view"), 1e-5);
}

/// The parameters of the chain in the fixture.
fn chain(fixtures: &Fixtures) -> Vec<ViewParameters> {
    let (crops, sigmas) = (fixtures.crops("chain.crop"), fixtures.numbers("chain.sigma"));
    let (orders, factors) = (fixtures.numbers("chain.order"), fixtures.numbers("chain.factors"));
    let [jitter, gray, solarize, flip] =
        ["jitter", "gray", "solarize", "flip"].map(|name| fixtures.flags(&format!("chain.{name}")));
    let parameters = |image: usize| {
        let factor = |step: usize| factors[4 * image + step];
        let color_jitter = ColorJitter {
            order: std::array::from_fn(|turn| STEPS[orders[4 * image + turn] as usize]),
            brightness: factor(0),
            contrast: factor(1),
            saturation: factor(2),
            hue: factor(3),
        };
        ViewParameters {
            crop: crops[image],
            jitter: jitter[image].then_some(color_jitter),
            gray: gray[image],
            blur_sigma: (sigmas[image] > 0.0).then_some(sigmas[image]),
            solarize: solarize[image],
            flip: flip[image],
        }
    };
    (0..crops.len()).map(parameters).collect()
}

#[test]
fn whole_chain_is_torchvisions() {
    let fixtures = Fixtures::read();
    let views = ViewRecipe::first(16, 1.0).apply(fixtures.tensor("wide"), &chain(&fixtures)).unwrap();
    // 1e-5 in pixel values, divided by the standard deviation.
    assert_near(&views, fixtures.tensor("chain.view"), 1e-5 / 0.224);
}

#[test]
fn the_input_is_unchanged_and_gets_no_gradient() {
    let fixtures = Fixtures::read();
    let images = fixtures.tensor("wide").copy().set_requires_grad(true);
    let mut parameters = chain(&fixtures);
    assert!(!plain(16).apply(&images, &parameters).unwrap().requires_grad());
    assert_eq!(images, *fixtures.tensor("wide"));
    // Even if no step makes a copy.
    parameters = vec![unchanged(20, 28); 4];
    assert!(!plain(20).apply(&images, &parameters).unwrap().requires_grad());
    assert_eq!(images, *fixtures.tensor("wide"));
}
