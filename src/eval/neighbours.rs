//! The most similar features of others: retrieval, and what the classifier votes with.

use tch::{Kind, Tensor};

use crate::error::{Error, Result, check_device, check_float, check_shape, check_value};
use crate::loss::normalize_rows;

/// Similarities in flight at a time.
pub(super) const BLOCK_SIMILARITIES: i64 = 1 << 24;

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
/// Works in blocks of queries, so memory does not grow with `Q * N`.
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
    let (features, queries) = (normalize(features)?, normalize(query_features)?);
    let blocks: Vec<Block> = blocks(&queries, &features, k, 1).collect::<Result<_>>()?;
    let join = |part: fn(&Block) -> &Tensor| Tensor::f_cat(&blocks.iter().map(part).collect::<Vec<_>>(), 0);
    Ok(Neighbours { similarities: join(|block| &block.similarities)?, positions: join(|block| &block.positions)? })
}

/// The neighbours of some consecutive queries.
pub(super) struct Block {
    /// The first of the queries.
    pub(super) first: i64,
    /// `[rows, k]`, the highest first.
    pub(super) similarities: Tensor,
    /// `[rows, k]` of `Int64`.
    pub(super) positions: Tensor,
}

/// The `k` nearest of `features` for all `queries`, block by block; both normalised. A block has no more rows than a
/// matrix of `columns` columns may have, besides the similarities.
pub(super) fn blocks(queries: &Tensor, features: &Tensor, k: i64, columns: i64) -> impl Iterator<Item = Result<Block>> {
    let (query_count, count) = (queries.size()[0], features.size()[0]);
    let rows = (BLOCK_SIMILARITIES / count.max(columns)).clamp(1, query_count);
    (0..query_count).step_by(rows as usize).map(move |first| {
        let block = queries.f_narrow(0, first, rows.min(query_count - first))?;
        let similarities = block.f_mm(&features.f_transpose(0, 1)?)?; // [rows, N]
        let (similarities, positions) = similarities.f_topk(k.min(count), 1, true, true)?;
        Ok(Block { first, similarities, positions })
    })
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
        return Err(Error::Shape {
            name,
            expected: "[N, D] with at least one row".to_owned(),
            actual: features.size(),
        });
    }
    Ok(())
}

/// An error if a feature is NaN or infinite. It reads all of them, so it comes after what can be told without.
pub(super) fn check_finite(name: &'static str, features: &Tensor) -> Result<()> {
    let finite = features.f_isfinite()?.f_all()?.f_int64_value(&[])? != 0;
    check_value(name, f64::NAN, "finite", finite)
}

/// Rows of length 1, in single precision or better.
pub(super) fn normalize(features: &Tensor) -> Result<Tensor> {
    normalize_rows(features, if features.f_kind()? == Kind::Double { Kind::Double } else { Kind::Float })
}
