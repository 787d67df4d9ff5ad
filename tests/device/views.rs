//! Views made on the device, against torchvision, Pillow's blur and the CPU, one image at a time.
//!
//! `scripts/make_augment_fixtures.py` wrote `tests/fixtures/augment.safetensors`, and documents its contents.

use patchmix::augment::{
    ColorJitter, Crop, IMAGENET_MEAN, IMAGENET_STD, JitterStep, ViewParameters, ViewRecipe, normalize, resize,
};
use patchmix::backend;
use patchmix::data::procedural;
use patchmix::profile::kernel_times;
use tch::{Device, Kind, Tensor};

use crate::common::Golden;
use crate::turn::{Turn, assert_near};

const STEPS: [JitterStep; 4] = [JitterStep::Brightness, JitterStep::Contrast, JitterStep::Saturation, JitterStep::Hue];
const NO_JITTER: ColorJitter = ColorJitter { order: STEPS, brightness: 1.0, contrast: 1.0, saturation: 1.0, hue: 0.0 };

/// A recipe without normalization.
fn plain(size: i64) -> ViewRecipe {
    ViewRecipe { mean: [0.0; 3], std: [1.0; 3], ..ViewRecipe::first(size, 1.0) }
}

/// `crop` without any other change.
fn unchanged(crop: Crop) -> ViewParameters {
    ViewParameters { crop, jitter: None, gray: false, blur_sigma: None, solarize: false, flip: false }
}

fn crops(fixtures: &Golden, name: &str) -> Vec<Crop> {
    let crop = |numbers: &[i64]| Crop { top: numbers[0], left: numbers[1], height: numbers[2], width: numbers[3] };
    fixtures.integers(name).chunks_exact(4).map(crop).collect()
}

#[test]
fn crop_and_resize_equal_torchvision() {
    let turn = Turn::take();
    let fixtures = Golden::read("augment.safetensors");
    let parameters: Vec<ViewParameters> = crops(&fixtures, "crop.box").into_iter().map(unchanged).collect();
    for (name, size) in [("crop_up.view", 24), ("crop_down.view", 7)] {
        let views = plain(size).apply(&turn.put(fixtures.tensor("wide"), Kind::Float), &parameters).unwrap();
        assert_eq!(views.device(), turn.device);
        assert_near(name, &views, fixtures.tensor(name), 1e-5);
    }
}

#[test]
fn every_operation_equals_torchvision() {
    let turn = Turn::take();
    let fixtures = Golden::read("augment.safetensors");
    let images = turn.put(fixtures.tensor("square"), Kind::Float);
    let whole = unchanged(Crop { top: 0, left: 0, height: 16, width: 16 });
    let jitter = |jitter| ViewParameters { jitter: Some(jitter), ..whole };
    let compare = |name: &str, factors: &str, recipe: &ViewRecipe, change: &dyn Fn(f64) -> ViewParameters| {
        let factors = if factors.is_empty() { vec![0.0; 4] } else { fixtures.numbers(factors) };
        let parameters: Vec<ViewParameters> = factors.into_iter().map(change).collect();
        let views = recipe.apply(&images, &parameters).unwrap();
        assert_near(name, &views, fixtures.tensor(&format!("{name}.view")), 1e-5);
    };
    let recipe = plain(16);
    compare("brightness", "brightness.factor", &recipe, &|brightness| jitter(ColorJitter { brightness, ..NO_JITTER }));
    compare("contrast", "contrast.factor", &recipe, &|contrast| jitter(ColorJitter { contrast, ..NO_JITTER }));
    compare("saturation", "saturation.factor", &recipe, &|saturation| jitter(ColorJitter { saturation, ..NO_JITTER }));
    compare("hue", "hue.factor", &recipe, &|hue| jitter(ColorJitter { hue, ..NO_JITTER }));
    compare("gray", "", &recipe, &|_| ViewParameters { gray: true, ..whole });
    compare("blur", "blur.sigma", &recipe, &|sigma| ViewParameters { blur_sigma: Some(sigma), ..whole });
    compare("solarize", "", &recipe, &|_| ViewParameters { solarize: true, ..whole });
    compare("flip", "", &recipe, &|_| ViewParameters { flip: true, ..whole });
    compare("normalize", "", &ViewRecipe::first(16, 1.0), &|_| whole);
    let normalized = normalize(&images, IMAGENET_MEAN, IMAGENET_STD).unwrap();
    assert_near("normalize", &normalized, fixtures.tensor("normalize.view"), 1e-5);
}

#[test]
fn the_whole_chain_equals_torchvision() {
    let turn = Turn::take();
    let fixtures = Golden::read("augment.safetensors");
    let (orders, factors) = (fixtures.numbers("chain.order"), fixtures.numbers("chain.factors"));
    let sigmas = fixtures.numbers("chain.sigma");
    let [jitter, gray, solarize, flip] =
        ["jitter", "gray", "solarize", "flip"].map(|name| fixtures.numbers(&format!("chain.{name}")));
    let parameters = |(image, crop)| {
        let factor = |step: usize| factors[4 * image + step];
        let color_jitter = ColorJitter {
            order: std::array::from_fn(|turn| STEPS[orders[4 * image + turn] as usize]),
            brightness: factor(0),
            contrast: factor(1),
            saturation: factor(2),
            hue: factor(3),
        };
        ViewParameters {
            crop,
            jitter: (jitter[image] != 0.0).then_some(color_jitter),
            gray: gray[image] != 0.0,
            blur_sigma: (sigmas[image] > 0.0).then_some(sigmas[image]),
            solarize: solarize[image] != 0.0,
            flip: flip[image] != 0.0,
        }
    };
    let parameters: Vec<ViewParameters> =
        crops(&fixtures, "chain.crop").into_iter().enumerate().map(parameters).collect();
    let views = ViewRecipe::first(16, 1.0).apply(&turn.put(fixtures.tensor("wide"), Kind::Float), &parameters).unwrap();
    // The pixels differ by at most 1e-5 before the division by the standard deviation.
    assert_near("chain", &views, fixtures.tensor("chain.view"), 1e-5 / 0.224);
}

/// A batch of bytes on the device against fractions on the CPU, image by image: the draws of one image affect no other.
#[test]
fn the_view_of_a_batch_is_the_views_of_its_images() {
    let turn = Turn::take();
    let images = procedural(200, 32, 1).unwrap().images;
    let fractions = images.to_kind(Kind::Float) / 255.0;
    for recipe in [ViewRecipe::first(32, 0.1), ViewRecipe::second(32, 0.1), ViewRecipe::local(12, (0.05, 0.4))] {
        let parameters = recipe.draw(200, 32, 32).unwrap();
        let views = recipe.apply(&images.to_device(turn.device), &parameters).unwrap();
        assert_eq!((views.device(), views.kind()), (turn.device, Kind::Float));
        let one_by_one = (0..).zip(&parameters).map(|(image, parameters)| {
            recipe.apply(&fractions.narrow(0, image, 1), std::slice::from_ref(parameters)).unwrap()
        });
        assert_near("views", &views, &Tensor::cat(&one_by_one.collect::<Vec<_>>(), 0), 1e-4);
    }
}

#[test]
fn views_of_precut_crops_equal_the_views_of_whole_images() {
    let turn = Turn::take();
    let images = procedural(40, 24, 2).unwrap().images.to_device(turn.device);
    let recipe = ViewRecipe { crop_scale: (1.0, 1.0), crop_ratio: (1.0, 1.0), ..ViewRecipe::second(24, 1.0) };
    let with_seed = |view: &dyn Fn() -> patchmix::Result<Tensor>| {
        tch::manual_seed(3);
        view().unwrap()
    };
    let cropped = with_seed(&|| recipe.view_of_crops(&images));
    assert_eq!(cropped.device(), turn.device);
    assert_near("views", &cropped, &with_seed(&|| recipe.view(&images)), 1e-4);
}

#[test]
fn images_are_resized_as_on_the_cpu() {
    let turn = Turn::take();
    let images = Tensor::rand([3, 3, 40, 24], (Kind::Double, Device::Cpu));
    for side in [16, 24, 64] {
        let scaled = resize(&turn.put(&images, Kind::Float), side).unwrap();
        assert_near("resize", &scaled, &resize(&images, side).unwrap(), 1e-5);
    }
}

/// A view is one operation on a CPU, a few kernels on a GPU, and some 240 operations of libtorch elsewhere.
#[test]
fn views_as_one_operation_are_those_of_libtorch() {
    let turn = Turn::take();
    for (height, width, size) in [(1, 1, 1), (17, 40, 12), (50, 23, 37), (90, 120, 64)] {
        let images = Tensor::randint(256, [24, 3, height, width], (Kind::Uint8, Device::Cpu));
        let recipe = ViewRecipe {
            blur_probability: 0.6,
            blur_sigma: (0.1, 5.0),
            solarize_probability: 0.5,
            hue: 0.5,
            ..ViewRecipe::first(size, 0.1)
        };
        let parameters = recipe.draw(24, height, width).unwrap();
        backend::allow_own_kernels(false);
        let expected = recipe.apply(&images, &parameters).unwrap();
        let plain = recipe.apply(&images.to_device(turn.device), &parameters).unwrap();
        backend::allow_own_kernels(true);
        assert_near("plain views", &plain, &expected, 1e-4);
        let floats = images.to_kind(Kind::Float) / 255.0;
        for images in [&images, &floats, &floats.permute([0, 2, 3, 1]).contiguous().permute([0, 3, 1, 2])] {
            let views = recipe.apply(&images.to_device(turn.device), &parameters).unwrap();
            assert_near("views", &views, &expected, 1e-4);
            assert_eq!(recipe.apply(&images.to_device(turn.device), &parameters).unwrap(), views);
        }
    }
}

#[test]
fn a_view_takes_seven_kernels_of_a_gpu_at_most() {
    let turn = Turn::take();
    if !turn.device.is_cuda() {
        return;
    }
    let images = Tensor::randint(256, [64, 3, 32, 32], (Kind::Uint8, turn.device));
    for recipe in [ViewRecipe::first(32, 0.1), ViewRecipe::second(24, 0.1)] {
        drop(recipe.view(&images).unwrap()); // compiles the kernels
        let kernels = kernel_times(|| recipe.view(&images).map(drop)).unwrap();
        let computing = kernels.iter().filter(|kernel| !kernel.name.contains("Mem")); // not copies or fills
        let count: u64 = computing.map(|kernel| kernel.calls).sum();
        assert!(count <= 7 && kernels.iter().any(|kernel| kernel.name.contains("view_color")), "{kernels:?}");
    }
}
