//! Nearest neighbors by cosine similarity: for retrieval, and for the votes of the kNN classifier.

use tch::{Kind, Tensor};

use crate::error::{Error, Result, check_device, check_float, check_in, check_shape, check_value};
use crate::loss::normalize_rows;

/// Limit of numbers in a temporary matrix: similarities, rows of features, votes.
pub(super) const BLOCK_NUMBERS: i64 = 1 << 24;

/// Features per tile, unless their width or `k` requires another number. Smaller tiles make top-k selection expensive;
/// larger ones leave too few queries in a block.
const TILE_FEATURES: i64 = 1 << 13;

/// The most similar features of every query, most similar first.
#[derive(Debug)]
pub struct Neighbors {
    /// Cosine similarities, `[Q, k]`; `Double` if the features are, `Float` otherwise.
    pub similarities: Tensor,
    /// The rows of the features that they belong to, `[Q, k]` of `Int64`.
    pub positions: Tensor,
}

/// The `k` features of highest cosine similarity for every query.
///
/// Queries are `[Q, D]` and features `[N, D]`; both are L2-normalized here. If `k` exceeds `N`, all features are
/// returned in order, and the results have `N` columns.
///
/// Works in blocks of queries and tiles of features, which are normalized tile by tile: temporary memory grows neither
/// with `Q` nor with `N`.
///
/// # Errors
///
/// [`Error::Shape`], [`Error::Kind`] or [`Error::Device`] if the tensors do not match or are empty, [`Error::Value`]
/// for a `k` below 1 or features that are not finite.
pub fn nearest(query_features: &Tensor, features: &Tensor, k: i64) -> Result<Neighbors> {
    let _no_grad = tch::no_grad_guard();
    check_pair(("features", features), ("query_features", query_features))?;
    check_in("k", k, 1..)?;
    check_finite("features", features)?;
    check_finite("query_features", query_features)?;
    let tiles = Tiles::new(features, k, 1);
    let blocks: Vec<Block> = blocks(query_features, features, k, tiles).collect::<Result<_>>()?;
    let join = |part: fn(&Neighbors) -> &Tensor| {
        Tensor::f_cat(&blocks.iter().map(|block| part(&block.neighbors)).collect::<Vec<_>>(), 0)
    };
    Ok(Neighbors { similarities: join(|found| &found.similarities)?, positions: join(|found| &found.positions)? })
}

/// The sizes of blocks and tiles.
#[derive(Debug, Clone, Copy)]
pub(super) struct Tiles {
    /// Queries in a block.
    queries: i64,
    /// Features in a tile.
    features: i64,
}

impl Tiles {
    /// Sizes for the `k` nearest of `features`, if a block also needs a matrix of `columns` columns with a row per
    /// query.
    pub(super) fn new(features: &Tensor, k: i64, columns: i64) -> Tiles {
        let (count, width) = (features.size()[0], features.size()[1]);
        // At least k features per tile; otherwise most candidates of a tile are selected again in the next.
        let tile = rows_of_width(width).max(k.min(count));
        Tiles { queries: (BLOCK_NUMBERS / tile.max(columns).max(width)).max(1), features: tile }
    }
}

/// Rows of features to read at a time.
fn rows_of_width(width: i64) -> i64 {
    (BLOCK_NUMBERS / width.max(1)).clamp(1, TILE_FEATURES)
}

/// The neighbors of some consecutive queries.
pub(super) struct Block {
    /// The position of the first query.
    pub(super) first: i64,
    pub(super) neighbors: Neighbors,
}

/// The `k` nearest of `features` for all `queries`, block by block.
pub(super) fn blocks(queries: &Tensor, features: &Tensor, k: i64, tiles: Tiles) -> impl Iterator<Item = Result<Block>> {
    row_tiles(queries, tiles.queries).map(move |block| {
        let (first, queries) = block?;
        let queries = normalize(&queries)?;
        let mut best: Option<Neighbors> = None;
        for tile in row_tiles(features, tiles.features) {
            let (first, features) = tile?;
            let similarities = queries.f_mm(&normalize(&features)?.f_transpose(0, 1)?)?; // [rows, tile]
            let (similarities, positions) = similarities.f_topk(k.min(features.size()[0]), 1, true, true)?;
            let found = Neighbors { similarities, positions: { positions }.f_add_scalar_(first)? };
            best = Some(match best {
                None => found,
                Some(best) => best.merge(&found, k)?,
            });
        }
        let neighbors = best.ok_or_else(|| no_rows("features", features))?;
        Ok(Block { first, neighbors })
    })
}

impl Neighbors {
    /// The `k` best of both.
    fn merge(self, other: &Neighbors, k: i64) -> Result<Neighbors> {
        let similarities = Tensor::f_cat(&[&self.similarities, &other.similarities], 1)?; // [rows, up to 2 k]
        let positions = Tensor::f_cat(&[&self.positions, &other.positions], 1)?;
        let (similarities, chosen) = similarities.f_topk(k.min(similarities.size()[1]), 1, true, true)?;
        Ok(Neighbors { similarities, positions: positions.f_gather(1, &chosen, false)? })
    }
}

impl Neighbors {
    /// One neighbor fewer: without the query itself, which is row `first` of the features for the first query, and so
    /// on; without the least similar where as many others are just as similar.
    pub(super) fn without_own(&self, first: i64) -> Result<Neighbors> {
        let (queries, k) = self.positions.size2()?;
        let own = Tensor::f_arange_start(first, first + queries, (Kind::Int64, self.positions.device()))?;
        let is_own = self.positions.f_eq_tensor(&own.f_unsqueeze(1)?)?;
        let others = self.similarities.f_masked_fill(&is_own, f64::NEG_INFINITY)?;
        let (similarities, chosen) = others.f_topk(k - 1, 1, true, true)?;
        Ok(Neighbors { similarities, positions: self.positions.f_gather(1, &chosen, false)? })
    }
}

/// Pieces of `rows` rows of `tensor`, the last one possibly shorter, each with the number of its first row.
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

/// An error unless `features` is `[N, D]` of a floating-point dtype, with at least one row.
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

/// An error if a feature is NaN or infinite. Reads all features, so check everything else first.
pub(super) fn check_finite(name: &'static str, features: &Tensor) -> Result<()> {
    let mut finite = Tensor::f_ones([], (Kind::Bool, features.device()))?;
    for tile in row_tiles(features, rows_of_width(features.size()[1])) {
        let (_, tile) = tile?;
        let _ = finite.f_logical_and_(&tile.f_isfinite()?.f_all()?)?;
    }
    check_value(name, f64::NAN, "finite", finite.f_int64_value(&[])? != 0)
}

/// L2-normalizes rows, in single precision or better.
pub(super) fn normalize(features: &Tensor) -> Result<Tensor> {
    normalize_rows(features, if features.f_kind()? == Kind::Double { Kind::Double } else { Kind::Float })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)] // a test may panic

    use approx::abs_diff_eq;
    use proptest::prelude::*;
    use tch::Device;

    use super::*;

    /// Rows of small integers, so that many are equal and lie in several tiles.
    fn rows(width: usize, max_count: usize) -> impl Strategy<Value = Vec<Vec<f64>>> {
        prop::collection::vec(prop::collection::vec((-2..=2_i32).prop_map(f64::from), width), 1..=max_count)
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
        fn neighbors_are_the_most_similar_features_whatever_the_tiles(
            (queries, features) in (1..4_usize).prop_flat_map(|width| (rows(width, 7), rows(width, 30))),
            k in 1..40_i64,
            tiles in (1..9_i64, 1..12_i64),
        ) {
            let tiles = Tiles { queries: tiles.0, features: tiles.1 };
            let found: Vec<Block> =
                blocks(&tensor(&queries), &tensor(&features), k, tiles).collect::<Result<_>>().unwrap();
            let mut row = 0;
            for Block { first, neighbors: Neighbors { similarities, positions } } in found {
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
                        prop_assert!(abs_diff_eq!(similarity, best, epsilon = 1e-12), "{} {}", similarity, best);
                        prop_assert!(abs_diff_eq!(similarity, &all[*position as usize], epsilon = 1e-12));
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
    fn a_value_that_is_not_finite_is_found_in_every_tile() {
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
