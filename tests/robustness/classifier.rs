//! Classifiers with arbitrary arguments: augmentations and their labels, the linear probe, learning rates, averages.

use patchmix::augment::{
    AugmentOperation, Crop, MixupCutMix, PaddedCrop, PairMix, RandAugment, RandomCrop, RandomErasing, crop_padded,
    erase, mix_pairs, pair_targets, rand_augment, resize,
};
use patchmix::eval::{LinearClassifier, LinearConfig, accuracy};
use patchmix::finetune::{Classifier, update_rule};
use patchmix::optim::{AdamW, UpdateRule, average_weights, schedule};
use patchmix::vit::Vit;
use proptest::prelude::*;
use tch::nn::{Init, VarStore};
use tch::{Kind, Tensor};

use crate::any::*;
use crate::model::SMALL;
use crate::typed;

fn boxes() -> impl Strategy<Value = Crop> {
    let any = (integers(), integers(), integers(), integers());
    let any = any.prop_map(|(top, left, height, width)| Crop { top, left, height, width });
    prop_oneof![2 => Just(Crop { top: 0, left: 0, height: 1, width: 0 }), 1 => any]
}

fn mixes() -> impl Strategy<Value = PairMix> {
    prop_oneof![floats().prop_map(|share| PairMix::Blend { share }), boxes().prop_map(PairMix::Paste)]
}

fn images() -> impl Strategy<Value = AnyTensor> {
    (sizes(), sizes(), sizes()).prop_flat_map(|(count, height, width)| mostly(&[count, 3, height, width]))
}

fn crops() -> impl Strategy<Value = PaddedCrop> {
    (integers(), integers(), any::<bool>()).prop_map(|(top, left, flip)| PaddedCrop { top, left, flip })
}

/// Any operation, of a magnitude or with any strength.
fn operations() -> impl Strategy<Value = AugmentOperation> {
    use AugmentOperation::*;
    let usual = (0..15_usize, floats(), any::<bool>())
        .prop_map(|(number, magnitude, negative)| AugmentOperation::at_magnitude(magnitude, negative)[number]);
    let any = (integers(), floats(), 3..15_usize).prop_map(|(integer, float, number)| match number {
        3 => Rotate { degrees: float },
        4 => Posterize { bits: integer },
        5 => Solarize { threshold: integer },
        6 => SolarizeAdd { amount: integer },
        7 => Color { factor: float },
        8 => Contrast { factor: float },
        9 => Brightness { factor: float },
        10 => Sharpness { factor: float },
        11 => ShearX { slope: float },
        12 => ShearY { slope: float },
        13 => TranslateX { share: float },
        _ => TranslateY { share: float },
    });
    prop_oneof![2 => usual, 1 => any]
}

/// Mostly `None`, for the right tensor; sometimes any other.
fn sometimes_any() -> impl Strategy<Value = Option<AnyTensor>> {
    prop_oneof![3 => Just(None), 1 => tensors().prop_map(Some)]
}

fn linear_configs() -> impl Strategy<Value = LinearConfig> {
    let settings = (0..3_u64, integers(), floats(), floats());
    settings.prop_map(|(epochs, batch_size, learning_rate, momentum)| LinearConfig {
        epochs,
        batch_size,
        learning_rate,
        momentum,
        seed: 0,
    })
}

proptest! {
    #[test]
    fn recipes_of_classifiers_draw_or_refuse(
        count in integers(),
        height in integers(),
        width in integers(),
        padding in integers(),
        operations in 0..20_usize,
        per_image in any::<bool>(),
        numbers in prop::array::uniform5(floats()),
    ) {
        let [a, b, c, d, e] = numbers;
        let erasing = RandomErasing { probability: a, area: (b, c), ratio: (d, e) };
        let mixing = MixupCutMix { mixup_alpha: a, cutmix_alpha: b, switch_probability: c, per_image };
        let augmenting = RandAugment { operations, probability: a, magnitude: b, magnitude_std: c };
        let (usual_erasing, usual_mixing) = (RandomErasing::default(), MixupCutMix::default());
        let drawn = [
            typed("erasing", || erasing.draw(count, height, width)).map(|boxes| boxes.len()),
            typed("usual erasing", || usual_erasing.draw(count, height, width)).map(|boxes| boxes.len()),
            typed("crop", || RandomCrop { padding, flip_probability: a }.draw(count)).map(|crops| crops.len()),
            typed("augmenting", || augmenting.draw(count)).map(|operations| operations.len()),
            typed("usual augmenting", || RandAugment::default().draw(count)).map(|operations| operations.len()),
            typed("mixing", || mixing.draw(count, height, width)).map(|mixes| mixes.len()),
            typed("usual mixing", || usual_mixing.draw(count, height, width)).map(|mixes| mixes.len()),
        ];
        for length in drawn.into_iter().flatten() {
            prop_assert_eq!(length as i64, count);
        }
    }

    #[test]
    fn any_images_and_parameters_match_or_are_refused(
        images in images(),
        side in integers(),
        crops in prop::collection::vec(crops(), 0..5),
        boxes in prop::collection::vec(prop::option::of(boxes()), 0..5),
        mixes in prop::collection::vec(mixes(), 0..5),
    ) {
        let tensor = images.make();
        for (name, made) in [
            ("crop_padded", typed("crop_padded", || crop_padded(&tensor, &crops))),
            ("erase", typed("erase", || erase(&tensor, &boxes))),
            ("mix_pairs", typed("mix_pairs", || mix_pairs(&tensor, &mixes))),
        ] {
            if let Ok(made) = made {
                prop_assert_eq!((made.size(), made.kind()), (tensor.size(), tensor.kind()), "{}", name);
            }
        }
        if let Ok(resized) = typed("resize", || resize(&tensor, side)) {
            prop_assert_eq!(resized.size()[2..].to_vec(), [side, side]);
        }
    }

    #[test]
    fn any_bytes_and_operations_match_or_are_refused(
        images in images(),
        of_bytes in any::<bool>(),
        lists in prop::collection::vec(prop::collection::vec(operations(), 0..4), 0..8),
        fill in any::<[u8; 3]>(),
    ) {
        let kind = if of_bytes { Kind::Uint8 } else { images.kind };
        let tensor = AnyTensor { kind, ..images }.make();
        if let Ok(augmented) = typed("rand_augment", || rand_augment(&tensor, &lists, fill)) {
            prop_assert_eq!((augmented.size(), augmented.kind()), (tensor.size(), Kind::Uint8));
        }
    }

    #[test]
    fn labels_of_pairs_sum_to_one_or_are_refused(
        labels in sometimes_any(),
        mixes in prop::collection::vec(mixes(), 0..5),
        sides in (integers(), integers()),
        classes in integers(),
        smoothing in floats(),
    ) {
        let valid = || tch::Tensor::zeros([mixes.len() as i64], (Kind::Int64, CPU));
        let are_arbitrary = labels.is_some();
        let labels = labels.map_or_else(valid, |labels| labels.make());
        if let Ok(targets) = typed("pair_targets", || pair_targets(&labels, &mixes, sides, classes, smoothing)) {
            prop_assert_eq!(targets.size(), [mixes.len() as i64, classes]);
            let sums = targets.sum_dim_intlist(-1, false, Kind::Double);
            prop_assert!(are_arbitrary || (sums - 1.0).abs().le(1e-5).all().int64_value(&[]) == 1);
        }
    }

    #[test]
    fn a_linear_probe_takes_anything(
        config in linear_configs(),
        count in integers(),
        (width, classes) in (integers(), integers()),
        features in sometimes_any(),
        labels in sometimes_any(),
    ) {
        // Weights of a huge width would be allocated.
        prop_assume!(width < HUGE || classes < 1);
        let zeros = |size: &[i64], kind| tch::Tensor::zeros(size, (kind, CPU));
        let trained = typed("train", || {
            LinearClassifier::train(&config, count, (width, classes), CPU, |_, positions| {
                let size = positions.len() as i64;
                let features = features.as_ref().map_or_else(|| zeros(&[size, width], Kind::Float), AnyTensor::make);
                Ok((features, labels.as_ref().map_or_else(|| zeros(&[size], Kind::Int64), AnyTensor::make)))
            })
        });
        if let Ok(classifier) = trained {
            prop_assert_eq!(classifier.logits(&zeros(&[2, width], Kind::Float)).unwrap().size(), [2, classes]);
        }
    }

    #[test]
    fn accuracy_takes_anything(scores in tensors(), labels in tensors()) {
        prop_assume!(!matches!(labels.layout, Layout::HugeDimension(_)));
        if let Ok(accuracy) = typed("accuracy", || accuracy(&scores.make(), &labels.make())) {
            prop_assert!((0.0..=1.0).contains(&accuracy.top1) && (accuracy.top1..=1.0).contains(&accuracy.top5));
        }
    }

    #[test]
    fn rates_and_averages_take_any_numbers(
        name in ".{0,20}",
        depth in integers(),
        number in floats(),
        steps in unsigned(),
    ) {
        let weight = Tensor::zeros([2, 3], (Kind::Float, CPU));
        typed("update_rule", || update_rule(&name, &weight, depth, number));
        typed("update_rule", || update_rule(&format!("blocks.{depth}.{name}"), &weight, 3, number));
        typed("warmup_over_cosine", || schedule::warmup_over_cosine(steps, steps / 2, steps / 3, number, 0.0, 1.0));
        let decay = typed("average_decay", || schedule::average_decay(steps, number));
        prop_assert!(decay <= 1.0);
        let store = VarStore::new(CPU);
        let _ = store.root().var("matrix", &[2, 3], Init::Const(1.0));
        let rates = typed("with_rules", || AdamW::with_rules(&store, |_, _| UpdateRule { rate: number, decays: true }));
        prop_assert_eq!(rates.is_ok(), number >= 0.0 && number.is_finite());
        let averaged = typed("average_weights", || average_weights(&store, &store, number));
        prop_assert_eq!(averaged.is_ok(), (0.0..=1.0).contains(&number));
    }

    #[test]
    fn a_classifier_takes_any_number_of_classes(classes in integers(), images in images()) {
        let store = VarStore::new(CPU);
        let encoder = Vit::new(&store.root(), &SMALL).unwrap();
        if let Ok(classifier) = typed("new", || Classifier::new(&store.root(), encoder, classes)) {
            let images = images.make();
            if let Ok(logits) = typed("forward", || classifier.forward(&images, true)) {
                prop_assert_eq!(logits.size(), [images.size()[0], classes]);
            }
            let _ = typed("logits", || classifier.logits(&images));
        }
    }
}
