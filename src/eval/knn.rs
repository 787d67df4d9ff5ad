//! The weighted k-nearest-neighbor classifier (Wu et al., 2018), a standard measure of self-supervised encoders.

use tch::Tensor;

use super::accuracy::{Accuracy, check_labels, count_correct};
use super::neighbors::{BLOCK_NUMBERS, Block, Neighbors, Tiles};
use super::neighbors::{blocks, check_features, check_finite, check_pair};
use crate::error::{Error, Result, check_in, check_positive};

/// Classifies test features by their `k` most similar training features, for every `k` of `ks`.
///
/// Features are `[N, D]` and `[M, D]` and are L2-normalized here; labels are `Int64` `[N]` and `[M]`, from 0 to
/// `classes - 1`. A neighbor of cosine similarity `s` votes for its class with weight `exp(s / temperature)`; the
/// published temperature is 0.07. If `k` exceeds the number of training features, all of them vote.
///
/// Compare accuracies of features read in the same way only. The published kNN program reads the output of a randomly
/// initialized layer of 1000 outputs behind the encoder; this crate measures the encoder's own features.
///
/// Works in blocks of test features and tiles of training features, like [`nearest`](super::nearest), so temporary
/// memory does not grow with the number of either.
///
/// # Errors
///
/// [`Error::Shape`], [`Error::Kind`](crate::Error::Kind) or
/// [`Error::Device`](crate::Error::Device) if the tensors do not match or are empty,
/// [`Error::Value`](crate::Error::Value) for a `k` below 1, a temperature that is not positive, a label out of range,
/// more than 2^24 classes, or features that are not finite.
pub fn knn_accuracy(
    (train_features, train_labels): (&Tensor, &Tensor),
    (test_features, test_labels): (&Tensor, &Tensor),
    classes: i64,
    ks: &[i64],
    temperature: f64,
) -> Result<Vec<Accuracy>> {
    accuracy_by_votes((train_features, train_labels), (test_features, test_labels), classes, ks, temperature, false)
}

/// Classifies every feature by its `k` most similar among the other features (leave-one-out), for every `k` of `ks`:
/// the measure where there are no labeled training images.
///
/// Features are `[N, D]`, labels `Int64` `[N]`. All else is as in [`knn_accuracy`]; the accuracies of the two do not
/// compare.
///
/// # Errors
///
/// Those of [`knn_accuracy`], and [`Error::Shape`] for fewer than two features.
pub fn knn_accuracy_among(
    (features, labels): (&Tensor, &Tensor),
    classes: i64,
    ks: &[i64],
    temperature: f64,
) -> Result<Vec<Accuracy>> {
    check_features("features", features)?;
    if features.size()[0] < 2 {
        let expected = "[N, D] with at least two rows".to_owned();
        return Err(Error::Shape { name: "features", expected, actual: features.size() });
    }
    accuracy_by_votes((features, labels), (features, labels), classes, ks, temperature, true)
}

/// [`knn_accuracy`], or [`knn_accuracy_among`] if both features are the same and `among` is set.
fn accuracy_by_votes(
    (train_features, train_labels): (&Tensor, &Tensor),
    (test_features, test_labels): (&Tensor, &Tensor),
    classes: i64,
    ks: &[i64],
    temperature: f64,
    among: bool,
) -> Result<Vec<Accuracy>> {
    let _no_grad = tch::no_grad_guard();
    // A block of votes has a column per class.
    check_in("classes", classes, ..=BLOCK_NUMBERS)?;
    check_pair(("train_features", train_features), ("test_features", test_features))?;
    check_labels("train_labels", train_labels, train_features, classes)?;
    check_labels("test_labels", test_labels, test_features, classes)?;
    check_positive("temperature", temperature)?;
    ks.iter().try_for_each(|k| check_in("k", *k, 1..))?;
    check_finite("train_features", train_features)?;
    check_finite("test_features", test_features)?;
    let (train_count, test_count) = (train_features.size()[0], test_features.size()[0]);
    // A feature itself is among its nearest, and has no vote.
    let own = i64::from(among);
    let voters = train_count - own;
    let max_k = ks.iter().copied().max().unwrap_or(1).min(voters);
    let mut correct = vec![(0, 0); ks.len()];
    let tiles = Tiles::new(train_features, max_k + own, classes);
    for block in blocks(test_features, train_features, max_k + own, tiles) {
        let Block { first, neighbors } = block?;
        let neighbors = if among { neighbors.without_own(first)? } else { neighbors };
        let Neighbors { similarities, positions } = neighbors;
        let rows = similarities.size()[0];
        let neighbor_labels = train_labels.f_index_select(0, &positions.f_flatten(0, 1)?)?.f_view([rows, max_k])?;
        // Votes relative to the nearest neighbor's rank the classes alike and do not overflow at low temperatures.
        let votes = similarities.f_sub(&similarities.f_narrow(1, 0, 1)?)?.f_div_scalar_(temperature)?.f_exp_()?;
        let labels = test_labels.f_narrow(0, first, rows)?;
        for (k, (top1, top5)) in ks.iter().zip(&mut correct) {
            let k = (*k).min(voters);
            let (block_top1, block_top5) =
                count_winners(&votes.f_narrow(1, 0, k)?, &neighbor_labels.f_narrow(1, 0, k)?, &labels, classes)?;
            *top1 += block_top1;
            *top5 += block_top5;
        }
    }
    Ok(correct.into_iter().map(|correct| Accuracy::from_counts(correct, test_count)).collect())
}

/// Adds up `votes` `[rows, k]` by class and counts the rows whose label ranks first, and among the first five.
fn count_winners(votes: &Tensor, neighbor_labels: &Tensor, labels: &Tensor, classes: i64) -> Result<(i64, i64)> {
    let score = Tensor::f_zeros([votes.size()[0], classes], (votes.f_kind()?, votes.device()))?.f_scatter_add(
        1,
        neighbor_labels,
        votes,
    )?;
    count_correct(&score, labels)
}
