//! Data sets of mismatched tensors, and arbitrary numbers of images.

use std::path::Path;

use patchmix::Error;
use patchmix::data::{Batches, Dataset, Split, cifar10, cifar100, epoch_order, procedural, stl10, stl10_unlabeled};
use proptest::prelude::*;
use tch::{Kind, Tensor};

use crate::any::*;
use crate::typed;

fn images() -> impl Strategy<Value = AnyTensor> {
    sizes().prop_flat_map(|count| mostly(&[count, 3, 4, 4]))
}

fn labels() -> impl Strategy<Value = AnyTensor> {
    prop_oneof![3 => sizes().prop_flat_map(|count| mostly(&[count])), 1 => tensors()]
}

proptest! {
    #[test]
    fn any_two_tensors_are_a_data_set_or_an_error(
        images in images(),
        labels in labels(),
        count in integers(),
        positions in prop::collection::vec(integers(), 0..4),
        device in devices(),
    ) {
        let data = Dataset { images: images.make(), labels: labels.make(), class_names: vec!["one".to_owned()] };
        let length = typed("len", || data.len());
        prop_assert_eq!((typed("is_empty", || data.is_empty()), typed("classes", || data.classes())), (length == 0, 1));
        if let Ok(first) = typed("take", || data.take(count)) {
            prop_assert_eq!((first.images.size()[0], first.labels.size()), (count, vec![count]));
        }
        if let Ok(some) = typed("spread", || data.spread(count)) {
            prop_assert_eq!((some.images.size()[0], some.labels.size()), (count, vec![count]));
        }
        if let Ok((images, labels)) = typed("select", || data.select(&positions)) {
            prop_assert_eq!((images.size()[0], labels.size()), (positions.len() as i64, vec![positions.len() as i64]));
        }
        let _ = typed("to_device", || data.to_device(device));
    }

    #[test]
    fn orders_and_procedural_images_take_any_numbers(
        count in integers(),
        size in prop_oneof![1 => 7..12_i64, 1 => integers()],
        (seed, epoch) in (unsigned(), unsigned()),
        limit in prop::option::of(integers()),
    ) {
        if let Ok(order) = typed("epoch_order", || epoch_order(count, seed, epoch)) {
            prop_assert_eq!(order.len() as i64, count.max(0));
        }
        if let Ok(batches) = typed("Batches::new", || Batches::new(count, size, seed, epoch)) {
            prop_assert_eq!(typed("iter", || batches.iter().len()), batches.len());
            prop_assert!(!batches.iter().any(<[i64]>::is_empty));
        }
        if let Ok(data) = typed("procedural", || procedural(count, size, seed)) {
            prop_assert_eq!(data.images.size(), [count, 3, size, size]);
        }
        for split in [Split::Train, Split::Test] {
            prop_assert!(typed("cifar10", || cifar10(Path::new("no such folder"), split, limit)).is_err());
            prop_assert!(typed("cifar100", || cifar100(Path::new("\0"), split, limit)).is_err());
            prop_assert!(typed("stl10", || stl10(Path::new("no such folder"), split, limit)).is_err());
        }
        prop_assert!(typed("stl10_unlabeled", || stl10_unlabeled(Path::new("\0"), limit)).is_err());
    }
}

#[test]
fn counts_beyond_any_memory_are_refused() {
    for count in [(1 << 28) + 1, HUGE, i64::MAX] {
        for error in [epoch_order(count, 0, 0).unwrap_err(), Batches::new(count, 1, 0, 0).unwrap_err()] {
            assert!(matches!(error, Error::Value { name: "count", actual, .. } if actual == count as f64));
        }
    }
    // 4 GiB and 192 bytes: some systems promise that and then kill the program that uses it.
    let count = (1 << 32) / 192 + 1;
    assert!(
        matches!(procedural(count, 8, 0), Err(Error::Value { name: "count", actual, .. }) if actual == count as f64)
    );
}

#[test]
fn labels_that_do_not_match_the_images_are_refused() {
    let data = |labels: &[i64]| Dataset {
        images: Tensor::zeros([2, 3, 4, 4], (Kind::Uint8, CPU)),
        labels: Tensor::from_slice(labels),
        class_names: Vec::new(),
    };
    assert!(data(&[0, 1]).select(&[1]).is_ok());
    for labels in [&[0][..], &[0, 1, 2]] {
        for error in [data(labels).take(1).map(drop).unwrap_err(), data(labels).select(&[0]).map(drop).unwrap_err()] {
            assert!(matches!(error, Error::Shape { name: "labels", actual, .. } if actual == [labels.len() as i64]));
        }
    }
    let nothing = Dataset { images: Tensor::new(), labels: Tensor::new(), class_names: Vec::new() };
    assert_eq!(nothing.len(), 0);
    assert!(matches!(nothing.take(1), Err(Error::Undefined { name: "images" })));
    assert!(matches!(nothing.to_device(CPU), Err(Error::Undefined { name: "images" })));
}
