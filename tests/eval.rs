//! kNN against the published implementation and against a plain loop; the linear probe against libtorch's optimizer.
#![allow(clippy::unwrap_used)] // a test may panic, helpers included

mod common;

use approx::assert_abs_diff_eq;
use common::Golden;
use patchmix::augment::{IMAGENET_MEAN, IMAGENET_STD, normalize};
use patchmix::data::{Batches, procedural};
use patchmix::eval::{
    LinearClassifier, LinearConfig, accuracy, evaluation_view, features, knn_accuracy, linear_accuracy,
};
use patchmix::optim::schedule::cosine;
use patchmix::vit::{Pooling, Precision, Vit, VitConfig};
use patchmix::{Error, Result};
use tch::nn::{Init, OptimizerConfig, VarStore};
use tch::{Device, Kind, Tensor};

/// `Resize(int(size / 224 * 256), bicubic)` and `CenterCrop(size)` of torchvision on Pillow images, then
/// `(byte / 255 - mean) / std`. Of large views, every n-th row and column is in the file.
#[test]
fn evaluation_views_are_those_of_pillow_to_the_byte() {
    let golden = Golden::read("protocol/eval_view.safetensors");
    let cases: Vec<&str> = golden.keys().filter_map(|key| key.strip_suffix("/view")).collect();
    assert!(!cases.is_empty());
    let channels = |values: [f64; 3]| Tensor::from_slice(&values).view([1, 3, 1, 1]);
    for case in cases {
        let image_size: i64 = case.split('_').nth(1).unwrap().parse().unwrap();
        let published = golden.tensor(&format!("{case}/view")).unsqueeze(0);
        let view = evaluation_view(&golden.tensor(&format!("{case}/image")).unsqueeze(0), image_size).unwrap();
        assert_eq!((view.kind(), view.size()), (Kind::Uint8, vec![1, 3, image_size, image_size]));
        let every = image_size / published.size()[3];
        let shown = view.slice(2, 0, image_size, every).slice(3, 0, image_size, every);
        let bytes = (published.to_kind(Kind::Double) * channels(IMAGENET_STD) + channels(IMAGENET_MEAN)) * 255.0;
        common::assert_close(case, &shown, &bytes.round(), 0.0);
        common::assert_close(case, &normalize(&shown, IMAGENET_MEAN, IMAGENET_STD).unwrap(), &published, 1e-6);
    }
}

#[test]
fn an_evaluation_view_depends_on_its_own_image_only() {
    let images = procedural(6, 300, 3).unwrap().images.narrow(2, 0, 256); // 256 rows, 300 columns
    let views = evaluation_view(&images, 224).unwrap();
    for (position, view) in (0..).zip(views.split(1, 0)) {
        assert_eq!(view, evaluation_view(&images.narrow(0, position, 1), 224).unwrap());
    }
    assert_eq!(views, images.narrow(2, 16, 224).narrow(3, 38, 224), "the shorter side has 256 pixels already");
    assert_eq!(evaluation_view(&images.narrow(0, 0, 0), 32).unwrap().size(), [0, 3, 32, 32]);
    let floats = images.to_kind(Kind::Float);
    assert!(matches!(evaluation_view(&floats, 32), Err(Error::Kind { name: "images", .. })));
    assert!(matches!(evaluation_view(&images.get(0), 32), Err(Error::Shape { name: "images", .. })));
    for image_size in [0, 8193] {
        assert!(matches!(evaluation_view(&images, image_size), Err(Error::Value { name: "image_size", .. })));
    }
}

/// The classifier votes with `exp(s / T)` among the k most similar of 500 training features; `top1_top5` in percent.
/// `ambiguous_top5` counts test points with fewer than five classes among their neighbors: the order of the rest is
/// free.
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
        assert_abs_diff_eq!(ours.top1, published[0] / 100.0, epsilon = 1e-11);
        let ambiguous = golden.number(&format!("ambiguous_top5/k{key}")) / test_count;
        assert_abs_diff_eq!(ours.top5, published[1] / 100.0, epsilon = ambiguous + 1e-9);
        compared += 1;
    }
    assert_eq!(compared, 7);
}

/// The classifier as a plain loop over test features and neighbors.
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
        assert_abs_diff_eq!(ours.top1, plain, epsilon = 1e-12);
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
    let views = evaluation_view(&dataset.images, 16).unwrap();
    let images = normalize(&views, IMAGENET_MEAN, IMAGENET_STD).unwrap();
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
    // Images of another size are resized to the encoder's.
    let large = procedural(4, 40, 3).unwrap();
    let scaled = features(&encoder, Pooling::ClassToken, &large, IMAGENET_MEAN, IMAGENET_STD, 3).unwrap();
    assert_eq!(scaled.size(), [4, 24]);
}

#[test]
fn mismatched_arguments_are_typed_errors() {
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

/// Features `[count, 6]` of three classes, scattered around three points, and their labels.
fn three_clouds(count: i64) -> (Tensor, Tensor) {
    let labels = Tensor::arange(count, (Kind::Int64, Device::Cpu)).remainder(3);
    let centers = Tensor::eye(6, (Kind::Float, Device::Cpu)).narrow(0, 0, 3) * 2.0;
    (centers.index_select(0, &labels) + Tensor::randn([count, 6], (Kind::Float, Device::Cpu)), labels)
}

/// The linear probe with autograd and libtorch's SGD with Nesterov momentum, from weights of zero. The rate falls from
/// epoch to epoch.
fn plain_logits(config: &LinearConfig, (features, labels): (&Tensor, &Tensor), test: &Tensor) -> Tensor {
    let store = VarStore::new(Device::Cpu);
    let weight = store.root().var("weight", &[3, 6], Init::Const(0.0));
    let bias = store.root().var("bias", &[3], Init::Const(0.0));
    let mut sgd = tch::nn::sgd(config.momentum, 0.0, 0.0, true).build(&store, 1.0).unwrap();
    for epoch in 0..config.epochs {
        let base = config.learning_rate * config.batch_size as f64 / 256.0;
        sgd.set_lr(cosine(epoch, config.epochs, base, 0.0));
        for batch in Batches::new(features.size()[0], config.batch_size, config.seed, epoch).unwrap().iter() {
            let batch = Tensor::from_slice(batch);
            let logits = features.index_select(0, &batch).linear(&weight, Some(&bias));
            sgd.backward_step(&logits.cross_entropy_for_logits(&labels.index_select(0, &batch)));
        }
    }
    test.linear(&weight, Some(&bias)).detach()
}

#[test]
fn the_linear_probe_matches_libtorchs_sgd() {
    let (train, labels) = three_clouds(100);
    let (test, test_labels) = three_clouds(60);
    let config = LinearConfig { epochs: 5, batch_size: 32, learning_rate: 4.0, momentum: 0.9, seed: 3 };
    let classifier = LinearClassifier::train(&config, 100, (6, 3), Device::Cpu, |_, positions| {
        let positions = Tensor::from_slice(positions);
        Ok((train.index_select(0, &positions), labels.index_select(0, &positions)))
    })
    .unwrap();
    let (ours, plain) = (classifier.logits(&test).unwrap(), plain_logits(&config, (&train, &labels), &test));
    common::assert_close("logits", &ours, &plain, 1e-4);
    let measured = linear_accuracy((&train, &labels), (&test, &test_labels), 3, &config).unwrap();
    assert_eq!(measured, accuracy(&plain, &test_labels).unwrap());
    assert!(measured.top1 > 0.6, "{measured:?}");
}

#[test]
fn accuracy_counts_the_first_and_the_first_five() {
    // The classes by decreasing score: 0, 1, 2 and so on.
    let scores = Tensor::arange_start_step(7, 0, -1, (Kind::Float, Device::Cpu)).expand([4, 7], false);
    let of = |labels: &[i64; 4]| accuracy(&scores, &Tensor::from_slice(labels)).unwrap();
    assert_eq!((of(&[0, 0, 4, 5]).top1, of(&[0, 0, 4, 5]).top5), (0.5, 0.75));
    let label = Tensor::from_slice(&[0_i64, 0, 0, 7]);
    assert!(matches!(accuracy(&scores, &label), Err(Error::Value { name: "labels", .. })));
    let broken = Tensor::full([1, 2], f64::NAN, (Kind::Float, Device::Cpu));
    let refused = accuracy(&broken, &Tensor::from_slice(&[0_i64]));
    assert!(matches!(refused, Err(Error::Value { name: "scores", .. })));
}

#[test]
fn invalid_linear_probes_are_typed_errors() {
    let (features, labels) = three_clouds(10);
    let probe = |config: &LinearConfig, labels: &Tensor| {
        linear_accuracy((&features, labels), (&features, labels), 3, config).map(drop)
    };
    let good = LinearConfig { epochs: 1, batch_size: 5, ..LinearConfig::default() };
    assert!(probe(&good, &labels).is_ok());
    for (config, wrong) in [
        (LinearConfig { epochs: 0, ..good.clone() }, "epochs"),
        (LinearConfig { batch_size: 11, ..good.clone() }, "batch_size"),
        (LinearConfig { learning_rate: f64::NAN, ..good.clone() }, "learning_rate"),
        (LinearConfig { momentum: 1.0, ..good.clone() }, "momentum"),
        (LinearConfig { learning_rate: 1e300, ..good.clone() }, "scores"),
    ] {
        assert!(matches!(probe(&config, &labels), Err(Error::Value { name, .. }) if name == wrong), "{wrong}");
    }
    let empty = LinearClassifier::train(&good, 10, (6, 3), Device::Cpu, |_, _| {
        Ok((Tensor::zeros([0, 6], (Kind::Float, Device::Cpu)), Tensor::zeros([0], (Kind::Int64, Device::Cpu))))
    });
    assert!(matches!(empty, Err(Error::Value { name: "labels", actual: 0.0, .. })));
    assert!(matches!(probe(&good, &(&labels + 1)), Err(Error::Value { name: "train_labels", .. })));
    assert!(matches!(probe(&good, &labels.to_kind(Kind::Float)), Err(Error::Kind { name: "train_labels", .. })));
}

/// Every step of a linear probe by PyTorch: `v = 0.9 v + g`, `w -= rate (g + 0.9 v)`, and in epoch `e` of `E`
/// `rate = base / 2 (1 + cos(π e / E))`.
#[test]
fn the_linear_probe_repeats_the_published_one() {
    let golden = Golden::read("protocol/linear_probe.safetensors");
    let (features, labels) = (golden.tensor("features"), golden.tensor("labels"));
    let (rates, orders, losses) = (golden.numbers("lr_of_epoch"), golden.tensor("orders"), golden.numbers("losses"));
    let epochs = rates.len() as u64;
    let batch_size = orders.size()[1] / (losses.len() as i64 / epochs as i64);
    let learning_rate = rates[0] * 256.0 / batch_size as f64;
    let config = LinearConfig { epochs, batch_size, learning_rate, ..LinearConfig::default() };
    let mut classifier = LinearClassifier::from_weights(golden.tensor("weight"), golden.tensor("bias")).unwrap();
    let mut step = 0;
    for (epoch, rate) in (0..epochs).zip(&rates) {
        assert_abs_diff_eq!(config.rate(epoch), *rate, epsilon = 1e-12);
        for batch in orders.get(epoch as i64).split(batch_size, 0) {
            let (features, labels) = (features.index_select(0, &batch), labels.index_select(0, &batch));
            let loss = classifier.step(&features, &labels, config.rate(epoch), config.momentum).unwrap();
            assert_abs_diff_eq!(loss.double_value(&[]), losses[step], epsilon = 1e-5);
            step += 1;
        }
    }
    assert_eq!(step, losses.len());
    let (weight, bias) = classifier.weights();
    common::assert_close("weight", weight, golden.tensor("final_weight"), 1e-5);
    common::assert_close("bias", bias, golden.tensor("final_bias"), 1e-5);
}
