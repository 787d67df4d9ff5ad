//! The errors of recipes, parameters and images out of range.

use patchmix::Error;
use patchmix::augment::{ColorJitter, Crop, ViewParameters, ViewRecipe, normalize};
use tch::{Device, Kind, Tensor};

use crate::{NO_JITTER, plain, unchanged};

#[test]
fn settings_out_of_range_are_errors_that_name_them() {
    let first = || ViewRecipe::first(8, 0.5);
    let cases = [
        ("size", ViewRecipe { size: 0, ..first() }),
        ("crop_scale", ViewRecipe { crop_scale: (0.0, 1.0), ..first() }),
        ("crop_scale", ViewRecipe { crop_scale: (0.5, 0.4), ..first() }),
        ("crop_scale", ViewRecipe { crop_scale: (0.5, 1.1), ..first() }),
        ("crop_scale", ViewRecipe { crop_scale: (f64::NAN, 1.0), ..first() }),
        ("crop_ratio", ViewRecipe { crop_ratio: (1.0, f64::INFINITY), ..first() }),
        ("blur_sigma", ViewRecipe { blur_sigma: (0.1, f64::NAN), ..first() }),
        ("blur_sigma", ViewRecipe { blur_sigma: (0.1, 1001.0), ..first() }),
        ("flip_probability", ViewRecipe { flip_probability: -0.1, ..first() }),
        ("jitter_probability", ViewRecipe { jitter_probability: 1.1, ..first() }),
        ("gray_probability", ViewRecipe { gray_probability: f64::NAN, ..first() }),
        ("blur_probability", ViewRecipe { blur_probability: 2.0, ..first() }),
        ("solarize_probability", ViewRecipe { solarize_probability: -1.0, ..first() }),
        ("brightness", ViewRecipe { brightness: -0.1, ..first() }),
        ("contrast", ViewRecipe { contrast: f64::INFINITY, ..first() }),
        ("saturation", ViewRecipe { saturation: f64::NAN, ..first() }),
        ("hue", ViewRecipe { hue: 0.6, ..first() }),
        ("mean", ViewRecipe { mean: [0.0, f64::NAN, 0.0], ..first() }),
        ("std", ViewRecipe { std: [1.0, 1.0, 0.0], ..first() }),
    ];
    for (wrong, recipe) in cases {
        for result in [
            recipe.draw(2, 8, 8).map(|_| ()),
            recipe.apply(&Tensor::zeros([1, 3, 8, 8], (Kind::Float, Device::Cpu)), &[unchanged(8, 8)]).map(|_| ()),
        ] {
            assert!(matches!(&result, Err(Error::Value { name, .. }) if *name == wrong), "{wrong}: {result:?}");
        }
    }
    for (wrong, result) in
        [("batch_size", first().draw(-1, 8, 8)), ("height", first().draw(2, 0, 8)), ("width", first().draw(2, 8, 0))]
    {
        assert!(matches!(&result, Err(Error::Value { name, .. }) if *name == wrong), "{wrong}: {result:?}");
    }
}

#[test]
fn parameters_that_do_not_match_the_images_are_errors() {
    let images = Tensor::zeros([1, 3, 8, 9], (Kind::Float, Device::Cpu));
    let all = unchanged(8, 9);
    let crop = |top, left, height, width| ViewParameters { crop: Crop { top, left, height, width }, ..all };
    let jitter = |jitter| ViewParameters { jitter: Some(jitter), ..all };
    let cases = [
        ("parameters", vec![]),
        ("parameters", vec![all; 2]),
        ("crop height", vec![crop(1, 0, 8, 9)]),
        ("crop top", vec![crop(-1, 0, 8, 9)]),
        ("crop height", vec![crop(0, 0, 0, 9)]),
        ("crop left", vec![crop(0, 9, 8, 1)]),
        ("crop width", vec![crop(0, 1, 8, i64::MAX)]),
        ("brightness", vec![jitter(ColorJitter { brightness: -1.0, ..NO_JITTER })]),
        ("contrast", vec![jitter(ColorJitter { contrast: f64::NAN, ..NO_JITTER })]),
        ("saturation", vec![jitter(ColorJitter { saturation: f64::INFINITY, ..NO_JITTER })]),
        ("hue", vec![jitter(ColorJitter { hue: -0.6, ..NO_JITTER })]),
        ("blur_sigma", vec![ViewParameters { blur_sigma: Some(0.0), ..all }]),
        ("blur_sigma", vec![ViewParameters { blur_sigma: Some(1001.0), ..all }]),
    ];
    for (wrong, parameters) in cases {
        let result = plain(8).apply(&images, &parameters);
        assert!(matches!(&result, Err(Error::Value { name, .. }) if *name == wrong), "{wrong}: {result:?}");
    }
}

#[test]
fn images_of_another_shape_or_kind_are_errors() {
    for shape in [vec![3, 8, 8], vec![2, 1, 8, 8], vec![2, 8, 8, 3]] {
        let images = Tensor::zeros(shape, (Kind::Float, Device::Cpu));
        assert!(matches!(plain(8).view(&images), Err(Error::Shape { name: "images", .. })));
        assert!(matches!(plain(8).apply(&images, &[]), Err(Error::Shape { name: "images", .. })));
        assert!(matches!(normalize(&images, [0.0; 3], [1.0; 3]), Err(Error::Shape { name: "images", .. })));
    }
    let images = Tensor::zeros([1, 3, 8, 8], (Kind::Int64, Device::Cpu));
    let result = plain(8).apply(&images, &[unchanged(8, 8)]);
    assert!(matches!(result, Err(Error::Kind { name: "images", actual: Kind::Int64, .. })));
    assert!(matches!(normalize(&images, [0.0; 3], [1.0; 3]), Err(Error::Kind { name: "images", .. })));
    let images = Tensor::zeros([1, 3, 8, 8], (Kind::Float, Device::Cpu));
    assert!(matches!(normalize(&images, [f64::NAN; 3], [1.0; 3]), Err(Error::Value { name: "mean", .. })));
    assert!(matches!(normalize(&images, [0.0; 3], [-1.0; 3]), Err(Error::Value { name: "std", .. })));
}
