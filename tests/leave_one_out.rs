//! kNN among the images that are measured, against kNN by all others, one image at a time.
#![allow(clippy::unwrap_used)] // a test may panic, helpers included

use std::sync::{Mutex, PoisonError};

use approx::assert_abs_diff_eq;
use patchmix::Error;
use patchmix::eval::{knn_accuracy, knn_accuracy_among};
use tch::{Device, Kind, Tensor};

const CLASSES: i64 = 7;

/// Features around the centers of their classes, always the same: one test at a time draws from the generator.
fn clustered(count: i64) -> (Tensor, Tensor) {
    static GENERATOR: Mutex<()> = Mutex::new(());
    let _alone = GENERATOR.lock().unwrap_or_else(PoisonError::into_inner);
    tch::manual_seed(5);
    let labels = Tensor::randint(CLASSES, [count], (Kind::Int64, Device::Cpu));
    let centers = Tensor::randn([CLASSES, 6], (Kind::Double, Device::Cpu));
    let noise = Tensor::randn([count, 6], (Kind::Double, Device::Cpu));
    (centers.index_select(0, &labels) + noise, labels)
}

#[test]
fn each_image_is_classified_by_all_others() {
    let (features, labels) = clustered(60);
    let ks = [1, 5, 59, 200];
    let measured = knn_accuracy_among((&features, &labels), CLASSES, &ks, 0.1).unwrap();
    let mut sums = [(0.0, 0.0); 4];
    for image in 0..60 {
        let others = Tensor::from_slice(&(0..60).filter(|other| *other != image).collect::<Vec<i64>>());
        let train = (&features.index_select(0, &others), &labels.index_select(0, &others));
        let test = (&features.narrow(0, image, 1), &labels.narrow(0, image, 1));
        let alone = knn_accuracy(train, test, CLASSES, &ks, 0.1).unwrap();
        for ((top1, top5), alone) in sums.iter_mut().zip(alone) {
            *top1 += alone.top1 / 60.0;
            *top5 += alone.top5 / 60.0;
        }
    }
    for (measured, (top1, top5)) in measured.iter().zip(sums) {
        assert_abs_diff_eq!(measured.top1, top1, epsilon = 1e-9);
        assert_abs_diff_eq!(measured.top5, top5, epsilon = 1e-9);
    }
    assert!(measured[1].top1 > 1.5 / CLASSES as f64 && measured[1].top1 < 1.0, "{measured:?}");
}

/// With itself among the voters, each would be right. Nobody's neighbor has its class here.
#[test]
fn no_image_votes_for_itself() {
    let (features, _) = clustered(20);
    let labels = Tensor::arange(20, (Kind::Int64, Device::Cpu));
    let top1 = |features: &Tensor| knn_accuracy_among((features, &labels), 20, &[1], 0.1).unwrap()[0].top1;
    assert_eq!(top1(&features), 0.0);
    assert_eq!(top1(&features.ones_like()), 0.0, "nor where all are alike");
}

#[test]
fn a_single_image_has_no_others() {
    let (features, labels) = (Tensor::ones([1, 3], (Kind::Float, Device::Cpu)), Tensor::from_slice(&[0_i64]));
    let error = knn_accuracy_among((&features, &labels), 2, &[1], 0.1).unwrap_err();
    assert!(matches!(error, Error::Shape { name: "features", actual, .. } if actual == [1, 3]));
}
