//! The most similar features of others: retrieval, and what the classifier votes with.

use tch::{Kind, Tensor};

use crate::error::{Error, Result, check_device, check_float, check_shape, check_value};
use crate::loss::normalize_rows;

/// Numbers of a matrix that is held while neighbours are looked for: similarities, rows of features, votes.
pub(super) const BLOCK_NUMBERS: i64 = 1 << 24;
/// Features that a block of queries meets at a time, where neither their width nor `k` asks for another number. Fewer
/// leave too little to choose from for what the choice of the best costs, more leave too few queries in a block.
const TILE_FEATURES: i64 = 1 << 13;

/// For every query its most similar features, the most similar first.
#[derive(Debug)]
pub struct Neighbours {
    /// Cosine similarities, `[Q, k]`, of `Double` where the features are and `Float` otherwise.
    pub similarities: Tensor,
    /// Where they are among the features, `[Q, k]` of `Int64`.
    pub positions: Tensor,
}

/// The `k` features of highest cosine similarity for every query: what the paper's figures of similar images show.
///
/// Queries are `[Q, D]` and features `[N, D]`, L2-normalised here. Where `k` exceeds `N`, all features are returned in
/// order, and the results have `N` columns.
///
/// Works in blocks of queries and tiles of features, which are normalised tile by tile: beside the result, memory grows
/// neither with `Q` nor with `N`.
///
/// # Errors
///
/// [`Error::Shape`], [`Error::Kind`] or [`Error::Device`] if the tensors do not fit together or are empty,
/// [`Error::Value`] for a `k` below 1 or features that are not finite.
pub fn nearest(query_features: &Tensor, features: &Tensor, k: i64) -> Result<Neighbours> {
    let _no_grad = tch::no_grad_guard();
    check_pair(("features", features), ("query_features", query_features))?;
    check_neighbours(k)?;
    check_finite("features", features)?;
    check_finite("query_features", query_features)?;
    let tiles = Tiles::new(features, k, 1);
    let blocks: Vec<Block> = blocks(query_features, features, k, tiles).collect::<Result<_>>()?;
    let join = |part: fn(&Neighbours) -> &Tensor| {
        Tensor::f_cat(&blocks.iter().map(|block| part(&block.neighbours)).collect::<Vec<_>>(), 0)
    };
    Ok(Neighbours { similarities: join(|found| &found.similarities)?, positions: join(|found| &found.positions)? })
}

/// How much is computed at a time.
#[derive(Debug, Clone, Copy)]
pub(super) struct Tiles {
    /// Queries in a block.
    queries: i64,
    /// Features that a block meets at a time.
    features: i64,
}

impl Tiles {
    /// For `k` of these features; a block has no more queries than a matrix of `columns` columns may have rows.
    pub(super) fn new(features: &Tensor, k: i64, columns: i64) -> Tiles {
        let (count, width) = (features.size()[0], features.size()[1]);
        // At least k in a tile: otherwise most of what is found in one is chosen again in the next.
        let tile = rows_of_width(width).max(k.min(count));
        Tiles { queries: (BLOCK_NUMBERS / tile.max(columns).max(width)).max(1), features: tile }
    }
}

/// Rows of features that are read at a time.
fn rows_of_width(width: i64) -> i64 {
    (BLOCK_NUMBERS / width.max(1)).clamp(1, TILE_FEATURES)
}

/// The neighbours of some consecutive queries.
pub(super) struct Block {
    /// The first of the queries.
    pub(super) first: i64,
    pub(super) neighbours: Neighbours,
}

/// The `k` nearest of `features` for all `queries`, block by block.
pub(super) fn blocks(queries: &Tensor, features: &Tensor, k: i64, tiles: Tiles) -> impl Iterator<Item = Result<Block>> {
    row_tiles(queries, tiles.queries).map(move |block| {
        let (first, queries) = block?;
        let queries = normalize(&queries)?;
        let mut best: Option<Neighbours> = None;
        for tile in row_tiles(features, tiles.features) {
            let (first, features) = tile?;
            let similarities = queries.f_mm(&normalize(&features)?.f_transpose(0, 1)?)?; // [rows, tile]
            let (similarities, positions) = similarities.f_topk(k.min(features.size()[0]), 1, true, true)?;
            let found = Neighbours { similarities, positions: { positions }.f_add_scalar_(first)? };
            best = Some(match best {
                None => found,
                Some(best) => best.merge(&found, k)?,
            });
        }
        let neighbours = best.ok_or_else(|| no_rows("features", features))?;
        Ok(Block { first, neighbours })
    })
}

impl Neighbours {
    /// The `k` best of both.
    fn merge(self, other: &Neighbours, k: i64) -> Result<Neighbours> {
        let similarities = Tensor::f_cat(&[&self.similarities, &other.similarities], 1)?; // [rows, up to 2 k]
        let positions = Tensor::f_cat(&[&self.positions, &other.positions], 1)?;
        let (similarities, chosen) = similarities.f_topk(k.min(similarities.size()[1]), 1, true, true)?;
        Ok(Neighbours { similarities, positions: positions.f_gather(1, &chosen, false)? })
    }
}

/// `tensor` cut into pieces of `rows` rows, the last of what is left; each with its first row's number.
fn row_tiles(tensor: &Tensor, rows: i64) -> impl Iterator<Item = Result<(i64, Tensor)>> {
    let count = tensor.size()[0];
    (0..count).step_by(rows as usize).map(move |first| Ok((first, tensor.f_narrow(0, first, rows.min(count - first))?)))
}

/// An error unless both are features of one width on one device.
pub(super) fn check_pair(
    (name, features): (&'static str, &Tensor),
    (query_name, queries): (&'static str, &Tensor),
) -> Result<()> {
    check_features(name, features)?;
    check_features(query_name, queries)?;
    check_shape(query_name, queries, &[("M", None), ("D", Some(features.size()[1]))])?;
    check_device(query_name, queries, features.device())
}

/// An error unless `k` neighbours can be looked for.
pub(super) fn check_neighbours(k: i64) -> Result<()> {
    check_value("k", k as f64, "at least 1", k >= 1)
}

/// An error unless these are features `[N, D]` of one image or more.
pub(super) fn check_features(name: &'static str, features: &Tensor) -> Result<()> {
    check_shape(name, features, &[("N", None), ("D", None)])?;
    check_float(name, features)?;
    if features.size()[0] == 0 {
        return Err(no_rows(name, features));
    }
    Ok(())
}

fn no_rows(name: &'static str, features: &Tensor) -> Error {
    Error::Shape { name, expected: "[N, D] with at least one row".to_owned(), actual: features.size() }
}

/// An error if a feature is NaN or infinite. It reads all of them, so it comes after what can be told without.
pub(super) fn check_finite(name: &'static str, features: &Tensor) -> Result<()> {
    let mut finite = Tensor::f_ones([], (Kind::Bool, features.device()))?;
    for tile in row_tiles(features, rows_of_width(features.size()[1])) {
        let (_, tile) = tile?;
        let _ = finite.f_logical_and_(&tile.f_isfinite()?.f_all()?)?;
    }
    check_value(name, f64::NAN, "finite", finite.f_int64_value(&[])? != 0)
}

/// Rows of length 1, in single precision or better.
pub(super) fn normalize(features: &Tensor) -> Result<Tensor> {
    normalize_rows(features, if features.f_kind()? == Kind::Double { Kind::Double } else { Kind::Float })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)] // a test may panic

    use proptest::prelude::*;
    use tch::Device;

    use super::*;

    /// Rows of small whole numbers, so that many are alike and lie in several tiles.
    fn rows(width: usize, most: usize) -> impl Strategy<Value = Vec<Vec<f64>>> {
        prop::collection::vec(prop::collection::vec((-2..=2_i32).prop_map(f64::from), width), 1..=most)
    }

    fn cosine(a: &[f64], b: &[f64]) -> f64 {
        let dot = |a: &[f64], b: &[f64]| -> f64 { a.iter().zip(b).map(|(a, b)| a * b).sum() };
        let lengths = (dot(a, a) * dot(b, b)).sqrt();
        if lengths == 0.0 { 0.0 } else { dot(a, b) / lengths }
    }

    fn tensor(rows: &[Vec<f64>]) -> Tensor {
        Tensor::from_slice(&rows.concat()).view([rows.len() as i64, -1])
    }

    proptest! {
        #[test]
        fn neighbours_are_the_most_similar_features_whatever_the_tiles(
            (queries, features) in (1..4_usize).prop_flat_map(|width| (rows(width, 7), rows(width, 30))),
            k in 1..40_i64,
            tiles in (1..9_i64, 1..12_i64),
        ) {
            let tiles = Tiles { queries: tiles.0, features: tiles.1 };
            let found: Vec<Block> =
                blocks(&tensor(&queries), &tensor(&features), k, tiles).collect::<Result<_>>().unwrap();
            let mut row = 0;
            for Block { first, neighbours: Neighbours { similarities, positions } } in found {
                prop_assert_eq!(first, row as i64);
                for (similarities, positions) in Vec::<Vec<f64>>::try_from(similarities).unwrap().into_iter()
                    .zip(Vec::<Vec<i64>>::try_from(positions).unwrap())
                {
                    let all: Vec<f64> = features.iter().map(|feature| cosine(&queries[row], feature)).collect();
                    let mut best = all.clone();
                    best.sort_by(|a, b| b.total_cmp(a));
                    best.truncate(k as usize);
                    prop_assert_eq!(similarities.len(), best.len());
                    for ((similarity, best), position) in similarities.iter().zip(&best).zip(&positions) {
                        prop_assert!((similarity - best).abs() < 1e-12, "{} {}", similarity, best);
                        prop_assert!((similarity - all[*position as usize]).abs() < 1e-12);
                    }
                    let mut distinct = positions.clone();
                    distinct.sort_unstable();
                    distinct.dedup();
                    prop_assert_eq!(distinct.len(), positions.len(), "none is found twice");
                    row += 1;
                }
            }
            prop_assert_eq!(row, queries.len());
        }
    }

    #[test]
    fn a_number_that_is_not_finite_is_found_in_every_tile() {
        let (rows, width) = (2 * TILE_FEATURES + 3, 2);
        for row in [0, TILE_FEATURES - 1, TILE_FEATURES, rows - 1] {
            for broken in [f64::NAN, f64::INFINITY] {
                let features = Tensor::zeros([rows, width], (Kind::Float, Device::Cpu));
                assert!(check_finite("features", &features).is_ok());
                let _ = features.get(row).fill_(broken);
                assert!(matches!(check_finite("features", &features), Err(Error::Value { name: "features", .. })));
            }
        }
    }

    #[test]
    fn a_block_holds_a_bounded_number_of_numbers() {
        for (count, width, k, classes) in [(1 << 21, 384, 20, 1000), (9, 3, 1, 10), (1 << 21, 1, 1 << 21, 10)] {
            let features = Tensor::zeros([1, width], (Kind::Float, Device::Cpu)).expand([count, width], false);
            let Tiles { queries, features } = Tiles::new(&features, k, classes);
            for columns in [features, k.min(count), classes, width] {
                assert!(queries * columns <= BLOCK_NUMBERS, "{count} x {width}, k = {k}");
            }
        }
    }
}
