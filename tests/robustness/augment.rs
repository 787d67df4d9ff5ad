//! Views with arbitrary recipes, parameters and images.

use patchmix::Error;
use patchmix::augment::{ColorJitter, Crop, JitterStep, ViewParameters, ViewRecipe, normalize};
use proptest::prelude::*;
use tch::{Kind, Tensor};

use crate::any::*;
use crate::typed;

/// A published recipe with up to three settings replaced by any number.
fn recipes() -> impl Strategy<Value = ViewRecipe> {
    let size = prop_oneof![3 => 1..20_i64, 1 => integers()];
    let changes = prop::collection::vec((0..21_usize, floats()), 0..4);
    (size, any::<bool>(), floats(), changes).prop_map(|(size, first, scale, changes)| {
        let scale = if scale > 0.9 { scale } else { 0.1 };
        let mut recipe = if first { ViewRecipe::first(size, scale) } else { ViewRecipe::second(size, scale) };
        for (field, value) in changes {
            let setting = match field {
                0 => &mut recipe.crop_scale.0,
                1 => &mut recipe.crop_scale.1,
                2 => &mut recipe.crop_ratio.0,
                3 => &mut recipe.crop_ratio.1,
                4 => &mut recipe.flip_probability,
                5 => &mut recipe.jitter_probability,
                6 => &mut recipe.brightness,
                7 => &mut recipe.contrast,
                8 => &mut recipe.saturation,
                9 => &mut recipe.hue,
                10 => &mut recipe.gray_probability,
                11 => &mut recipe.blur_probability,
                12 => &mut recipe.blur_sigma.0,
                13 => &mut recipe.blur_sigma.1,
                14 => &mut recipe.solarize_probability,
                field @ 15..=17 => &mut recipe.mean[field - 15],
                field => &mut recipe.std[field - 18],
            };
            *setting = value;
        }
        recipe
    })
}

fn parameters() -> impl Strategy<Value = ViewParameters> {
    let crop = (integers(), integers(), integers(), integers()).prop_map(|(top, left, height, width)| Crop {
        top,
        left,
        height,
        width,
    });
    let crop = prop_oneof![3 => Just(Crop { top: 0, left: 0, height: 1, width: 1 }), 1 => crop];
    let orders = prop::sample::select(vec![
        [JitterStep::Hue, JitterStep::Brightness, JitterStep::Contrast, JitterStep::Saturation],
        [JitterStep::Hue; 4], // not a permutation
        [JitterStep::Saturation, JitterStep::Saturation, JitterStep::Contrast, JitterStep::Hue],
    ]);
    let jitter =
        (orders, floats(), floats(), floats(), floats()).prop_map(|(order, brightness, contrast, saturation, hue)| {
            ColorJitter { order, brightness, contrast, saturation, hue }
        });
    (crop, prop::option::of(jitter), any::<bool>(), prop::option::of(floats()), any::<bool>(), any::<bool>()).prop_map(
        |(crop, jitter, gray, blur_sigma, solarize, flip)| ViewParameters {
            crop,
            jitter,
            gray,
            blur_sigma,
            solarize,
            flip,
        },
    )
}

fn images() -> impl Strategy<Value = AnyTensor> {
    let kind = prop_oneof![1 => Just(None), 2 => prop::sample::select(vec![Kind::Uint8, Kind::Float]).prop_map(Some)];
    let size = (sizes(), sizes(), sizes()).prop_flat_map(|(batch, height, width)| mostly(&[batch, 3, height, width]));
    (size, kind).prop_map(|(images, kind)| AnyTensor { kind: kind.unwrap_or(images.kind), ..images })
}

fn channels() -> impl Strategy<Value = [f64; 3]> {
    prop::array::uniform3(floats())
}

fn all_finite(tensor: &Tensor) -> bool {
    tensor.isfinite().all().int64_value(&[]) == 1
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]
    #[test]
    fn recipes_take_any_settings_and_images(
        recipe in recipes(),
        images in images(),
        list in prop::collection::vec(parameters(), 0..4),
    ) {
        let tensor = images.make();
        // Bytes are always in range, and no accepted setting turns them into NaN.
        let usual = images.is_small() && (images.kind == Kind::Uint8 || images.values != Values::Extreme);
        for view in [typed("view", || recipe.view(&tensor)), typed("apply", || recipe.apply(&tensor, &list))] {
            let Ok(view) = view else { continue };
            prop_assert!(images.is_small() || tensor.size()[0] == 0);
            let size = vec![tensor.size()[0], 3, recipe.size, recipe.size];
            prop_assert_eq!((view.size(), view.kind()), (size, Kind::Float));
            prop_assert!(!usual || all_finite(&view), "NaN or infinity from usual images");
        }
    }

    #[test]
    fn draw_takes_any_numbers(
        recipe in recipes(),
        batch_size in integers(),
        height in integers(),
        width in integers(),
    ) {
        if let Ok(parameters) = typed("draw", || recipe.draw(batch_size, height, width)) {
            prop_assert_eq!(parameters.len() as i64, batch_size);
            for ViewParameters { crop, .. } in parameters {
                prop_assert!(crop.top >= 0 && crop.height >= 1 && crop.top <= height - crop.height, "{:?}", crop);
                prop_assert!(crop.left >= 0 && crop.width >= 1 && crop.left <= width - crop.width, "{:?}", crop);
            }
        }
    }

    #[test]
    fn normalize_takes_anything(images in images(), mean in channels(), std in channels()) {
        let tensor = images.make();
        if let Ok(normal) = typed("normalize", || normalize(&tensor, mean, std)) {
            prop_assert_eq!((normal.size(), normal.kind()), (tensor.size(), Kind::Float));
            prop_assert!(!images.is_usual() || all_finite(&normal));
        }
    }
}

fn gray() -> Tensor {
    Tensor::zeros([1, 3, 8, 8], (Kind::Uint8, CPU))
}

#[test]
fn no_single_number_allocates_without_bound() {
    let view = |recipe: ViewRecipe| recipe.view(&gray()).unwrap_err();
    for size in [0, 8193, 1 << 20, HUGE, i64::MAX] {
        let error = view(ViewRecipe::first(size, 0.1));
        assert!(matches!(error, Error::Value { name: "size", actual, .. } if actual == size as f64));
    }
    // The table of the blur grows with the area of the view and the reach of the kernel.
    let error = view(ViewRecipe { blur_sigma: (0.1, 1e9), ..ViewRecipe::first(8192, 0.1) });
    assert!(matches!(error, Error::Value { name: "blur_sigma", actual: 1e9, .. }));
    let error = ViewRecipe::first(8, 0.1).draw(1 << 23, 8, 8).unwrap_err();
    assert!(matches!(error, Error::Value { name: "batch_size", actual: 8388608.0, .. }));
    // An expanded image takes no memory itself, but reading it would.
    let tall = gray().narrow(2, 0, 1).expand([1, 3, HUGE, 8], false);
    let error = ViewRecipe::first(8, 0.1).view(&tall).unwrap_err();
    assert!(matches!(error, Error::Shape { name: "images", actual, .. } if actual == [1, 3, HUGE, 8]));
}

/// These overflowed to infinity in single precision, and infinity times black is NaN.
#[test]
fn settings_beyond_single_precision_are_refused() {
    for (name, recipe) in [
        ("brightness", ViewRecipe { brightness: 1e39, ..ViewRecipe::first(8, 0.1) }),
        ("saturation", ViewRecipe { saturation: 1e7, ..ViewRecipe::first(8, 0.1) }),
        ("std", ViewRecipe { std: [1.0, 1e-40, 1.0], ..ViewRecipe::first(8, 0.1) }),
        ("mean", ViewRecipe { mean: [0.5, 0.5, 1e40], ..ViewRecipe::first(8, 0.1) }),
    ] {
        assert!(matches!(recipe.view(&gray()), Err(Error::Value { name: wrong, .. }) if wrong == name), "{name}");
    }
    let strongest = ViewRecipe { brightness: 1e6, contrast: 1e6, saturation: 1e6, ..ViewRecipe::first(8, 0.1) };
    for _ in 0..50 {
        assert!(all_finite(&strongest.view(&Tensor::randint(256, [4, 3, 8, 8], (Kind::Uint8, CPU))).unwrap()));
    }
}
