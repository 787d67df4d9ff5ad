//! Soft labels: which images a mixed image is made of, and in what shares.

use std::collections::BTreeMap;

use tch::{Device, Kind, Tensor};

use crate::error::{Error, Result, check_float_kind, check_index, check_value};
use crate::numbers::{range, to_device};

/// The most numbers in a dense target, 16 GiB of `Float`: some systems promise more memory than they have.
const MOST_NUMBERS: i128 = 1 << 32;

/// A soft label for every image of a batch, held sparse.
///
/// Every row is the one before it, moved on by one column (mod the batch size), so a list of columns and shares for row
/// 0 says it all: a few numbers instead of a `[B, N]` matrix. Rows sum to 1.
///
/// `N` is the batch size, or `world_size` times that where the keys of several ranks are gathered
/// ([`SoftTarget::gathered`]). There is a row for every image, or `copies` of them ([`SoftTarget::repeated`]).
#[derive(Debug, Clone, PartialEq)]
pub struct SoftTarget {
    batch_size: i64,
    copies: i64,
    /// Columns of row 0, each once, in `0..batch_size`, and the share of each. They sum to 1.
    shares: Vec<(i64, f64)>,
    smoothing: f64,
    rank: i64,
    world_size: i64,
}

impl SoftTarget {
    /// The label of unmixed images: image `i` is image `i`.
    ///
    /// # Errors
    ///
    /// [`Error::Value`] if `batch_size` is below 1.
    pub fn identity(batch_size: i64) -> Result<SoftTarget> {
        if batch_size < 1 {
            return Err(Error::Value {
                name: "batch_size",
                expected: "at least 1".to_owned(),
                actual: batch_size as f64,
            });
        }
        Ok(SoftTarget::from_shares(batch_size, [(0, 1.0)]))
    }

    /// Shares of one column add up.
    fn from_shares(batch_size: i64, shares: impl IntoIterator<Item = (i64, f64)>) -> SoftTarget {
        let mut merged = BTreeMap::new();
        for (column, share) in shares {
            *merged.entry(column.rem_euclid(batch_size)).or_insert(0.0) += share;
        }
        let shares = merged.into_iter().collect();
        SoftTarget { batch_size, copies: 1, shares, smoothing: 0.0, rank: 0, world_size: 1 }
    }

    /// The same label with label smoothing: `target * (1 - smoothing) + smoothing / N`, in place of any smoothing that
    /// it had.
    ///
    /// # Errors
    ///
    /// [`Error::Value`] unless `0 <= smoothing <= 1`.
    pub fn smoothed(self, smoothing: f64) -> Result<SoftTarget> {
        if (0.0..=1.0).contains(&smoothing) {
            return Ok(SoftTarget { smoothing, ..self });
        }
        Err(Error::Value { name: "smoothing", expected: "between 0 and 1".to_owned(), actual: smoothing })
    }

    /// The same label for keys gathered from `world_size` ranks in rank order: this rank's columns start at
    /// `rank * batch_size` of `world_size * batch_size`.
    ///
    /// # Errors
    ///
    /// [`Error::Value`] unless `0 <= rank < world_size`, or if the number of columns does not fit in an `i64`.
    pub fn gathered(self, rank: i64, world_size: i64) -> Result<SoftTarget> {
        if self.batch_size.checked_mul(world_size).is_none() {
            let expected = format!("small enough for {} columns each to fit in an i64", self.batch_size);
            return Err(Error::Value { name: "world_size", expected, actual: world_size as f64 });
        }
        if (0..world_size).contains(&rank) {
            return Ok(SoftTarget { rank, world_size, ..self });
        }
        Err(Error::Value { name: "rank", expected: format!("at least 0 and below {world_size}"), actual: rank as f64 })
    }

    /// The same label for `copies` crops of every image, crop by crop: row `c * B + i` has the label of row `i`. The
    /// columns stay as they are.
    ///
    /// # Errors
    ///
    /// [`Error::Value`] unless `copies` is at least 1 and the number of rows fits in an `i64`.
    pub fn repeated(self, copies: i64) -> Result<SoftTarget> {
        let all_copies = self
            .copies
            .checked_mul(copies)
            .filter(|all_copies| copies >= 1 && self.batch_size.checked_mul(*all_copies).is_some());
        let expected = || format!("at least 1, and small enough for {} rows each to fit in an i64", self.rows());
        let error = || Error::Value { name: "copies", expected: expected(), actual: copies as f64 };
        Ok(SoftTarget { copies: all_copies.ok_or_else(error)?, ..self })
    }

    /// Number of images, B.
    pub fn batch_size(&self) -> i64 {
        self.batch_size
    }

    /// Number of rows: B, times the copies where the label is [`repeated`](SoftTarget::repeated).
    pub fn rows(&self) -> i64 {
        self.batch_size * self.copies
    }

    /// Number of columns, N: how many keys a query is compared with.
    pub fn columns(&self) -> i64 {
        self.batch_size * self.world_size
    }

    /// The columns and shares of row 0 before smoothing, without the offset of the rank; row `i` has the same shares at
    /// `(column + i) mod batch_size`, in every copy.
    pub fn shares(&self) -> &[(i64, f64)] {
        &self.shares
    }

    /// The whole matrix, `[rows, N]`.
    ///
    /// # Errors
    ///
    /// [`Error::Kind`] unless `kind` is a floating-point kind; [`Error::Value`] for more than 2^32 numbers, or a device
    /// that there cannot be; [`Error::Torch`] if it does not fit in memory or the device cannot be used.
    pub fn dense(&self, kind: Kind, device: Device) -> Result<Tensor> {
        check_float_kind("target", kind)?;
        check_index(device)?;
        let numbers = i128::from(self.rows()) * i128::from(self.columns());
        let expected = format!("small enough for a dense target of {MOST_NUMBERS} numbers at most");
        check_value("batch_size", self.batch_size as f64, &expected, numbers <= MOST_NUMBERS)?;
        let (columns, shares): (Vec<i64>, Vec<f64>) =
            self.shares.iter().map(|(column, share)| (column, share * (1.0 - self.smoothing))).unzip();
        let row = range(self.batch_size, device)?.f_unsqueeze(1)?;
        let column = to_device(&Tensor::f_from_slice(&columns)?, device)?
            .f_add(&row)?
            .f_remainder_(self.batch_size)?
            .f_add_scalar_(self.rank * self.batch_size)?; // [B, number of shares]
        let share = to_device(&Tensor::f_from_slice(&shares)?.f_to_kind(kind)?, device)?;
        let everywhere = self.smoothing / self.columns() as f64;
        let mut dense = Tensor::f_zeros([self.batch_size, self.columns()], (kind, device))?.f_fill_(everywhere)?;
        self.in_copies(dense.f_scatter_add_(1, &column, &share.f_expand(column.size(), false)?)?)
    }

    /// What there is for every image, `[B, ...]`, for every row.
    fn in_copies(&self, of_images: Tensor) -> Result<Tensor> {
        if self.copies == 1 { Ok(of_images) } else { Ok(of_images.f_repeat([self.copies, 1])?) }
    }

    /// `target . keys`, `[rows, D]` from keys `[N, D]`, without the matrix.
    pub(crate) fn average_of_keys(&self, keys: &Tensor) -> Result<Tensor> {
        let own = keys.f_narrow(0, self.rank * self.batch_size, self.batch_size)?;
        let mut average = own.f_zeros_like()?;
        for (column, share) in &self.shares {
            let _ = average.f_add_(&own.f_roll(-column, 0)?.f_mul_scalar_(share * (1.0 - self.smoothing))?)?;
        }
        if self.smoothing > 0.0 {
            let everywhere = keys.f_mean_dim(0, true, None)?.f_mul_scalar_(self.smoothing)?;
            let _ = average.f_add_(&everywhere)?;
        }
        self.in_copies(average)
    }
}

/// The soft labels of a mixed batch: mix-to-origin, `A`, and mix-to-mix, `W = A Aᵀ`.
///
/// Made by [`MixPlan::targets`](crate::MixPlan::targets); the losses take it as it is and never build a matrix.
#[derive(Debug, Clone, PartialEq)]
pub struct MixTargets {
    mix_to_origin: SoftTarget,
    mix_to_mix: SoftTarget,
    kind: Kind,
    device: Device,
}

impl MixTargets {
    /// `sources`: for every group, the image that mixed image 0 takes it from: the multiples of the stride, distinct, in
    /// `0..batch_size`. `counts`: how many patches the group has.
    pub(crate) fn new(
        batch_size: i64,
        sources: &[i64],
        counts: &[i64],
        kind: Kind,
        device: Device,
    ) -> Result<MixTargets> {
        check_float_kind("target", kind)?;
        check_index(device)?;
        let patches = counts.iter().sum::<i64>() as f64;
        let shares = sources.iter().zip(counts).map(|(source, count)| (*source, *count as f64 / patches));
        let mix_to_origin = SoftTarget::from_shares(batch_size, shares);
        // Mixed images 0 and j share what group g of the one and group h of the other take from the same image: that is
        // so for j = source(g) - source(h) = source(g - h). All pairs at one distance fall together, and are summed as
        // whole numbers, so that 16,384 groups are no matter.
        let pairs = (0..counts.len()).flat_map(|distance| {
            let common: i64 = counts.iter().zip(&counts[distance..]).map(|(one, other)| one * other).sum();
            let share = common as f64 / (patches * patches);
            let both = [(sources[distance], share), (-sources[distance], share)];
            both.into_iter().take(if distance == 0 { 1 } else { 2 })
        });
        let mix_to_mix = SoftTarget::from_shares(batch_size, pairs);
        Ok(MixTargets { mix_to_origin, mix_to_mix, kind, device })
    }

    /// Both labels with label smoothing; see [`SoftTarget::smoothed`].
    ///
    /// # Errors
    ///
    /// [`Error::Value`] unless `0 <= smoothing <= 1`.
    pub fn smoothed(self, smoothing: f64) -> Result<MixTargets> {
        Ok(MixTargets {
            mix_to_origin: self.mix_to_origin.smoothed(smoothing)?,
            mix_to_mix: self.mix_to_mix.smoothed(smoothing)?,
            ..self
        })
    }

    /// Both labels for keys gathered from several ranks; see [`SoftTarget::gathered`].
    ///
    /// # Errors
    ///
    /// [`Error::Value`] unless `0 <= rank < world_size`.
    pub fn gathered(self, rank: i64, world_size: i64) -> Result<MixTargets> {
        Ok(MixTargets {
            mix_to_origin: self.mix_to_origin.gathered(rank, world_size)?,
            mix_to_mix: self.mix_to_mix.gathered(rank, world_size)?,
            ..self
        })
    }

    /// The mix-to-origin target, `[B, N]`: what share of mixed image `i` comes from image `j`.
    ///
    /// # Errors
    ///
    /// [`Error::Value`] for more than 2^32 numbers; [`Error::Torch`] if they do not fit in memory or the device cannot be
    /// used.
    pub fn mix_to_origin(&self) -> Result<Tensor> {
        self.mix_to_origin.dense(self.kind, self.device)
    }

    /// The mix-to-mix target, `[B, N]`: how much mixed images `i` and `j` have in common.
    ///
    /// # Errors
    ///
    /// [`Error::Value`] for more than 2^32 numbers; [`Error::Torch`] if they do not fit in memory or the device cannot be
    /// used.
    pub fn mix_to_mix(&self) -> Result<Tensor> {
        self.mix_to_mix.dense(self.kind, self.device)
    }

    /// The mix-to-origin target, sparse.
    pub fn sparse_mix_to_origin(&self) -> &SoftTarget {
        &self.mix_to_origin
    }

    /// The mix-to-mix target, sparse.
    pub fn sparse_mix_to_mix(&self) -> &SoftTarget {
        &self.mix_to_mix
    }
}
