//! RandomCrop, RandomErasing, and Mixup and CutMix with their labels, pixel by pixel.

use approx::{abs_diff_eq, assert_abs_diff_eq};
use patchmix::augment::{
    Crop, MixupCutMix, PaddedCrop, PairMix, RandomCrop, RandomErasing, crop_padded, erase, mix_pairs, pair_targets,
};
use proptest::prelude::*;
use tch::{Device, Kind, Tensor};

use crate::assert_near;
use crate::properties::generator;

/// The value of pixel `(row, column)`, or 0 outside the image.
fn pixel(image: &Tensor, channel: i64, row: i64, column: i64) -> f64 {
    let (_, height, width) = image.size3().unwrap();
    let inside = (0..height).contains(&row) && (0..width).contains(&column);
    if inside { image.double_value(&[channel, row, column]) } else { 0.0 }
}

#[test]
fn a_padded_crop_is_the_image_shifted_over_black() {
    let _generator = generator();
    tch::manual_seed(1);
    let bytes = Tensor::randint_low(1, 256, [12, 3, 5, 7], (Kind::Uint8, Device::Cpu));
    let recipe = RandomCrop { padding: 3, flip_probability: 0.5 };
    let crops = recipe.draw(12).unwrap();
    assert!(crops.iter().any(|crop| crop.flip) && crops.iter().any(|crop| !crop.flip));
    for images in [&bytes, &(bytes.to_kind(Kind::Float) / 255.0), &bytes.permute([0, 1, 3, 2]).contiguous()] {
        let cropped = crop_padded(images, &crops).unwrap();
        assert_eq!((cropped.size(), cropped.kind()), (images.size(), images.kind()));
        let (_, _, height, width) = images.size4().unwrap();
        for (index, PaddedCrop { top, left, flip }) in (0..).zip(&crops) {
            for (channel, row, column) in every_pixel(height, width) {
                let mirrored = if *flip { width - 1 - column } else { column };
                let expected = pixel(&images.get(index), channel, top + row, left + mirrored);
                assert_eq!(cropped.double_value(&[index, channel, row, column]), expected);
            }
        }
    }
    assert!(recipe.draw(5000).unwrap().iter().all(|crop| crop.top.abs() <= 3 && crop.left.abs() <= 3));
    let unmoved = [PaddedCrop { top: 0, left: 0, flip: false }; 12];
    assert_eq!(crop_padded(&bytes, &unmoved).unwrap(), bytes);
}

/// Every channel, row and column.
fn every_pixel(height: i64, width: i64) -> impl Iterator<Item = (i64, i64, i64)> {
    (0..3)
        .flat_map(move |channel| (0..height).flat_map(move |row| (0..width).map(move |column| (channel, row, column))))
}

fn contains(pixels: &Crop, row: i64, column: i64) -> bool {
    (pixels.top..pixels.top + pixels.height).contains(&row)
        && (pixels.left..pixels.left + pixels.width).contains(&column)
}

#[test]
fn erasing_changes_the_box_and_nothing_else() {
    let _generator = generator();
    tch::manual_seed(2);
    let images = Tensor::full([40, 3, 16, 12], 7.0, (Kind::Float, Device::Cpu));
    let recipe = RandomErasing { probability: 0.5, ..RandomErasing::default() };
    let boxes = recipe.draw(40, 16, 12).unwrap();
    let erased = erase(&images, &boxes).unwrap();
    for (index, pixels) in (0..).zip(&boxes) {
        for (channel, row, column) in every_pixel(16, 12) {
            let inside = pixels.is_some_and(|pixels| contains(&pixels, row, column));
            assert_eq!(erased.double_value(&[index, channel, row, column]) != 7.0, inside);
        }
    }
    assert_eq!(images, Tensor::full_like(&images, 7.0), "the input is unchanged");
    assert_eq!(erase(&images, &[None; 40]).unwrap(), images);
}

#[test]
fn erased_boxes_have_the_frequency_size_and_noise_of_the_recipe() {
    let _generator = generator();
    tch::manual_seed(3);
    let boxes = RandomErasing::default().draw(20_000, 32, 32).unwrap();
    let drawn: Vec<Crop> = boxes.iter().copied().flatten().collect();
    let share = drawn.len() as f64 / boxes.len() as f64;
    assert_abs_diff_eq!(share, 0.25, epsilon = 0.015);
    for Crop { top, left, height, width } in &drawn {
        assert!(*top >= 0 && *left >= 0 && top + height <= 32 && left + width <= 32);
        // Both sides are rounded to whole pixels.
        let (height, width) = (*height as f64, *width as f64);
        assert!((height + 0.5) * (width + 0.5) >= 0.02 * 1024.0 && (height - 0.5) * (width - 0.5) <= 1024.0 / 3.0);
        assert!((height + 0.5) / (width - 0.5) >= 0.3 && (height - 0.5) / (width + 0.5) <= 1.0 / 0.3);
    }
    let ends = [drawn.iter().map(|found| found.top + found.height).max(), drawn.iter().map(|found| found.top).min()];
    assert_eq!(ends, [Some(32), Some(0)]);
    let all = [Some(Crop { top: 0, left: 0, height: 64, width: 64 }); 2];
    let noise = erase(&Tensor::zeros([2, 3, 64, 64], (Kind::Float, Device::Cpu)), &all).unwrap();
    assert_abs_diff_eq!(noise.mean(Kind::Float).double_value(&[]), 0.0, epsilon = 0.03);
    assert_abs_diff_eq!(noise.std(true).double_value(&[]), 1.0, epsilon = 0.03);
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(48) })]

    /// Image `i` is filled with the number `i`, so that every mixed pixel shows its source.
    #[test]
    fn labels_are_the_exact_shares_of_the_pixels(
        seed in 0_i64..1000,
        (count, height, width) in (1_i64..6, 1_i64..12, 1_i64..12),
        switch in prop::sample::select(vec![0.0, 0.5, 1.0]),
        per_image in any::<bool>(),
        smoothing in prop::sample::select(vec![0.0, 0.1]),
    ) {
        let _generator = generator();
        tch::manual_seed(seed);
        let recipe = MixupCutMix { switch_probability: switch, per_image, ..MixupCutMix::default() };
        let mixes = recipe.draw(count, height, width).unwrap();
        let own_number = Tensor::arange(count, (Kind::Float, Device::Cpu));
        let images = own_number.view([count, 1, 1, 1]).expand([count, 3, height, width], false);
        let mixed = mix_pairs(&images, &mixes).unwrap();
        // With more than three images, some share a class.
        let (classes, labels) = (3_i64, Tensor::arange(count, (Kind::Int64, Device::Cpu)).remainder(3));
        let targets = pair_targets(&labels, &mixes, (height, width), classes, smoothing).unwrap();
        prop_assert_eq!(targets.size(), [count, classes]);
        for (index, mix) in (0..count).zip(&mixes) {
            let partner = count - 1 - index;
            let own_share = match mix {
                PairMix::Blend { share } => {
                    let expected = share * index as f64 + (1.0 - share) * partner as f64;
                    assert_near(&mixed.get(index), &Tensor::full_like(&mixed.get(index), expected), 1e-5);
                    *share
                }
                PairMix::Paste(pixels) => {
                    let mut own = 0;
                    for (channel, row, column) in every_pixel(height, width) {
                        let from_partner = contains(pixels, row, column);
                        let source = if from_partner { partner } else { index };
                        prop_assert_eq!(mixed.double_value(&[index, channel, row, column]), source as f64);
                        own += i64::from(channel == 0 && !from_partner);
                    }
                    own as f64 / (height * width) as f64
                }
            };
            for class in 0..classes {
                let of = |image: i64, share: f64| if image % classes == class { share } else { 0.0 };
                let hard = of(index, own_share) + of(partner, 1.0 - own_share);
                let expected = hard * (1.0 - smoothing) + smoothing / classes as f64;
                prop_assert!(abs_diff_eq!(targets.double_value(&[index, class]), expected, epsilon = 1e-6));
            }
        }
    }
}

#[test]
fn mixup_and_cutmix_are_equally_frequent_and_their_shares_follow_the_beta_distribution() {
    let _generator = generator();
    tch::manual_seed(4);
    let per_image = true;
    let mixes = MixupCutMix { per_image, ..MixupCutMix::default() }.draw(20_000, 32, 32).unwrap();
    let shares = |mixes: &[PairMix], cut: bool| -> Vec<f64> {
        let of_kind = mixes.iter().filter(|mix| matches!(mix, PairMix::Paste(_)) == cut);
        of_kind.map(|mix| mix.own_share(32, 32)).collect()
    };
    let moments = |shares: &[f64]| {
        let mean = shares.iter().sum::<f64>() / shares.len() as f64;
        (mean, shares.iter().map(|share| (share - mean).powi(2)).sum::<f64>() / shares.len() as f64)
    };
    let blended = shares(&mixes, false);
    assert_abs_diff_eq!(blended.len() as f64 / 20_000.0, 0.5, epsilon = 0.02);
    // The variance of Beta(a, a) is 1 / (4 (2 a + 1)).
    let (mean, variance) = moments(&blended);
    assert_abs_diff_eq!(mean, 0.5, epsilon = 0.015);
    assert_abs_diff_eq!(variance, 1.0 / 10.4, epsilon = 0.005);
    // CutMix draws a uniform share; with the box clipped, the image keeps 1 - (1/2 - 1/5 + 1/48) of itself on average,
    // and more by what whole pixels round off.
    let (mean, _) = moments(&shares(&mixes, true));
    assert!((0.675..0.72).contains(&mean), "{mean}");
    let only = |mixup_alpha, cutmix_alpha| {
        let recipe = MixupCutMix { mixup_alpha, cutmix_alpha, switch_probability: 0.5, per_image };
        recipe.draw(100, 8, 8).unwrap()
    };
    assert_eq!(shares(&only(0.8, 0.0), true).len(), 0);
    assert_eq!(shares(&only(0.0, 1.0), true).len(), 100);
    assert!(only(0.0, 0.0).iter().all(|mix| *mix == PairMix::Blend { share: 1.0 }));
}

/// Batches of one image take the same numbers from the generator as the draws of one batch of many.
#[test]
fn a_batch_has_one_draw_unless_every_image_gets_its_own() {
    let _generator = generator();
    for seed in 0..20 {
        let draw = |per_image, count| {
            tch::manual_seed(seed);
            MixupCutMix { per_image, ..MixupCutMix::default() }.draw(count, 32, 32).unwrap()
        };
        assert_eq!(draw(false, 16), vec![draw(true, 1)[0]; 16]);
        let own = draw(true, 16);
        assert!(own.iter().any(|mix| *mix != own[0]), "{own:?}");
        assert!(draw(false, 0).is_empty() && draw(true, 0).is_empty());
    }
}

#[test]
fn invalid_boxes_shares_and_crops_are_refused() {
    let images = Tensor::zeros([2, 3, 4, 4], (Kind::Float, Device::Cpu));
    let beyond = Crop { top: 2, left: 0, height: 3, width: 1 };
    assert!(erase(&images, &[Some(beyond), None]).is_err());
    assert!(erase(&images, &[None]).is_err());
    assert!(erase(&images.to_kind(Kind::Uint8), &[None, None]).is_err());
    assert!(mix_pairs(&images, &[PairMix::Paste(beyond), PairMix::Blend { share: 0.5 }]).is_err());
    assert!(mix_pairs(&images, &[PairMix::Blend { share: 1.5 }, PairMix::Blend { share: 0.5 }]).is_err());
    assert!(crop_padded(&images, &[PaddedCrop { top: 5, left: 0, flip: false }; 2]).is_err());
    assert!(MixupCutMix { mixup_alpha: -1.0, ..MixupCutMix::default() }.draw(2, 4, 4).is_err());
    assert!(RandomCrop { padding: -1, flip_probability: 0.5 }.draw(2).is_err());
    assert!(RandomErasing { area: (0.5, 0.2), ..RandomErasing::default() }.draw(2, 4, 4).is_err());
}
