//! The random order of an epoch, cut into batches.

use super::check_count;
use crate::error::{Result, check_in};
use crate::random::Stream;

/// The positions `0..count` in the random order of one epoch. It depends on the arguments only.
///
/// Empty unless `count` is positive.
///
/// # Errors
///
/// [`Error::Value`](crate::Error::Value) if `count` exceeds 2^28.
pub fn epoch_order(count: i64, seed: u64, epoch: u64) -> Result<Vec<i64>> {
    const MAX_COUNT: i64 = 1 << 28; // 2 GiB of positions: a typo must not exhaust the memory
    check_in("count", count, ..=MAX_COUNT)?;
    let mut order: Vec<i64> = (0..count).collect();
    let mut stream = Stream::new(seed, epoch);
    // Fisher-Yates shuffle.
    for place in (1..order.len()).rev() {
        order.swap(place, stream.below(place + 1));
    }
    Ok(order)
}

/// The batches of one epoch. Every batch is full and no image appears twice; the rest that fills no batch is left out.
///
/// Each epoch leaves out other images, so all images are used equally often in the long run.
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
    /// [`Error::Value`](crate::Error::Value) unless `1 <= batch_size <= count`; those of [`epoch_order`].
    pub fn new(count: i64, batch_size: i64, seed: u64, epoch: u64) -> Result<Batches> {
        check_count("batch_size", batch_size, count)?;
        Ok(Batches { order: epoch_order(count, seed, epoch)?, batch_size: batch_size as usize })
    }

    /// The number of batches, at least 1.
    #[expect(clippy::len_without_is_empty, reason = "there is always a batch")]
    pub fn len(&self) -> usize {
        self.order.len() / self.batch_size
    }

    /// The batches in order, each as the positions of its images. To resume within an epoch, skip the batches already
    /// done.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &[i64]> {
        self.order.chunks_exact(self.batch_size)
    }
}
