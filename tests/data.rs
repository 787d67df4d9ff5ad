//! The public interface of the data sets in memory.
#![allow(clippy::unwrap_used, clippy::expect_used)] // a test may panic, helpers included

use std::fs;
use std::path::Path;

use approx::assert_abs_diff_eq;
use patchmix::Error;
use patchmix::data::{Batches, Dataset, Split, cifar10, epoch_order, procedural};
use tch::{Device, Kind, Tensor};

fn labels(data: &Dataset) -> Vec<i64> {
    Vec::try_from(&data.labels).unwrap()
}

#[test]
fn procedural_images_are_balanced_bytes() {
    for size in [8, 9, 32, 96] {
        let data = procedural(25, size, 3).unwrap();
        assert_eq!(data.images.size(), [25, 3, size, size]);
        assert_eq!((data.images.kind(), data.labels.kind()), (Kind::Uint8, Kind::Int64));
        assert_eq!((data.len(), data.classes(), data.is_empty()), (25, 10, false));
        let labels = labels(&data);
        for class in 0..10 {
            let count = labels.iter().filter(|&&label| label == class).count();
            assert!((2..=3).contains(&count));
        }
    }
}

#[test]
fn procedural_images_depend_only_on_seed_and_position() {
    let data = procedural(30, 32, 7).unwrap();
    assert_eq!(data.images, procedural(30, 32, 7).unwrap().images);
    let longer = procedural(50, 32, 7).unwrap();
    assert_eq!(data.images, longer.images.narrow(0, 0, 30));
    assert_eq!(data.labels, longer.labels.narrow(0, 0, 30));
    // A neighboring seed repeats none of these images, at any position.
    let other = procedural(30, 32, 8).unwrap();
    for position in 0..30 {
        let image = other.images.get(position);
        assert!((0..50).all(|old| image != longer.images.get(old)));
    }
}

#[test]
fn procedural_images_have_contrast() {
    let images = procedural(200, 32, 0).unwrap().images.to_kind(Kind::Float);
    let spread = images.mean_dim(1, false, None).flatten(1, -1).std_dim(1, true, false).min();
    assert!(spread.double_value(&[]) > 15.0, "{spread:?}");
}

#[test]
fn procedural_refuses_counts_and_sizes_out_of_range() {
    for (count, size, wrong) in [(0, 32, "count"), (-1, 32, "count"), (1, 7, "image_size"), (1, -8, "image_size")] {
        assert!(matches!(procedural(count, size, 0), Err(Error::Value { name, .. }) if name == wrong));
    }
    for (count, size) in [(i64::MAX, 32), (1, i64::MAX), (1 << 50, 32)] {
        assert!(matches!(procedural(count, size, 0), Err(Error::Value { name: "count", .. })));
    }
}

/// The built-in classes alternate: even steps of 10 through the set would find a single one.
#[test]
fn a_spread_keeps_the_shares_of_the_classes() {
    let data = procedural(60, 8, 1).unwrap();
    let kept: Vec<i64> = (0..60).filter(|position| position % 10 != 3 || *position < 30).collect();
    let kept = Tensor::from_slice(&kept);
    let (images, labels) = (data.images.index_select(0, &kept), data.labels.index_select(0, &kept));
    let data = Dataset { images, labels, ..data }; // 57 images, 3 of class 3
    for count in 1..=57 {
        let spread = data.spread(count).unwrap();
        assert_eq!((spread.len(), spread.classes()), (count, 10));
        let labels = Vec::<i64>::try_from(&spread.labels).unwrap();
        for class in 0..10 {
            let share = if class == 3 { 3.0 } else { 6.0 } * count as f64 / 57.0;
            let found = labels.iter().filter(|label| **label == class).count();
            assert!((found as f64 - share).abs() < 1.0, "{count} of 57, class {class}: {found}");
        }
        // In the order of the set, each with its label, none twice.
        let mut rest = (0..data.len()).filter(|&position| {
            spread.images.split(1, 0).iter().any(|image| *image == data.images.narrow(0, position, 1))
        });
        assert!(labels.iter().all(|label| data.labels.int64_value(&[rest.next().unwrap()]) == *label));
    }
    assert_eq!(data.spread(57).unwrap().images, data.images);
    for count in [0, -1, 58] {
        assert!(matches!(data.spread(count), Err(Error::Value { name: "count", .. })));
    }
}

#[test]
fn take_and_select_keep_images_with_their_labels() {
    let data = procedural(20, 8, 1).unwrap().to_device(Device::Cpu).unwrap();
    let first = data.take(7).unwrap();
    assert_eq!((first.len(), first.classes()), (7, 10));
    assert_eq!(first.images, data.images.narrow(0, 0, 7));
    let (images, labels) = data.select(&[19, 0, 12]).unwrap();
    assert_eq!(images.get(2), data.images.get(12));
    assert_eq!(Vec::<i64>::try_from(labels).unwrap(), [9, 0, 2]);
    for count in [0, -1, 21] {
        assert!(matches!(data.take(count), Err(Error::Value { name: "count", .. })));
    }
    for position in [-1, 20] {
        assert!(matches!(data.select(&[0, position]), Err(Error::Value { name: "position", .. })));
    }
    assert_eq!(data.select(&[]).unwrap().0.size(), [0, 3, 8, 8]);
}

#[test]
fn every_epoch_visits_every_image_once_in_a_new_order() {
    let order = epoch_order(1000, 5, 2).unwrap();
    let mut sorted = order.clone();
    sorted.sort_unstable();
    assert_eq!(sorted, (0..1000).collect::<Vec<i64>>());
    assert_eq!(order, epoch_order(1000, 5, 2).unwrap());
    for (seed, epoch) in [(5, 1), (5, 3), (4, 2), (2, 5)] {
        let other = epoch_order(1000, seed, epoch).unwrap();
        // Two independent orders agree at one position on average.
        assert!(order.iter().zip(&other).filter(|(one, two)| one == two).count() < 10);
    }
    assert_eq!(epoch_order(1, 0, 0).unwrap(), [0]);
    assert!(epoch_order(0, 0, 0).unwrap().is_empty() && epoch_order(-3, 0, 0).unwrap().is_empty());
}

#[test]
fn every_order_is_equally_likely() {
    let mut counts = std::collections::HashMap::new();
    for epoch in 0..24_000 {
        *counts.entry(epoch_order(4, 1, epoch).unwrap()).or_insert(0) += 1;
    }
    assert_eq!(counts.len(), 24);
    // The mean is 1,000, the standard deviation 31.
    assert!(counts.values().all(|count| (850..1150).contains(count)), "{counts:?}");
}

#[test]
fn batches_are_full_and_follow_the_order() {
    let batches = Batches::new(10, 4, 1, 0).unwrap();
    assert_eq!((batches.len(), batches.iter().len()), (2, 2));
    assert_eq!(batches.iter().collect::<Vec<_>>().concat(), epoch_order(10, 1, 0).unwrap()[..8]);
    assert_eq!(Batches::new(10, 10, 1, 0).unwrap().len(), 1);
    for size in [0, -1, 11] {
        assert!(matches!(Batches::new(10, size, 1, 0), Err(Error::Value { name: "batch_size", .. })));
    }
}

#[test]
fn the_official_layout_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let mut bytes = vec![0; 10_000 * 3073];
    bytes[9_999 * 3073] = 9;
    bytes[9_999 * 3073 + 1 + 1024 + 32] = 77;
    fs::write(folder.path().join("data_batch_1.bin"), &bytes).unwrap();
    let data = cifar10(folder.path(), Split::Train, Some(10_000)).unwrap();
    assert_eq!(data.images.size(), [10_000, 3, 32, 32]);
    assert_eq!(data.labels.int64_value(&[9_999]), 9);
    assert_eq!(data.images.int64_value(&[9_999, 1, 1, 0]), 77);
    bytes.truncate(9_999 * 3073);
    fs::write(folder.path().join("data_batch_1.bin"), &bytes).unwrap();
    let error = cifar10(folder.path(), Split::Train, Some(1)).unwrap_err();
    assert!(error.to_string().contains("truncated"), "{error}");
}

/// Reads the real data set if `PATCHMIX_CIFAR10` names its folder.
#[test]
fn the_real_cifar10_is_read() {
    let Some(folder) = std::env::var_os("PATCHMIX_CIFAR10") else {
        eprintln!("skipped: PATCHMIX_CIFAR10 names no folder");
        return;
    };
    for (split, count) in [(Split::Train, 50_000), (Split::Test, 10_000)] {
        let data = cifar10(Path::new(&folder), split, None).unwrap();
        assert_eq!(data.images.size(), [count, 3, 32, 32]);
        let per_class = data.labels.bincount::<tch::Tensor>(None, 10);
        assert_eq!(Vec::<i64>::try_from(per_class).unwrap(), [count / 10; 10]);
        // The well-known channel means of CIFAR-10.
        let means = data.images.to_kind(Kind::Double).mean_dim(&[0_i64, 2, 3][..], false, None) / 255.0;
        let means = Vec::<f64>::try_from(means).unwrap();
        for (mean, known) in means.into_iter().zip([0.4914, 0.4822, 0.4465]) {
            assert_abs_diff_eq!(mean, known, epsilon = 0.006);
        }
        assert_eq!(data.class_names[0], "airplane");
    }
}
