//! Nearest neighbours on features: against the published implementation, and against a plain loop.
#![allow(clippy::unwrap_used)] // a test may panic, helpers included

mod common;

use common::Golden;
use patchmix::augment::{IMAGENET_MEAN, IMAGENET_STD, normalize};
use patchmix::data::procedural;
use patchmix::eval::{features, knn_accuracy};
use patchmix::vit::{Pooling, Precision, Vit, VitConfig};
use patchmix::{Error, Result};
use tch::nn::VarStore;
use tch::{Device, Kind, Tensor};

/// The classifier votes with `exp(s / T)` among the k most similar of 500 training features; `top1_top5` in percent.
/// `ambiguous_top5` test points have fewer than five classes among their neighbours, and any order of the rest is right.
#[test]
fn knn_accuracy_equals_the_published_one() {
    let golden = Golden::read("knn.safetensors");
    let train = (golden.tensor("train_features"), golden.tensor("train_labels"));
    let test = (golden.tensor("test_features"), golden.tensor("test_labels"));
    let test_count = test.1.size()[0] as f64;
    let mut compared = 0;
    for key in golden.keys().filter_map(|key| key.strip_prefix("top1_top5/k")) {
        let (k, temperature) = key.split_once("_T").unwrap();
        let (k, temperature): (i64, f64) = (k.parse().unwrap(), temperature.parse().unwrap());
        let ours = knn_accuracy(train, test, 1000, &[k], temperature).unwrap()[0];
        let published = golden.numbers(&format!("top1_top5/k{key}"));
        assert!((100.0 * ours.top1 - published[0]).abs() < 1e-9, "k{key} top 1: {} {}", ours.top1, published[0]);
        let ambiguous = golden.number(&format!("ambiguous_top5/k{key}")) / test_count;
        assert!(
            (ours.top5 - published[1] / 100.0).abs() <= ambiguous + 1e-9,
            "k{key} top 5: {} {}",
            ours.top5,
            published[1]
        );
        compared += 1;
    }
    assert_eq!(compared, 7);
}

/// What the classifier does, one test feature and one neighbour at a time.
fn plain_top1(train: &Tensor, labels: &[i64], test: &Tensor, test_labels: &[i64], k: usize, temperature: f64) -> f64 {
    let rows = |features: &Tensor| -> Vec<Vec<f64>> {
        let rows = (0..features.size()[0]).map(|row| Vec::<f64>::try_from(features.get(row)).unwrap());
        rows.map(|row| {
            let length = row.iter().map(|x| x * x).sum::<f64>().sqrt();
            row.into_iter().map(|x| x / length).collect()
        })
        .collect()
    };
    let (train, test) = (rows(train), rows(test));
    let correct = test.iter().zip(test_labels).filter(|(query, label)| {
        let mut similar: Vec<(f64, i64)> = train
            .iter()
            .zip(labels)
            .map(|(row, label)| (row.iter().zip(*query).map(|(a, b)| a * b).sum(), *label))
            .collect();
        similar.sort_by(|(a, _), (b, _)| b.total_cmp(a));
        let mut votes = [0.0; 3];
        similar[..k].iter().for_each(|(similarity, label)| votes[*label as usize] += (similarity / temperature).exp());
        let best = (0..3).max_by(|&a, &b| votes[a].total_cmp(&votes[b])).unwrap();
        best as i64 == **label
    });
    correct.count() as f64 / test_labels.len() as f64
}

#[test]
fn several_k_at_once_are_what_a_plain_loop_finds() {
    let (train, test) =
        (Tensor::randn([60, 5], (Kind::Double, Device::Cpu)), Tensor::randn([40, 5], (Kind::Double, Device::Cpu)));
    let labels = |count: i64| Tensor::arange(count, (Kind::Int64, Device::Cpu)).remainder(3);
    let (train_labels, test_labels) = (labels(60), labels(40));
    let list = |labels: &Tensor| Vec::<i64>::try_from(labels).unwrap();
    let ks = [1, 7, 60, 500];
    let ours = knn_accuracy((&train, &train_labels), (&test, &test_labels), 3, &ks, 0.5).unwrap();
    for (k, ours) in ks.into_iter().zip(ours) {
        let k = k.min(60) as usize;
        let plain = plain_top1(&train, &list(&train_labels), &test, &list(&test_labels), k, 0.5);
        assert!((ours.top1 - plain).abs() < 1e-12, "k = {k}: {} {plain}", ours.top1);
        assert_eq!(ours.top5, 1.0, "three classes are always among the first five");
    }
}

#[test]
fn features_do_not_depend_on_the_batches_they_are_computed_in() {
    let config = VitConfig {
        image_size: 16,
        patch_size: 4,
        width: 24,
        depth: 2,
        heads: 2,
        mlp_ratio: 2,
        drop_path: 0.5,
        precision: Precision::Full,
    };
    let store = VarStore::new(Device::Cpu);
    let encoder = Vit::new(&store.root(), &config).unwrap();
    let dataset = procedural(10, 16, 3).unwrap();
    let images = normalize(&dataset.images, IMAGENET_MEAN, IMAGENET_STD).unwrap();
    for pooling in [Pooling::ClassToken, Pooling::PatchMean] {
        let in_batches_of = |size| features(&encoder, pooling, &dataset, IMAGENET_MEAN, IMAGENET_STD, size).unwrap();
        common::assert_close("batches", &in_batches_of(100), &in_batches_of(3), 1e-5);
        let tokens = encoder.tokens(&images, false).unwrap();
        let pooled = match pooling {
            Pooling::ClassToken => tokens.select(1, 0),
            Pooling::PatchMean => tokens.narrow(1, 1, 16).sum_dim_intlist(1, false, None) / 16.0,
        };
        common::assert_close("pooling", &in_batches_of(100), &pooled, 1e-5);
    }
    // Images of another size are scaled to the encoder's.
    let large = procedural(4, 40, 3).unwrap();
    let scaled = features(&encoder, Pooling::ClassToken, &large, IMAGENET_MEAN, IMAGENET_STD, 3).unwrap();
    assert_eq!(scaled.size(), [4, 24]);
}

#[test]
fn what_does_not_fit_together_is_a_typed_error() {
    let features = |rows, width| Tensor::ones([rows, width], (Kind::Float, Device::Cpu));
    let labels = |values: &[i64]| Tensor::from_slice(values);
    let run = |train: (Tensor, Tensor), k, temperature| -> Result<()> {
        knn_accuracy((&train.0, &train.1), (&features(2, 4), &labels(&[0, 1])), 2, &[k], temperature).map(drop)
    };
    let good = || (features(3, 4), labels(&[0, 1, 1]));
    assert!(run(good(), 1, 0.07).is_ok());
    assert!(matches!(run(good(), 0, 0.07), Err(Error::Value { name: "k", .. })));
    assert!(matches!(run(good(), 1, 0.0), Err(Error::Value { name: "temperature", .. })));
    assert!(matches!(run((features(3, 5), labels(&[0, 1, 1])), 1, 0.1), Err(Error::Shape { .. })));
    assert!(matches!(run((features(3, 4), labels(&[0, 1])), 1, 0.1), Err(Error::Shape { name: "train_labels", .. })));
    assert!(matches!(run((features(0, 4), labels(&[])), 1, 0.1), Err(Error::Shape { name: "train_features", .. })));
    assert!(matches!(
        run((features(3, 4), labels(&[0, 1, 2])), 1, 0.1),
        Err(Error::Value { name: "train_labels", .. })
    ));
}
