//! Evaluation of arbitrary features: kNN, retrieval, PCA, features of a data set.

use patchmix::Error;
use patchmix::data::Dataset;
use patchmix::eval::{evaluation_view, features, knn_accuracy, knn_accuracy_among, nearest, principal_components};
use patchmix::vit::{Pooling, Vit};
use proptest::prelude::*;
use tch::nn::VarStore;
use tch::{Kind, Tensor};

use crate::any::*;
use crate::model::SMALL;
use crate::typed;

/// Two lists of features, mostly of the same width.
fn two_features() -> impl Strategy<Value = (AnyTensor, AnyTensor)> {
    let sizes = (sizes(), sizes(), sizes());
    sizes.prop_flat_map(|(first, second, width)| (mostly(&[first, width]), mostly(&[second, width])))
}

fn labels() -> impl Strategy<Value = AnyTensor> {
    prop_oneof![6 => mostly(&[7]), 1 => tensors()]
}

fn images() -> impl Strategy<Value = AnyTensor> {
    (sizes(), sizes(), sizes()).prop_flat_map(|(count, height, width)| mostly(&[count, 3, height, width]))
}

fn channels() -> impl Strategy<Value = [f64; 3]> {
    prop::array::uniform3(floats())
}

proptest! {
    #[test]
    fn knn_takes_anything(
        (train, test) in two_features(),
        labels in prop::array::uniform2(labels()),
        labels_match in any::<bool>(),
        classes in integers(),
        ks in prop::collection::vec(integers(), 0..3),
        temperature in floats(),
    ) {
        let (train_features, test_features) = (train.make(), test.make());
        let label = |any: &AnyTensor, features: &Tensor| {
            // Matching labels, or any; never huge ones, because all labels are read.
            let count = if features.defined() { features.size().first().copied().unwrap_or(0) } else { 0 };
            if labels_match && count < HUGE { Tensor::zeros([count], (Kind::Int64, CPU)) } else { any.make() }
        };
        prop_assume!(labels.iter().all(|labels| !matches!(labels.layout, Layout::HugeDimension(_))));
        let (train_labels, test_labels) = (label(&labels[0], &train_features), label(&labels[1], &test_features));
        let result = typed("knn_accuracy", || {
            knn_accuracy((&train_features, &train_labels), (&test_features, &test_labels), classes, &ks, temperature)
        });
        let among = typed("knn_accuracy_among", || {
            knn_accuracy_among((&train_features, &train_labels), classes, &ks, temperature)
        });
        for accuracies in [result, among].into_iter().flatten() {
            prop_assert_eq!(accuracies.len(), ks.len());
            for accuracy in accuracies {
                prop_assert!((0.0..=1.0).contains(&accuracy.top1) && (accuracy.top1..=1.0).contains(&accuracy.top5));
            }
        }
    }

    #[test]
    fn nearest_and_principal_components_take_anything(
        (queries, features, others) in (sizes(), sizes(), sizes()).prop_flat_map(|(queries, count, width)| {
            (mostly(&[queries, width]), mostly(&[count, width]), mostly(&[queries, width]))
        }),
        k in integers(),
    ) {
        // All rows are visited, so a huge number of them would take forever.
        prop_assume!([&queries, &features].iter().all(|rows| rows.layout != Layout::HugeDimension(0)));
        let (queries, features, others) = (queries.make(), features.make(), others.make());
        if let Ok(found) = typed("nearest", || nearest(&queries, &features, k)) {
            let size = [queries.size()[0], k.min(features.size()[0])];
            prop_assert_eq!(found.positions.size(), size);
            prop_assert_eq!(found.similarities.size(), size);
        }
        if let Ok(found) = typed("principal_components", || principal_components(&features, k)) {
            prop_assert_eq!(found.components.size(), [k, features.size()[1]]);
            prop_assert!(found.explained.iter().all(|share| (0.0..=1.0).contains(share)));
            if let Ok(projected) = typed("project", || found.project(&others)) {
                prop_assert_eq!(projected.size(), [others.size()[0], k]);
            }
        }
    }

    #[test]
    fn features_take_any_data_set(
        images in images(),
        (batch_size, image_size) in (integers(), integers()),
        mean in channels(),
        std in channels(),
    ) {
        // All images are visited, so a huge number of them would take forever.
        prop_assume!(images.layout != Layout::HugeDimension(0));
        let store = VarStore::new(CPU);
        let encoder = Vit::new(&store.root(), &SMALL).unwrap();
        let data = Dataset { images: images.make(), labels: Tensor::new(), class_names: Vec::new() };
        if let Ok(views) = typed("evaluation_view", || evaluation_view(&data.images, image_size)) {
            prop_assert_eq!(views.size(), [data.len(), 3, image_size, image_size]);
        }
        for (mean, std) in [(mean, std), ([0.5; 3], [0.2; 3])] {
            if let Ok(features) = typed("features", || {
                features(&encoder, Pooling::PatchMean, &data, mean, std, batch_size)
            }) {
                prop_assert_eq!(features.size(), [data.len(), SMALL.width]);
            }
        }
    }
}

/// The error names the argument that is wrong.
#[test]
fn invalid_arguments_are_refused() {
    let rows = Tensor::eye(3, (Kind::Float, CPU));
    let labels = Tensor::from_slice(&[0_i64, 1, 2]);
    let knn = |train: &Tensor, classes: i64| knn_accuracy((train, &labels), (&rows, &labels), classes, &[1], 0.07);
    assert_eq!(knn(&rows, 3).unwrap()[0].top1, 1.0);
    assert!(matches!(knn(&Tensor::new(), 3), Err(Error::Undefined { name: "train_features" })));
    // NaN is nearest to everything, so a broken encoder would have some accuracy.
    let broken = &rows * f64::NAN;
    assert!(matches!(knn(&broken, 3), Err(Error::Value { name: "train_features", actual, .. }) if actual.is_nan()));
    for classes in [(1 << 24) + 1, 1 << 32, i64::MAX] {
        let error = knn(&rows, classes).unwrap_err();
        assert!(matches!(error, Error::Value { name: "classes", actual, .. } if actual == classes as f64));
    }
    let store = VarStore::new(CPU);
    let encoder = Vit::new(&store.root(), &SMALL).unwrap();
    let data = |images| Dataset { images, labels: Tensor::new(), class_names: Vec::new() };
    let image = || Tensor::zeros([1, 3, 8, 8], (Kind::Uint8, CPU));
    let features =
        |images, batch_size| features(&encoder, Pooling::ClassToken, &data(images), [0.5; 3], [0.2; 3], batch_size);
    assert!(features(image(), 1).is_ok());
    assert!(matches!(features(image(), 0), Err(Error::Value { name: "batch_size", actual: 0.0, .. })));
    assert!(matches!(features(image().narrow(0, 0, 0), 1), Err(Error::Shape { name: "images", .. })));
    assert!(matches!(features(image().select(0, 0), 1), Err(Error::Shape { name: "images", .. })));
}

/// At low temperatures, the votes of all near neighbors overflowed to infinity, and the first class won.
#[test]
fn the_nearest_wins_at_any_temperature() {
    let train = Tensor::from_slice2(&[[1.0_f32, 0.1], [1.0, 0.0], [0.0, 1.0]]);
    let train_labels = Tensor::from_slice(&[0_i64, 1, 2]);
    let (test, test_labels) = (Tensor::from_slice2(&[[1.0_f32, 0.0]]), Tensor::from_slice(&[1_i64]));
    for temperature in [0.07, 0.01, 1e-3, 1e-6] {
        let accuracy = knn_accuracy((&train, &train_labels), (&test, &test_labels), 3, &[3], temperature).unwrap();
        assert_eq!(accuracy[0].top1, 1.0, "{temperature}");
    }
}
