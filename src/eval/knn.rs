//! The weighted k-nearest-neighbour classifier (Wu et al., 2018), as self-supervised encoders are compared by it.

use tch::Tensor;

use super::accuracy::{Accuracy, check_labels, count_correct};
use super::neighbours::{BLOCK_NUMBERS, Block, Neighbours, Tiles};
use super::neighbours::{blocks, check_finite, check_neighbours, check_pair};
use crate::error::{Error, Result, check_value};

/// Classifies test features by the `k` most similar training features for every `k` of `ks`.
///
/// Features are `[N, D]` and `[M, D]`, L2-normalised here; labels are `Int64` `[N]` and `[M]`, from 0 to
/// `classes - 1`. A neighbour of cosine similarity `s` votes for its class with weight `exp(s / temperature)`; the
/// published temperature is 0.07. Where `k` exceeds the number of training features, all of them vote.
///
/// Works in blocks of test features and tiles of training features, as [`nearest`](super::nearest): memory grows with
/// neither of their numbers.
///
/// # Errors
///
/// [`Error::Shape`], [`Error::Kind`] or [`Error::Device`] if the tensors do not fit together or are empty,
/// [`Error::Value`] for a `k` below 1, a temperature that is not positive, a label out of range, more than 2^24
/// classes, or features that are not finite.
pub fn knn_accuracy(
    (train_features, train_labels): (&Tensor, &Tensor),
    (test_features, test_labels): (&Tensor, &Tensor),
    classes: i64,
    ks: &[i64],
    temperature: f64,
) -> Result<Vec<Accuracy>> {
    let _no_grad = tch::no_grad_guard();
    // Every block of votes has a column for each class.
    check_value("classes", classes as f64, &format!("at most {BLOCK_NUMBERS}"), classes <= BLOCK_NUMBERS)?;
    check_pair(("train_features", train_features), ("test_features", test_features))?;
    check_labels("train_labels", train_labels, train_features, classes)?;
    check_labels("test_labels", test_labels, test_features, classes)?;
    if !(temperature.is_finite() && temperature > 0.0) {
        let expected = "positive and finite".to_owned();
        return Err(Error::Value { name: "temperature", expected, actual: temperature });
    }
    ks.iter().try_for_each(|k| check_neighbours(*k))?;
    check_finite("train_features", train_features)?;
    check_finite("test_features", test_features)?;
    let (train_count, test_count) = (train_features.size()[0], test_features.size()[0]);
    let most = ks.iter().copied().max().unwrap_or(1).min(train_count);
    let mut correct = vec![(0, 0); ks.len()];
    for block in blocks(test_features, train_features, most, Tiles::new(train_features, most, classes)) {
        let Block { first, neighbours: Neighbours { similarities, positions } } = block?;
        let rows = similarities.size()[0];
        let neighbour_labels = train_labels.f_index_select(0, &positions.f_flatten(0, 1)?)?.f_view([rows, most])?;
        // Relative to the nearest neighbour's, votes rank classes the same and do not overflow at low temperatures.
        let votes = similarities.f_sub(&similarities.f_narrow(1, 0, 1)?)?.f_div_scalar_(temperature)?.f_exp_()?;
        let labels = test_labels.f_narrow(0, first, rows)?;
        for (k, (top1, top5)) in ks.iter().zip(&mut correct) {
            let k = (*k).min(train_count);
            let (block_top1, block_top5) =
                count_winners(&votes.f_narrow(1, 0, k)?, &neighbour_labels.f_narrow(1, 0, k)?, &labels, classes)?;
            *top1 += block_top1;
            *top5 += block_top5;
        }
    }
    Ok(correct.into_iter().map(|correct| Accuracy::of(correct, test_count)).collect())
}

/// How many rows have their label first, and among the first five, when `votes` `[rows, k]` are added up by class.
fn count_winners(votes: &Tensor, neighbour_labels: &Tensor, labels: &Tensor, classes: i64) -> Result<(i64, i64)> {
    let score = Tensor::f_zeros([votes.size()[0], classes], (votes.f_kind()?, votes.device()))?.f_scatter_add(
        1,
        neighbour_labels,
        votes,
    )?;
    count_correct(&score, labels)
}
