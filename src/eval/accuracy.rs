//! Top-1 and top-5 accuracy.

use tch::{Kind, Tensor};

use super::neighbors::{check_features, check_finite};
use crate::error::{Error, Result, check_device, check_in, check_shape};

/// Classification accuracy, as shares of the images from 0 to 1.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Accuracy {
    /// The label has the highest score.
    pub top1: f64,
    /// The label is among the five highest scores.
    pub top5: f64,
}

impl Accuracy {
    pub(super) fn from_counts((top1, top5): (i64, i64), count: i64) -> Accuracy {
        let share = |correct: i64| correct as f64 / count as f64;
        Accuracy { top1: share(top1), top5: share(top5) }
    }
}

/// The accuracy of `scores` `[N, classes]`, for example logits, against `labels` `[N]` of `Int64`. Waits for the
/// device.
///
/// # Errors
///
/// [`Error::Shape`], [`Error::Kind`] or [`Error::Device`] if scores and labels do not match or are empty,
/// [`Error::Value`] for a label out of range or scores that are not finite.
pub fn accuracy(scores: &Tensor, labels: &Tensor) -> Result<Accuracy> {
    let _no_grad = tch::no_grad_guard();
    check_shape("scores", scores, &[("N", None), ("classes", None)])?;
    let (count, classes) = scores.size2()?;
    check_labeled(("scores", scores), ("labels", labels), classes)?;
    Ok(Accuracy::from_counts(count_correct(scores, labels)?, count))
}

/// Counts the rows of `scores` `[N, classes]` whose label ranks first, and among the first five.
pub(super) fn count_correct(scores: &Tensor, labels: &Tensor) -> Result<(i64, i64)> {
    let (_, ranked) = scores.f_topk(scores.size()[1].min(5), 1, true, true)?;
    let hits = ranked.f_eq_tensor(&labels.f_unsqueeze(1)?)?;
    let count = |hits: Tensor| hits.f_sum(Kind::Int64)?.f_int64_value(&[]);
    Ok((count(hits.f_select(1, 0)?)?, count(hits)?))
}

/// An error unless `features` are finite, `[N, D]` with at least one row, and `labels` has a class for each row.
pub(super) fn check_labeled(
    (name, features): (&'static str, &Tensor),
    (label_name, labels): (&'static str, &Tensor),
    classes: i64,
) -> Result<()> {
    check_features(name, features)?;
    check_labels(label_name, labels, features, classes)?;
    check_finite(name, features)
}

/// An error unless `labels` has a class for each row of `features`.
pub(super) fn check_labels(name: &'static str, labels: &Tensor, features: &Tensor, classes: i64) -> Result<()> {
    check_shape(name, labels, &[("N", Some(features.size()[0]))])?;
    check_device(name, labels, features.device())?;
    if labels.f_kind()? != Kind::Int64 {
        return Err(Error::Kind { name, expected: "Int64", actual: labels.f_kind()? });
    }
    for extreme in [labels.f_min()?, labels.f_max()?] {
        check_in(name, extreme.f_int64_value(&[])?, 0..classes)?;
    }
    Ok(())
}
