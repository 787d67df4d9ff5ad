//! Augmentations for classifiers on the device, against plain tensor operations on the CPU, image by image.

use approx::assert_abs_diff_eq;
use patchmix::augment::{
    Crop, MixupCutMix, PairMix, RandAugment, RandomCrop, RandomErasing, crop_padded, erase, mix_pairs, pair_targets,
    rand_augment,
};
use tch::{Device, Kind, Tensor};

use crate::turn::{Turn, assert_near};

/// The pixels of `box_` in an image `[3, H, W]`.
fn inside(image: &Tensor, Crop { top, left, height, width }: &Crop) -> Tensor {
    image.narrow(1, *top, *height).narrow(2, *left, *width)
}

#[test]
fn a_padded_crop_is_cut_from_the_image_in_a_black_frame() {
    let turn = Turn::take();
    let bytes = Tensor::randint_low(1, 256, [30, 3, 8, 6], (Kind::Int64, Device::Cpu));
    let recipe = RandomCrop { padding: 3, flip_probability: 0.5 };
    let crops = recipe.draw(30).unwrap();
    let cut = (0..).zip(&crops).map(|(image, crop)| {
        let padded = bytes.get(image).constant_pad_nd([3, 3, 3, 3]);
        let cut = padded.narrow(1, crop.top + 3, 8).narrow(2, crop.left + 3, 6);
        if crop.flip { cut.flip([2]) } else { cut }
    });
    let expected = Tensor::stack(&cut.collect::<Vec<_>>(), 0);
    for kind in [Kind::Uint8, Kind::Float] {
        let cropped = crop_padded(&turn.put(&bytes, kind), &crops).unwrap();
        assert_eq!((cropped.device(), cropped.kind()), (turn.device, kind));
        assert_near("crops", &cropped, &expected, 0.0);
    }
}

/// The operations drop fractions, so that a rounding error of the device can change a value by a whole level; only few.
#[test]
fn rand_augment_equals_the_cpu() {
    let turn = Turn::take();
    let images = Tensor::randint(256, [300, 3, 20, 14], (Kind::Uint8, Device::Cpu));
    let operations = RandAugment { probability: 1.0, ..RandAugment::default() }.draw(300).unwrap();
    let augment = |images: &Tensor| rand_augment(images, &operations, [124, 116, 104]).unwrap();
    let augmented = augment(&images.to_device(turn.device));
    assert_eq!((augmented.device(), augmented.kind()), (turn.device, Kind::Uint8));
    let differing = augmented.to_device(Device::Cpu).not_equal_tensor(&augment(&images)).to_kind(Kind::Double);
    let share = differing.mean(Kind::Double).double_value(&[]);
    assert!(share < 1e-3, "{share} of the values differ");
}

/// Noise inside the boxes, no change elsewhere; the seed determines the noise.
#[test]
fn erasing_fills_the_boxes_with_noise() {
    let turn = Turn::take();
    let images = turn.put(&Tensor::full([60, 3, 32, 32], 7.0, (Kind::Float, Device::Cpu)), Kind::Float);
    let boxes = RandomErasing { probability: 0.5, ..RandomErasing::default() }.draw(60, 32, 32).unwrap();
    let with_seed = |seed| {
        tch::manual_seed(seed);
        erase(&images, &boxes).unwrap().to(Device::Cpu)
    };
    let erased = with_seed(5);
    assert_eq!(erased, with_seed(5));
    assert_ne!(erased, with_seed(6));
    let noise: Vec<Tensor> = (0..)
        .zip(&boxes)
        .filter_map(|(image, box_)| Some(inside(&erased.get(image), box_.as_ref()?).flatten(0, -1)))
        .collect();
    let expected_changes: i64 = noise.iter().map(|noise| noise.size()[0]).sum();
    assert_eq!(erased.not_equal(7.0).sum(Kind::Int64).int64_value(&[]), expected_changes, "pixels that changed");
    let noise = Tensor::cat(&noise, 0);
    let (mean, deviation) = (noise.mean(Kind::Double).double_value(&[]), noise.std(true).double_value(&[]));
    assert_abs_diff_eq!(mean, 0.0, epsilon = 0.05);
    assert_abs_diff_eq!(deviation, 1.0, epsilon = 0.05);
}

#[test]
fn pairs_are_blended_or_pasted_and_labeled_by_their_shares() {
    let turn = Turn::take();
    let (count, height, width, classes, smoothing) = (50, 12, 10, 7, 0.1);
    let images = Tensor::rand([count, 3, height, width], (Kind::Double, Device::Cpu));
    let labels = Tensor::randint(classes, [count], (Kind::Int64, Device::Cpu));
    let mixes = MixupCutMix { per_image: true, ..MixupCutMix::default() }.draw(count, height, width).unwrap();
    let is_blend = |mix: &PairMix| matches!(mix, PairMix::Blend { .. });
    assert!(mixes.iter().any(is_blend) && !mixes.iter().all(is_blend));

    let one_hot = labels.one_hot(classes).to_kind(Kind::Double);
    let expected = (0..count).zip(&mixes).map(|(index, mix)| {
        let partner = count - 1 - index;
        let blend = |of: &Tensor, share: f64| of.get(index) * share + of.get(partner) * (1.0 - share);
        let (mixed, share) = match mix {
            PairMix::Blend { share } => (blend(&images, *share), *share),
            PairMix::Paste(box_) => {
                let mixed = images.get(index).copy();
                inside(&mixed, box_).copy_(&inside(&images.get(partner), box_));
                (mixed, 1.0 - (box_.height * box_.width) as f64 / (height * width) as f64)
            }
        };
        (mixed, blend(&one_hot, share) * (1.0 - smoothing) + smoothing / classes as f64)
    });
    let (expected, targets): (Vec<Tensor>, Vec<Tensor>) = expected.unzip();
    let mixed = mix_pairs(&turn.put(&images, Kind::Float), &mixes).unwrap();
    let labels = labels.to_device(turn.device);
    let labeled = pair_targets(&labels, &mixes, (height, width), classes, smoothing).unwrap();
    assert_eq!((mixed.device(), labeled.device()), (turn.device, turn.device));
    assert_near("images", &mixed, &Tensor::stack(&expected, 0), 1e-6);
    assert_near("labels", &labeled, &Tensor::stack(&targets, 0), 1e-6);
}
