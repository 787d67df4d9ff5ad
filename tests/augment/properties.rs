//! Properties of every recipe, batch and seed.

use std::sync::{Mutex, MutexGuard, PoisonError};

use approx::assert_abs_diff_eq;
use patchmix::Error;
use patchmix::augment::{Crop, IMAGENET_MEAN, IMAGENET_STD, JitterStep, ViewParameters, ViewRecipe, normalize};
use proptest::prelude::*;
use tch::{Device, Kind, Tensor};

use crate::{STEPS, assert_near, plain};

/// Locks the random generator. It is shared by the process, and tests run in parallel: seed and draw only with this
/// lock.
pub(crate) fn generator() -> MutexGuard<'static, ()> {
    static GENERATOR: Mutex<()> = Mutex::new(());
    GENERATOR.lock().unwrap_or_else(PoisonError::into_inner)
}

#[test]
fn each_image_uses_its_own_parameters() {
    let _generator = generator();
    tch::manual_seed(3);
    // More images than one chunk.
    let images = Tensor::rand([24, 3, 90, 110], (Kind::Float, Device::Cpu));
    let recipe = ViewRecipe { blur_probability: 0.5, ..ViewRecipe::second(16, 0.1) };
    let parameters = recipe.draw(24, 90, 110).unwrap();
    let singly: Vec<Tensor> = (0..24)
        .map(|image| recipe.apply(&images.narrow(0, image, 1), &parameters[image as usize..][..1]).unwrap())
        .collect();
    assert_near(&recipe.apply(&images, &parameters).unwrap(), &Tensor::cat(&singly, 0), 1e-5);
}

#[test]
fn bytes_and_every_layout_and_kind_give_the_same_views() {
    let _generator = generator();
    tch::manual_seed(4);
    let bytes = Tensor::randint(256, [6, 3, 20, 14], (Kind::Uint8, Device::Cpu));
    let floats = bytes.to_kind(Kind::Float) / 255.0;
    let recipe = ViewRecipe::second(16, 0.1);
    let parameters = recipe.draw(6, 20, 14).unwrap();
    let expected = recipe.apply(&floats, &parameters).unwrap();
    let channels_last = |images: &Tensor| images.permute([0, 2, 3, 1]).contiguous().permute([0, 3, 1, 2]);
    for images in [&bytes, &channels_last(&bytes), &channels_last(&floats), &floats.to_kind(Kind::Double)] {
        assert_near(&recipe.apply(images, &parameters).unwrap(), &expected, 1e-5);
    }
    let before = bytes.copy();
    assert_near(&normalize(&bytes, [0.5; 3], [0.25; 3]).unwrap(), &((&floats - 0.5) / 0.25), 1e-5);
    assert_eq!(bytes, before);
}

#[test]
fn the_identity_recipe_normalizes_only() {
    let _generator = generator();
    tch::manual_seed(5);
    let recipe = ViewRecipe {
        crop_ratio: (1.0, 1.0),
        flip_probability: 0.0,
        jitter_probability: 0.0,
        gray_probability: 0.0,
        blur_probability: 0.0,
        ..ViewRecipe::first(32, 1.0)
    };
    let images = Tensor::rand([5, 3, 32, 32], (Kind::Float, Device::Cpu));
    assert_eq!(recipe.view(&images).unwrap(), normalize(&images, IMAGENET_MEAN, IMAGENET_STD).unwrap());
    // Jitter of strength 0 changes nothing, even with probability 1.
    let weak =
        ViewRecipe { jitter_probability: 1.0, brightness: 0.0, contrast: 0.0, saturation: 0.0, hue: 0.0, ..recipe };
    assert_eq!(weak.view(&images).unwrap(), normalize(&images, IMAGENET_MEAN, IMAGENET_STD).unwrap());
}

#[test]
fn draw_follows_the_seed() {
    let _generator = generator();
    let recipe = ViewRecipe::second(32, 0.1);
    let draw = |seed, count| {
        tch::manual_seed(seed);
        recipe.draw(count, 40, 32).unwrap()
    };
    assert_eq!(draw(1, 64), draw(1, 64));
    assert_ne!(draw(1, 64), draw(2, 64));
    assert_ne!(recipe.draw(64, 40, 32).unwrap(), draw(2, 64));
    assert!(draw(1, 0).is_empty());
}

#[test]
fn frequencies_are_those_of_the_recipe() {
    let _generator = generator();
    tch::manual_seed(6);
    let drawn = ViewRecipe::second(32, 0.1).draw(20_000, 32, 32).unwrap();
    let share = |condition: fn(&ViewParameters) -> bool| {
        drawn.iter().filter(|parameters| condition(parameters)).count() as f64 / drawn.len() as f64
    };
    // Five standard deviations of a share of 20,000 are below 0.018.
    for (share, probability) in [
        (share(|parameters| parameters.flip), 0.5),
        (share(|parameters| parameters.jitter.is_some()), 0.8),
        (share(|parameters| parameters.gray), 0.2),
        (share(|parameters| parameters.blur_sigma.is_some()), 0.1),
        (share(|parameters| parameters.solarize), 0.2),
        (share(|parameters| parameters.jitter.is_some_and(|jitter| jitter.order[2] == JitterStep::Hue)), 0.2),
        (share(|parameters| parameters.jitter.is_some_and(|jitter| jitter.order[0] == JitterStep::Contrast)), 0.2),
    ] {
        assert_abs_diff_eq!(share, probability, epsilon = 0.018);
    }
}

#[test]
fn a_crop_that_never_fits_becomes_the_center_crop() {
    let _generator = generator();
    let recipe = ViewRecipe { crop_scale: (0.9, 1.0), ..ViewRecipe::first(8, 0.9) };
    for (height, width, crop) in [
        (6, 60, Crop { top: 0, left: 26, height: 6, width: 8 }),
        (60, 6, Crop { top: 26, left: 0, height: 8, width: 6 }),
    ] {
        let drawn = recipe.draw(8, height, width).unwrap();
        assert!(drawn.iter().all(|parameters| parameters.crop == crop), "{drawn:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(64) })]

    #[test]
    fn parameters_lie_within_the_recipe(
        seed in 0_i64..1000,
        (height, width, size) in (1_i64..50, 1_i64..50, 1_i64..20),
        least in 0.01_f64..1.0,
        strength in 0.0_f64..1.5,
        hue in 0.0_f64..0.5,
    ) {
        let _generator = generator();
        tch::manual_seed(seed);
        let (brightness, contrast, saturation) = (strength, strength, strength);
        let recipe = ViewRecipe { brightness, contrast, saturation, hue, ..ViewRecipe::first(size, least) };
        let drawn = recipe.draw(16, height, width).unwrap();
        for ViewParameters { crop, jitter, blur_sigma, solarize, .. } in &drawn {
            prop_assert!(crop.top >= 0 && crop.height >= 1 && crop.top + crop.height <= height);
            prop_assert!(crop.left >= 0 && crop.width >= 1 && crop.left + crop.width <= width);
            prop_assert!(blur_sigma.is_some_and(|sigma| (0.1..=2.0).contains(&sigma)) && !solarize);
            if let Some(jitter) = jitter {
                for factor in [jitter.brightness, jitter.contrast, jitter.saturation] {
                    prop_assert!(factor >= 0.0 && (factor - 1.0).abs() <= strength + 1e-12);
                }
                prop_assert!(jitter.hue.abs() <= hue);
                prop_assert!(STEPS.iter().all(|step| jitter.order.contains(step)));
            }
        }
        // Views of every size can be made, and values stay in range.
        let images = Tensor::rand([16, 3, height, width], (Kind::Float, Device::Cpu));
        let views = ViewRecipe { mean: [0.0; 3], std: [1.0; 3], ..recipe }.apply(&images, &drawn).unwrap();
        prop_assert_eq!(views.size(), [16, 3, size, size]);
        prop_assert!(views.min().double_value(&[]) >= -1e-5 && views.max().double_value(&[]) <= 1.0 + 1e-5);
    }
}

#[test]
fn an_empty_batch_gives_no_views() {
    let images = Tensor::zeros([0, 3, 8, 8], (Kind::Float, Device::Cpu));
    assert_eq!(plain(4).view(&images).unwrap().size(), [0, 3, 4, 4]);
}

#[test]
fn a_view_of_crops_is_a_view_without_cropping() {
    let _generator = generator();
    let images = Tensor::randint(256, [6, 3, 24, 24], (Kind::Uint8, Device::Cpu));
    // A crop of the whole image, at the size of the view, changes nothing.
    let second = ViewRecipe { crop_scale: (1.0, 1.0), crop_ratio: (1.0, 1.0), ..ViewRecipe::second(24, 0.1) };
    for recipe in [ViewRecipe { solarize_probability: 0.0, ..second.clone() }, ViewRecipe::local(24, (1.0, 1.0))] {
        let recipe = ViewRecipe { crop_ratio: (1.0, 1.0), ..recipe };
        let drawn = |view: &dyn Fn() -> Tensor| {
            tch::manual_seed(7);
            (view(), Tensor::rand([3], (Kind::Float, Device::Cpu)))
        };
        let (whole, next) = drawn(&|| recipe.view(&images).unwrap());
        let (rest, next_of_rest) = drawn(&|| recipe.view_of_crops(&images).unwrap());
        assert_near(&rest, &whole, 1e-4);
        assert_eq!(next, next_of_rest);
        // Bytes or floats.
        let (floats, _) = drawn(&|| recipe.view_of_crops(&(images.to_kind(Kind::Float) / 255.0)).unwrap());
        assert_near(&floats, &rest, 1e-5);
    }
    assert_eq!(second.view_of_crops(&images.narrow(0, 0, 0)).unwrap().size(), [0, 3, 24, 24]);
    assert!(matches!(second.view_of_crops(&images.narrow(2, 0, 23)), Err(Error::Shape { name: "crops", .. })));
}
