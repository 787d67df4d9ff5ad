//! Evaluation of frozen features on the device: kNN, PCA and the linear probe.

use approx::abs_diff_eq;
use patchmix::augment::{IMAGENET_MEAN, IMAGENET_STD};
use patchmix::data::{Batches, procedural};
use patchmix::eval::{
    LinearClassifier, LinearConfig, alignment, effective_rank, evaluation_view, features, knn_accuracy,
    linear_accuracy, principal_components, uniformity,
};
use patchmix::optim::schedule::cosine;
use patchmix::vit::{Pooling, Vit};
use tch::nn::VarStore;
use tch::{Device, Kind, Tensor};

use crate::common::{Golden, golden_shape};
use crate::turn::{Turn, assert_near};

/// The classifier votes with `exp(s / T)` among the k most similar of 500 training features; `top1_top5` in percent.
/// `ambiguous_top5` test points have fewer than five classes among their neighbors, so any order of the others is
/// right.
#[test]
fn knn_accuracy_equals_the_published_one() {
    let turn = Turn::take();
    let golden = Golden::read("knn.safetensors");
    let labels = |key: &str| golden.tensor(key).to_kind(Kind::Int64).to_device(turn.device);
    let (train_labels, test_labels) = (labels("train_labels"), labels("test_labels"));
    let test_count = test_labels.size()[0] as f64;
    let mut compared = 0;
    for key in golden.keys().filter_map(|key| key.strip_prefix("top1_top5/k")) {
        let (k, temperature) = key.split_once("_T").unwrap();
        let (k, temperature): (i64, f64) = (k.parse().unwrap(), temperature.parse().unwrap());
        let published = golden.numbers(&format!("top1_top5/k{key}"));
        let ambiguous = golden.number(&format!("ambiguous_top5/k{key}")) / test_count;
        for kind in [Kind::Float, Kind::Double] {
            let of = |key: &str| turn.put(golden.tensor(key), kind);
            let (train, test) = (of("train_features"), of("test_features"));
            let ours =
                knn_accuracy((&train, &train_labels), (&test, &test_labels), 1000, &[k], temperature).unwrap()[0];
            let what = format!("k{key} {kind:?}: {ours:?}, published {published:?}");
            assert!(abs_diff_eq!(100.0 * ours.top1, published[0], epsilon = 1e-9), "{what}");
            assert!(abs_diff_eq!(ours.top5, published[1] / 100.0, epsilon = ambiguous + 1e-9), "{what}");
        }
        compared += 1;
    }
    assert_eq!(compared, 7);
}

/// Compared with the right singular vectors of the centered features on the CPU, up to their sign, and with the shares
/// of the squared singular values.
#[test]
fn principal_components_are_singular_vectors() {
    let turn = Turn::take();
    let stretch = Tensor::from_slice(&[9.0, 5.0, 3.0, 2.0, 1.0, 0.5]);
    let rows = Tensor::randn([400, 6], (Kind::Double, Device::Cpu)) * stretch;
    let rows = rows.matmul(&Tensor::randn([6, 6], (Kind::Double, Device::Cpu))) + 3.0;
    let mean = rows.mean_dim(0, false, Kind::Double);
    let (_, singular, directions) = (&rows - &mean).svd(true, true); // directions are columns
    for (kind, tolerance) in [(Kind::Double, 1e-9), (Kind::Float, 1e-5)] {
        let on_device = turn.put(&rows, kind);
        let found = principal_components(&on_device, 4).unwrap();
        assert_eq!(found.components.device(), turn.device);
        assert_near("mean", &found.mean, &mean, tolerance);
        let cosines = found.components.to(Device::Cpu).matmul(&directions.narrow(1, 0, 4)).abs();
        assert_near("directions", &cosines, &Tensor::eye(4, (Kind::Double, Device::Cpu)), tolerance);
        let shares = singular.square() / singular.square().sum(Kind::Double);
        assert_near("shares", &Tensor::from_slice(&found.explained), &shares.narrow(0, 0, 4), tolerance);
        let projected = found.project(&on_device).unwrap().to(Device::Cpu);
        let expected = (&rows - &mean).matmul(&found.components.to(Device::Cpu).tr());
        assert_near("projections", &projected, &expected, tolerance);
    }
}

/// Compared with all distances of rows of length 1, and with the singular values, on the CPU.
#[test]
fn the_spread_of_features_is_that_of_their_distances_and_singular_values() {
    let turn = Turn::take();
    let [rows, others] = [(); 2].map(|()| Tensor::randn([300, 8], (Kind::Double, Device::Cpu)) + 0.5);
    let unit = |rows: &Tensor| rows / rows.square().sum_dim_intlist(1, true, Kind::Double).sqrt();
    let alone = (unit(&rows) - unit(&others)).square().sum(Kind::Double).double_value(&[]) / 300.0;
    let potentials = (unit(&rows).pdist(2.0).square() * -2.0).exp();
    let together = potentials.mean(Kind::Double).log().double_value(&[]);
    let (_, singular, _) = rows.svd(true, true);
    let shares = &singular / singular.sum(Kind::Double);
    let rank = (-(&shares * shares.log()).sum(Kind::Double)).exp().double_value(&[]);
    for (kind, tolerance) in [(Kind::Double, 1e-12), (Kind::Float, 1e-5)] {
        let (rows, others) = (turn.put(&rows, kind), turn.put(&others, kind));
        assert!(abs_diff_eq!(alignment(&rows, &others).unwrap(), alone, epsilon = tolerance));
        assert!(abs_diff_eq!(uniformity(&rows).unwrap(), together, epsilon = tolerance));
        assert!(abs_diff_eq!(effective_rank(&rows).unwrap(), rank, epsilon = tolerance));
    }
}

/// Features `[count, 6]` of three classes around three centers, and their labels.
fn three_clouds(count: i64) -> (Tensor, Tensor) {
    let labels = Tensor::arange(count, (Kind::Int64, Device::Cpu)).remainder(3);
    let centers = Tensor::eye(6, (Kind::Double, Device::Cpu)).narrow(0, 0, 3) * 8.0;
    (centers.index_select(0, &labels) + Tensor::randn([count, 6], (Kind::Double, Device::Cpu)), labels)
}

/// The logits of the probe by the formulas of SGD with Nesterov momentum, on the CPU in double precision.
fn plain_logits(config: &LinearConfig, features: &Tensor, labels: &Tensor) -> Tensor {
    let zeros = || Tensor::zeros([3, 7], (Kind::Double, Device::Cpu));
    let (mut weight, mut running) = (zeros(), zeros()); // the last column is the bias
    let features = Tensor::cat(&[features, &features.narrow(1, 0, 1).ones_like()], 1);
    let count = labels.size()[0];
    let base = config.learning_rate * config.batch_size as f64 / 256.0;
    for epoch in 0..config.epochs {
        for batch in Batches::new(count, config.batch_size, config.seed, epoch).unwrap().iter() {
            let of_batch = |tensor: &Tensor| tensor.index_select(0, &Tensor::from_slice(batch));
            let probabilities = of_batch(&features).matmul(&weight.tr()).softmax(-1, Kind::Double);
            let error = (probabilities - of_batch(labels).one_hot(3)) / config.batch_size as f64;
            let gradient = error.tr().matmul(&of_batch(&features));
            running = running * config.momentum + &gradient;
            weight -= (gradient + &running * config.momentum) * cosine(epoch, config.epochs, base, 0.0);
        }
    }
    features.matmul(&weight.tr())
}

#[test]
fn the_linear_probe_separates_classes() {
    let turn = Turn::take();
    let (rows, labels) = three_clouds(120);
    let config = LinearConfig { epochs: 5, batch_size: 32, learning_rate: 4.0, momentum: 0.9, seed: 3 };
    let (features, labels_there) = (turn.put(&rows, Kind::Float), labels.to_device(turn.device));
    let classifier = LinearClassifier::train(&config, 120, (6, 3), turn.device, |_, positions| {
        let positions = Tensor::from_slice(positions).to_device(turn.device);
        Ok((features.index_select(0, &positions), labels_there.index_select(0, &positions)))
    });
    let logits = classifier.unwrap().logits(&features).unwrap();
    assert_near("logits", &logits, &plain_logits(&config, &rows, &labels), 1e-4);
    let (test, test_labels) = three_clouds(90);
    let (test, test_labels) = (turn.put(&test, Kind::Float), test_labels.to_device(turn.device));
    let measured = linear_accuracy((&features, &labels_there), (&test, &test_labels), 3, &config).unwrap();
    assert!(measured.top1 > 0.97, "{measured:?}");
}

/// An encoder on the device and images on the CPU, against the same encoder on the CPU in double precision.
#[test]
fn features_of_a_dataset_agree_with_the_cpu() {
    let turn = Turn::take();
    let (vit, _) = golden_shape();
    let (store, mut reference) = (VarStore::new(turn.device), VarStore::new(Device::Cpu));
    let encoder = Vit::new(&store.root(), &vit).unwrap();
    let plain = Vit::new(&reference.root(), &vit).unwrap();
    reference.double();
    reference.copy(&store).unwrap();
    let dataset = procedural(20, 16, 3).unwrap();
    let views = evaluation_view(&dataset.images, 16).unwrap();
    let images = (views.to_kind(Kind::Double) / 255.0 - &channels(IMAGENET_MEAN)) / &channels(IMAGENET_STD);
    for pooling in [Pooling::ClassToken, Pooling::PatchMean] {
        let found = features(&encoder, pooling, &dataset, IMAGENET_MEAN, IMAGENET_STD, 8).unwrap();
        assert_eq!(found.size(), [20, vit.width]);
        assert_near("features", &found, &plain.features(&images, pooling, false).unwrap(), 1e-5);
    }
}

#[test]
fn evaluation_views_are_those_of_the_cpu_to_the_byte() {
    let turn = Turn::take();
    for (side, image_size) in [(32, 32), (200, 64), (40, 224)] {
        let images = procedural(9, side, 5).unwrap().images.narrow(2, 0, side - 8);
        let views = evaluation_view(&images.to_device(turn.device), image_size).unwrap();
        assert_eq!(views.to_device(Device::Cpu), evaluation_view(&images, image_size).unwrap());
    }
}

fn channels(values: [f64; 3]) -> Tensor {
    Tensor::from_slice(&values).view([1, 3, 1, 1])
}
