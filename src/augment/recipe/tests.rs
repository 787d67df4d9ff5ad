//! A view made in one operation is the one that the operations of libtorch make, step by step.

use proptest::prelude::*;

use super::*;
use crate::augment::{ColorJitter, Crop, JitterStep};

const STEPS: [JitterStep; 4] = [JitterStep::Brightness, JitterStep::Contrast, JitterStep::Saturation, JitterStep::Hue];
const NO_JITTER: ColorJitter = ColorJitter { order: STEPS, brightness: 1.0, contrast: 1.0, saturation: 1.0, hue: 0.0 };

/// `count` images of random bytes; one in four pixels is black, white, gray or of a primary color.
fn images(count: i64, height: i64, width: i64, seed: i64) -> Tensor {
    tch::manual_seed(seed);
    let bytes = |high: i64, channels: i64| {
        Tensor::randint(high, [count, channels, height, width], (tch::Kind::Int64, Device::Cpu))
    };
    let extreme = bytes(2, 3) * 255;
    let gray = bytes(256, 1).expand([-1, 3, -1, -1], false);
    let kind = bytes(8, 1);
    bytes(256, 3).where_self(&kind.ge(2), &extreme.where_self(&kind.eq(0), &gray)).to_kind(tch::Kind::Uint8)
}

/// Views of `size` pixels without normalization.
fn recipe(size: i64) -> ViewRecipe {
    ViewRecipe { mean: [0.0; 3], std: [1.0; 3], ..ViewRecipe::first(size, 1.0) }
}

fn unchanged(height: i64, width: i64) -> ViewParameters {
    let crop = Crop { top: 0, left: 0, height, width };
    ViewParameters { crop, jitter: None, gray: false, blur_sigma: None, solarize: false, flip: false }
}

#[track_caller]
fn assert_agree(recipe: &ViewRecipe, images: &Tensor, parameters: &[ViewParameters], tolerance: f64) {
    let own = whole_views(recipe, images, parameters, false).unwrap().unwrap();
    let plain = recipe.apply_in_steps(images, parameters).unwrap();
    assert_eq!((own.size(), own.kind()), (plain.size(), plain.kind()));
    let difference = (own - plain).abs().max().double_value(&[]);
    assert!(difference <= tolerance, "{parameters:?} differ by {difference:e}");
}

#[test]
fn each_change_alone_agrees() {
    let with = |jitter| ViewParameters { jitter: Some(jitter), ..unchanged(1, 1) };
    let mut all = vec![unchanged(1, 1)];
    for factor in [0.0, 0.3, 1.0, 1.7] {
        all.push(with(ColorJitter { brightness: factor, ..NO_JITTER }));
        all.push(with(ColorJitter { contrast: factor, ..NO_JITTER }));
        all.push(with(ColorJitter { saturation: factor, ..NO_JITTER }));
    }
    all.extend([-0.5, -0.1, 1e-9, 0.1, 0.37, 0.5].map(|hue| with(ColorJitter { hue, ..NO_JITTER })));
    all.push(ViewParameters { gray: true, ..unchanged(1, 1) });
    all.push(ViewParameters { solarize: true, ..unchanged(1, 1) });
    for side in [1, 3, 16, 37] {
        let parameters: Vec<ViewParameters> =
            all.iter().map(|change| ViewParameters { crop: unchanged(side, side).crop, ..*change }).collect();
        assert_agree(&recipe(side), &images(all.len() as i64, side, side, side), &parameters, 2e-6);
    }
}

#[test]
fn every_order_of_the_color_jitter_agrees() {
    let mut parameters = Vec::new();
    for order in 0..256_usize {
        let order = [order / 64, order / 16 % 4, order / 4 % 4, order % 4];
        if (0..4).all(|step| order.contains(&step)) {
            let jitter = ColorJitter {
                order: order.map(|step| STEPS[step]),
                brightness: 1.3,
                contrast: 0.7,
                saturation: 1.2,
                hue: -0.1,
            };
            parameters.push(ViewParameters { jitter: Some(jitter), ..unchanged(9, 9) });
        }
    }
    assert_eq!(parameters.len(), 24);
    assert_agree(&recipe(9), &images(24, 9, 9, 1), &parameters, 3e-6);
}

#[test]
fn what_is_not_supported_is_left_to_libtorch() {
    let is_left = |sigma| {
        let parameters = [ViewParameters { blur_sigma: Some(sigma), ..unchanged(5, 5) }];
        whole_views(&recipe(5), &images(1, 5, 5, 1), &parameters, false).unwrap().is_none()
    };
    assert!(!is_left(30.0));
    assert!(is_left(40.0));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]

    #[test]
    fn views_agree_whatever_is_drawn(
        seed in 0..1000_i64,
        count in 1..5_i64,
        (height, width, size) in (1..80_i64, 1..80_i64, 1..50_i64),
        sigma in 0.05..6.0_f64,
        as_float: bool,
        strided: bool,
    ) {
        let images = images(count, height, width, seed);
        let images = if as_float { images.to_kind(tch::Kind::Float) / 255.0 } else { images };
        let images = if strided { images.permute([0, 2, 3, 1]).contiguous().permute([0, 3, 1, 2]) } else { images };
        let recipe = ViewRecipe {
            blur_probability: 0.6,
            blur_sigma: (0.05, sigma),
            solarize_probability: 0.5,
            hue: 0.5,
            ..ViewRecipe::first(size, 0.05)
        };
        let parameters = recipe.draw(count, height, width).unwrap();
        assert_agree(&recipe, &images, &parameters, 1e-5 / 0.224);
    }
}
