//! RandAugment: against timm's operations on Pillow images, byte by byte, and how operations are drawn.

use std::collections::BTreeMap;

use approx::assert_abs_diff_eq;
use patchmix::Error;
use patchmix::augment::{AugmentOperation, RandAugment, rand_augment};
use tch::{Device, Kind, Tensor};

use crate::common::Golden;
use crate::properties::generator;

/// The mean of ImageNet in bytes, as published.
const FILL: [u8; 3] = [124, 116, 104];

/// The strength of an operation; none for those without.
fn strength(operation: AugmentOperation) -> Option<f64> {
    use AugmentOperation::*;
    match operation {
        AutoContrast | Equalize | Invert => None,
        Rotate { degrees } => Some(degrees),
        Posterize { bits } => Some(bits as f64),
        Solarize { threshold } => Some(threshold as f64),
        SolarizeAdd { amount } => Some(amount as f64),
        Color { factor } | Contrast { factor } | Brightness { factor } | Sharpness { factor } => Some(factor),
        ShearX { slope } | ShearY { slope } => Some(slope),
        TranslateX { share } | TranslateY { share } => Some(share),
    }
}

/// The operation `NAME/mMAGNITUDE/SIGN` of the golden file.
fn operation(golden: &Golden, case: &str) -> AugmentOperation {
    let names: Vec<String> = serde_json::from_str(&golden.setting::<String>("operations")).unwrap();
    let parts: Vec<&str> = case.split('/').collect();
    let magnitude = parts[1].strip_prefix('m').unwrap().parse().unwrap();
    let number = names.iter().position(|name| name == parts[0]).unwrap();
    AugmentOperation::at_magnitude(magnitude, parts[2] == "minus")[number]
}

/// `level = magnitude / 10` gives rotations up to 30 degrees, 4 to 1 bits, thresholds from 256 to 0, amounts up to 110,
/// factors of 1 ± 0.9, slopes of 0.3 and shares of 0.45.
#[test]
fn strengths_are_those_of_timm() {
    let golden = Golden::read("protocol/rand_augment.safetensors");
    let arguments: BTreeMap<String, Vec<f64>> = serde_json::from_str(&golden.setting::<String>("arguments")).unwrap();
    assert!(!arguments.is_empty());
    for (case, arguments) in arguments {
        let strength = strength(operation(&golden, &case));
        assert_eq!(strength.is_some(), !arguments.is_empty(), "{case}");
        for (strength, argument) in strength.into_iter().zip(arguments) {
            assert_abs_diff_eq!(strength, argument, epsilon = 1e-12);
        }
    }
}

/// Every image of the file, in one batch per size, gets its own operation at its own magnitude.
#[test]
fn operations_are_pillows_to_the_byte() {
    let golden = Golden::read("protocol/rand_augment.safetensors");
    let mut batches: BTreeMap<Vec<i64>, Vec<&str>> = BTreeMap::new();
    for key in golden.keys().filter(|key| key.contains('/')) {
        batches.entry(golden.tensor(key).size()).or_default().push(key);
    }
    assert!(!batches.is_empty());
    for keys in batches.values() {
        let (cases, numbers): (Vec<&str>, Vec<&str>) = keys.iter().map(|key| key.rsplit_once('/').unwrap()).unzip();
        let images: Vec<&Tensor> = numbers.iter().map(|number| golden.tensor(&format!("image_{number}"))).collect();
        let operations: Vec<_> = cases.iter().map(|case| vec![operation(&golden, case)]).collect();
        let augmented = rand_augment(&Tensor::stack(&images, 0), &operations, FILL).unwrap();
        for (image, key) in (0..).zip(keys) {
            let difference =
                (augmented.get(image).to_kind(Kind::Float) - golden.tensor(key).to_kind(Kind::Float)).abs();
            let mean = difference.mean(Kind::Float).double_value(&[]);
            assert!(mean == 0.0, "{key}: differs by {mean} levels on average");
        }
    }
}

fn noise(count: i64, height: i64, width: i64) -> Tensor {
    Tensor::randint(256, [count, 3, height, width], (Kind::Uint8, Device::Cpu))
}

#[test]
fn each_image_gets_its_own_operations_in_their_order() {
    let _generator = generator();
    tch::manual_seed(1);
    let images = noise(64, 9, 14);
    let before = images.copy();
    let operations = RandAugment { operations: 3, probability: 0.8, ..RandAugment::default() }.draw(64).unwrap();
    let together = rand_augment(&images, &operations, FILL).unwrap();
    assert_eq!(images, before, "the input is unchanged");
    for (image, operations) in (0..64).zip(&operations) {
        let one_by_one = operations.iter().fold(images.narrow(0, image, 1), |image, operation| {
            rand_augment(&image, &[vec![*operation]], FILL).unwrap()
        });
        assert_eq!(together.narrow(0, image, 1), one_by_one, "{operations:?}");
    }
    // Every layout of the same images.
    let channels_last = images.permute([0, 2, 3, 1]).contiguous().permute([0, 3, 1, 2]);
    assert_eq!(rand_augment(&channels_last, &operations, FILL).unwrap(), together);
}

#[test]
fn no_operations_change_nothing() {
    let _generator = generator();
    let images = noise(3, 8, 8);
    assert_eq!(rand_augment(&images, &[vec![], vec![], vec![]], FILL).unwrap(), images);
    let never = RandAugment { probability: 0.0, ..RandAugment::default() }.draw(100).unwrap();
    assert!(never.iter().all(Vec::is_empty));
    assert_eq!(rand_augment(&images.narrow(0, 0, 0), &[], FILL).unwrap().size(), [0, 3, 8, 8]);
}

#[test]
fn draw_follows_the_seed() {
    let _generator = generator();
    let draw = |seed, count| {
        tch::manual_seed(seed);
        RandAugment::default().draw(count).unwrap()
    };
    assert_eq!(draw(1, 64), draw(1, 64));
    assert_ne!(draw(1, 64), draw(2, 64));
    // The first images do not depend on how many follow.
    assert_eq!(draw(1, 64)[..8], draw(1, 8));
}

/// Bounds are five standard deviations.
#[test]
fn operations_signs_and_magnitudes_have_the_frequencies_of_the_recipe() {
    let _generator = generator();
    tch::manual_seed(2);
    let images = 40_000;
    let drawn = RandAugment::default().draw(images).unwrap();
    let of_count = |count| drawn.iter().filter(|list| list.len() == count).count() as f64 / images as f64;
    assert_abs_diff_eq!(of_count(0), 0.25, epsilon = 0.011);
    assert_abs_diff_eq!(of_count(2), 0.25, epsilon = 0.011);
    let all: Vec<AugmentOperation> = drawn.concat();
    for example in AugmentOperation::at_magnitude(9.0, false) {
        let of_kind = all.iter().filter(|drawn| std::mem::discriminant(*drawn) == std::mem::discriminant(&example));
        assert_abs_diff_eq!(of_kind.count() as f64 / all.len() as f64, 1.0 / 15.0, epsilon = 0.0063);
    }
    let degrees = |drawn: &AugmentOperation| match drawn {
        AugmentOperation::Rotate { degrees } => Some(*degrees),
        _ => None,
    };
    let degrees: Vec<f64> = all.iter().filter_map(degrees).collect();
    let count = degrees.len() as f64;
    let share =
        |condition: fn(f64) -> bool| degrees.iter().filter(|degrees| condition(**degrees)).count() as f64 / count;
    assert_abs_diff_eq!(share(|degrees| degrees < 0.0), 0.5, epsilon = 0.05);
    // Three degrees per unit of magnitude, which is normal around 9 and ends at 10, two standard deviations above.
    assert_abs_diff_eq!(share(|degrees| degrees.abs() > 27.0), 0.5, epsilon = 0.05);
    assert_abs_diff_eq!(share(|degrees| degrees.abs() < 25.5), 0.1587, epsilon = 0.036);
    assert_abs_diff_eq!(share(|degrees| degrees.abs() == 30.0), 0.0228, epsilon = 0.015);
}

#[test]
fn settings_and_operations_out_of_range_are_errors_that_name_them() {
    let _generator = generator();
    let recipe = RandAugment::default;
    for (wrong, recipe) in [
        ("operations", RandAugment { operations: 0, ..recipe() }),
        ("operations", RandAugment { operations: 17, ..recipe() }),
        ("probability", RandAugment { probability: 1.5, ..recipe() }),
        ("magnitude", RandAugment { magnitude: f64::NAN, ..recipe() }),
        ("magnitude_std", RandAugment { magnitude_std: -0.5, ..recipe() }),
    ] {
        assert!(matches!(recipe.draw(2), Err(Error::Value { name, .. }) if name == wrong), "{wrong}");
    }
    use AugmentOperation::*;
    let images = noise(1, 8, 8);
    for (wrong, operation) in [
        ("degrees", Rotate { degrees: f64::INFINITY }),
        ("bits", Posterize { bits: 0 }),
        ("threshold", Solarize { threshold: 257 }),
        ("amount", SolarizeAdd { amount: -1 }),
        ("factor", Sharpness { factor: -0.1 }),
        ("factor", Color { factor: f64::NAN }),
        ("slope", ShearY { slope: 1e9 }),
        ("share", TranslateX { share: f64::NAN }),
    ] {
        let result = rand_augment(&images, &[vec![Invert, operation]], FILL);
        assert!(matches!(result, Err(Error::Value { name, .. }) if name == wrong), "{operation:?}");
    }
    assert!(matches!(rand_augment(&images, &[], FILL), Err(Error::Shape { name: "images", .. })));
    let floats = images.to_kind(Kind::Float);
    assert!(matches!(rand_augment(&floats, &[vec![]], FILL), Err(Error::Kind { name: "images", .. })));
}
