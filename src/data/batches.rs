//! The order in which an epoch visits the images.

use super::check_count;
use crate::error::{Result, check_value};
use crate::random::Stream;

/// The positions `0..count` in the random order of one epoch: a function of the arguments alone.
///
/// Empty where `count` is not positive.
///
/// # Errors
///
/// [`Error::Value`](crate::Error::Value) if `count` exceeds 2^28, which a number alone must not make it allocate.
pub fn epoch_order(count: i64, seed: u64, epoch: u64) -> Result<Vec<i64>> {
    const MOST: i64 = 1 << 28;
    check_value("count", count as f64, &format!("at most {MOST}"), count <= MOST)?;
    let mut order: Vec<i64> = (0..count).collect();
    let mut stream = Stream::new(seed, epoch);
    // Fisher and Yates: each place from the last takes one of those not yet taken.
    for place in (1..order.len()).rev() {
        order.swap(place, stream.below(place + 1));
    }
    Ok(order)
}

/// The batches of one epoch: every batch full, no image twice, an incomplete last batch left out.
///
/// Another epoch leaves other images out, so that in the long run all are seen alike.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batches {
    order: Vec<i64>,
    batch_size: usize,
}

impl Batches {
    /// Cuts [`epoch_order`] of `count` images into batches of `batch_size`.
    ///
    /// # Errors
    ///
    /// [`Error::Value`](crate::Error::Value) unless `1 <= batch_size <= count`; that of [`epoch_order`].
    pub fn new(count: i64, batch_size: i64, seed: u64, epoch: u64) -> Result<Batches> {
        check_count("batch_size", batch_size, count)?;
        Ok(Batches { order: epoch_order(count, seed, epoch)?, batch_size: batch_size as usize })
    }

    /// The number of batches, at least 1.
    #[expect(clippy::len_without_is_empty, reason = "there is always a batch")]
    pub fn len(&self) -> usize {
        self.order.len() / self.batch_size
    }

    /// The batches in turn, each the positions of its images. To go on in the middle of an epoch, skip the batches done.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &[i64]> {
        self.order.chunks_exact(self.batch_size)
    }
}
