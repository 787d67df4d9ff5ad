//! Nearest neighbors, principal components, the spread of features and class attention, against plain computations.
#![allow(clippy::unwrap_used)] // a test may panic, helpers included

mod common;

use approx::assert_abs_diff_eq;
use common::{assert_close, golden_shape};
use patchmix::eval::{alignment, effective_rank, nearest, principal_components, uniformity};
use patchmix::vit::{Precision, Vit, VitConfig};
use patchmix::{Error, Result};
use tch::nn::VarStore;
use tch::{Device, Kind, Tensor};

fn random(rows: i64, width: i64) -> Tensor {
    Tensor::randn([rows, width], (Kind::Double, Device::Cpu))
}

fn rows(matrix: &Tensor) -> Vec<Vec<f64>> {
    (0..matrix.size()[0]).map(|row| Vec::try_from(matrix.get(row)).unwrap()).collect()
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

#[test]
fn nearest_neighbors_are_those_of_a_plain_loop() {
    tch::manual_seed(3);
    let (queries, features) = (random(9, 5), random(40, 5) * 7.0);
    let found = nearest(&queries, &features, 6).unwrap();
    assert_eq!(found.similarities.kind(), Kind::Double);
    for (row, query) in rows(&queries).iter().enumerate() {
        let cosine = |other: &[f64]| dot(query, other) / (dot(query, query) * dot(other, other)).sqrt();
        let mut all: Vec<(f64, i64)> = rows(&features).iter().map(|other| cosine(other)).zip(0..).collect();
        all.sort_by(|(a, _), (b, _)| b.total_cmp(a));
        let positions = Vec::<i64>::try_from(found.positions.get(row as i64)).unwrap();
        assert_eq!(positions, all[..6].iter().map(|(_, position)| *position).collect::<Vec<_>>());
        let similarities = Vec::<f64>::try_from(found.similarities.get(row as i64)).unwrap();
        for (similarity, (expected, _)) in similarities.iter().zip(&all) {
            assert_abs_diff_eq!(similarity, expected, epsilon = 1e-12);
        }
    }
}

/// More queries than one block of similarities has, and more features than one tile: every feature finds itself.
#[test]
fn blocks_and_tiles_do_not_change_the_neighbors() {
    let count = 10_000;
    let features = Tensor::randn([count, 16], (Kind::Float, Device::Cpu));
    let found = nearest(&features, &features, 1).unwrap();
    assert_eq!(found.positions, Tensor::arange(count, (Kind::Int64, Device::Cpu)).view([count, 1]));
    assert!(found.similarities.min().double_value(&[]) > 0.999_999);
}

#[test]
fn there_are_at_most_as_many_neighbors_as_features() {
    let found = nearest(&random(2, 4), &random(3, 4), 10).unwrap();
    assert_eq!((found.similarities.size(), found.positions.size()), (vec![2, 3], vec![2, 3]));
}

/// The singular values s of the centered features give the variances s² / (N - 1), and the right singular vectors the
/// directions.
#[test]
fn principal_components_are_the_singular_vectors() {
    tch::manual_seed(4);
    let features = random(50, 6) * Tensor::from_slice(&[6.0, 1.0, 4.0, 0.5, 2.0, 3.0]) + 10.0;
    let found = principal_components(&features, 4).unwrap();
    let centered = &features - features.mean_dim(0, true, None);
    let (_, singular, directions) = centered.svd(true, true);
    assert_close("mean", &found.mean, &features.mean_dim(0, false, None), 1e-12);
    assert_close("directions", &found.components.abs(), &directions.tr().narrow(0, 0, 4).abs(), 1e-9);
    let variances = singular.square() / 49.0;
    let explained = &variances / variances.sum(Kind::Double);
    assert_close("explained", &Tensor::from_slice(&found.explained), &explained.narrow(0, 0, 4), 1e-12);

    assert_close(
        "orthonormal",
        &found.components.matmul(&found.components.tr()),
        &Tensor::eye(4, (Kind::Double, Device::Cpu)),
        1e-12,
    );
    let projected = found.project(&features).unwrap();
    assert_close("projected", &projected, &centered.matmul(&found.components.tr()), 1e-12);
    assert_close("variance along a direction", &projected.select(1, 0).var(true), &variances.get(0), 1e-9);
    for component in rows(&found.components) {
        let extreme = component.iter().copied().max_by(|a, b| a.abs().total_cmp(&b.abs())).unwrap();
        assert!(extreme > 0.0, "{component:?}");
    }
}

#[test]
fn equal_features_have_no_variance_to_explain() {
    let found = principal_components(&Tensor::ones([3, 2], (Kind::Float, Device::Cpu)), 2).unwrap();
    assert_eq!(found.explained, [0.0, 0.0]);
}

/// The rows of a matrix with the length 1.
fn unit_rows(matrix: &Tensor) -> Vec<Vec<f64>> {
    let unit = |row: Vec<f64>| -> Vec<f64> { row.iter().map(|value| value / dot(&row, &row).sqrt()).collect() };
    rows(matrix).into_iter().map(unit).collect()
}

fn squared_distance(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| (a - b).powi(2)).sum()
}

#[test]
fn alignment_and_uniformity_are_those_of_a_plain_loop() {
    tch::manual_seed(5);
    for (count, width) in [(2, 3), (7, 1), (40, 5), (9, 30)] {
        let (features, other) = (random(count, width) * 7.0, random(count, width));
        let (units, others) = (unit_rows(&features), unit_rows(&other));
        let distances = units.iter().zip(&others).map(|(one, other)| squared_distance(one, other));
        let expected = distances.sum::<f64>() / count as f64;
        assert_abs_diff_eq!(alignment(&features, &other).unwrap(), expected, epsilon = 1e-12);

        let mut potentials = Vec::new();
        for (row, one) in units.iter().enumerate() {
            potentials.extend(units[..row].iter().map(|other| (-2.0 * squared_distance(one, other)).exp()));
        }
        let expected = (potentials.iter().sum::<f64>() / potentials.len() as f64).ln();
        assert_abs_diff_eq!(uniformity(&features).unwrap(), expected, epsilon = 1e-12);
        assert_abs_diff_eq!(uniformity(&features.to_kind(Kind::Float)).unwrap(), expected, epsilon = 1e-5);
    }
    assert_eq!(alignment(&random(3, 4).ones_like(), &(random(3, 4).ones_like() * 5.0)).unwrap(), 0.0);
    assert_abs_diff_eq!(uniformity(&Tensor::ones([3, 2], (Kind::Double, Device::Cpu))).unwrap(), 0.0, epsilon = 1e-12);
}

/// The mean over all pairs of three blocks of rows, the last one shorter, is the mean over the counts of equal and of
/// opposite pairs.
#[test]
fn uniformity_does_not_depend_on_its_blocks() {
    let (count, ups) = (4_000_i64, 1_000_i64);
    let signs = Tensor::arange(count, (Kind::Int64, Device::Cpu)).lt(ups).to_kind(Kind::Float) * 2.0 - 1.0;
    let pairs = |rows: i64| (rows * (rows - 1) / 2) as f64;
    let equal = (pairs(ups) + pairs(count - ups)) / pairs(count);
    let expected = (equal + (1.0 - equal) * (-8.0_f64).exp()).ln();
    assert_abs_diff_eq!(uniformity(&signs.view([count, 1])).unwrap(), expected, epsilon = 1e-6);
}

/// exp(-Σ p ln p) with the shares p of the singular values.
#[test]
fn the_effective_rank_is_that_of_the_singular_values() {
    tch::manual_seed(6);
    for (count, width) in [(30, 4), (4, 30), (5, 5), (1, 6), (6, 1)] {
        let features = random(count, width) * 1e200;
        let (_, singular, _) = features.svd(true, true);
        let singular = Vec::<f64>::try_from(singular).unwrap();
        let shares = singular.iter().map(|value| value / singular.iter().sum::<f64>());
        let expected = shares.map(|share| -share * share.ln()).sum::<f64>().exp();
        assert_abs_diff_eq!(effective_rank(&features).unwrap(), expected, epsilon = 1e-9);
    }
    let identity = Tensor::eye(7, (Kind::Float, Device::Cpu));
    assert_abs_diff_eq!(effective_rank(&identity).unwrap(), 7.0, epsilon = 1e-12);
    let collapsed = random(9, 1).matmul(&random(1, 6));
    assert_abs_diff_eq!(effective_rank(&collapsed).unwrap(), 1.0, epsilon = 1e-12);
    assert_eq!(effective_rank(&identity.zeros_like()).unwrap(), 0.0);
}

#[test]
fn features_without_a_spread_are_typed_errors() {
    assert!(matches!(alignment(&random(3, 4), &random(2, 4)), Err(Error::Shape { name: "other_features", .. })));
    assert!(matches!(alignment(&random(3, 4), &random(3, 5)), Err(Error::Shape { name: "other_features", .. })));
    assert!(matches!(uniformity(&random(1, 4)), Err(Error::Shape { name: "features", .. })));
    assert!(matches!(uniformity(&(random(3, 4) * f64::NAN)), Err(Error::Value { name: "features", .. })));
    assert!(matches!(effective_rank(&random(0, 4)), Err(Error::Shape { name: "features", .. })));
    let wide = Tensor::zeros([8193, 8193], (Kind::Half, Device::Cpu));
    assert!(matches!(effective_rank(&wide), Err(Error::Value { name: "min(N, D)", .. })));
}

/// An encoder of two blocks, its weights, and images.
fn encoder() -> (VarStore, Vit, Tensor) {
    let store = VarStore::new(Device::Cpu);
    let encoder = Vit::new(&store.root(), &golden_shape().0).unwrap();
    (store, encoder, Tensor::randn([2, 3, 16, 16], (Kind::Float, Device::Cpu)))
}

/// softmax(q kᵀ / √d), with the norm, queries and keys of the block computed here.
#[test]
fn class_attention_is_the_softmax_over_the_keys() {
    let (store, encoder, images) = encoder();
    let VitConfig { width, heads, .. } = *encoder.config();
    let variables = store.variables();
    let weight = |name: &str| &variables[&format!("blocks.1.{name}")];
    let tokens = &encoder.intermediate(&images, &[0], false).unwrap()[0];
    let normed = tokens.layer_norm([width], Some(weight("norm1.weight")), Some(weight("norm1.bias")), 1e-6, false);
    let all = normed.linear(weight("attn.qkv.weight"), Some(weight("attn.qkv.bias"))); // [B, tokens, 3 width]
    let ours = encoder.class_attention(&images, 1).unwrap();
    assert_eq!(ours.size(), [2, heads, 17]);
    let size = width / heads;
    for head in 0..heads {
        let query = all.narrow(2, head * size, size).narrow(1, 0, 1);
        let keys = all.narrow(2, width + head * size, size);
        let expected = (query.matmul(&keys.transpose(1, 2)) / (size as f64).sqrt()).softmax(-1, Kind::Float);
        assert_close("attention", &ours.select(1, head), &expected.select(1, 0), 1e-6);
    }
    let sums = ours.sum_dim_intlist(-1, false, Kind::Float);
    assert_close("rows sum to 1", &sums, &sums.ones_like(), 1e-5);
}

#[test]
fn class_attention_in_bfloat16_is_close() {
    let (weights, encoder, images) = encoder();
    let config = VitConfig { precision: Precision::BFloat16, ..encoder.config().clone() };
    let mut store = VarStore::new(Device::Cpu);
    let half = Vit::new(&store.root(), &config).unwrap();
    store.copy(&weights).unwrap();
    let attention = half.class_attention(&images, 0).unwrap();
    assert_eq!(attention.kind(), Kind::Float);
    assert_close("attention", &attention, &encoder.class_attention(&images, 0).unwrap(), 0.01);
}

#[test]
fn invalid_arguments_are_typed_errors() {
    let (_, encoder, images) = encoder();
    for block in [-1, 2] {
        let error = encoder.class_attention(&images, block).unwrap_err();
        assert!(matches!(error, Error::Value { name: "block", actual, .. } if actual == block as f64));
    }
    assert!(matches!(encoder.class_attention(&images.get(0), 0), Err(Error::Shape { name: "images", .. })));
    let search = |features: &Tensor, k| -> Result<()> { nearest(&random(2, 4), features, k).map(drop) };
    assert!(matches!(search(&random(3, 4), 0), Err(Error::Value { name: "k", .. })));
    assert!(matches!(search(&random(3, 5), 1), Err(Error::Shape { name: "query_features", .. })));
    assert!(matches!(search(&random(0, 4), 1), Err(Error::Shape { name: "features", .. })));
    assert!(matches!(search(&(random(3, 4) * f64::NAN), 1), Err(Error::Value { name: "features", .. })));
    for count in [0, 5] {
        assert!(matches!(principal_components(&random(9, 4), count), Err(Error::Value { name: "count", .. })));
    }
    let wide = Tensor::zeros([2, 8193], (Kind::Float, Device::Cpu));
    assert!(matches!(principal_components(&wide, 2), Err(Error::Value { name: "D", .. })));
    let found = principal_components(&random(9, 4), 2).unwrap();
    assert!(matches!(found.project(&random(3, 5)), Err(Error::Shape { name: "features", .. })));
}
