//! Soft targets: the shares of the source images in every mixed image.

use std::collections::BTreeMap;

use tch::{Device, Kind, Tensor};

use crate::error::{Error, Result, check_float_kind, check_in, check_index};
use crate::numbers::{range, to_device};

/// The most elements of a dense target, 16 GiB of `Float`. Some systems promise more memory than they have.
const MAX_ELEMENTS: i128 = 1 << 32;

/// A soft target for every image of a batch, stored sparse.
///
/// Every row is the previous one shifted right by one column (mod the batch size), so the columns and shares of row 0
/// describe the whole matrix `[B, N]`. Rows sum to 1.
///
/// `N` is the batch size, or `world_size` times that if keys are gathered from several ranks
/// ([`SoftTarget::gathered`]). There is one row per image, or `copies` of them ([`SoftTarget::repeated`]).
#[derive(Debug, Clone, PartialEq)]
pub struct SoftTarget {
    batch_size: i64,
    copies: i64,
    /// The columns of row 0, distinct and in `0..batch_size`, with their shares, which sum to 1.
    shares: Vec<(i64, f64)>,
    smoothing: f64,
    rank: i64,
    world_size: i64,
}

impl SoftTarget {
    /// The target of unmixed images: image `i` matches image `i`.
    ///
    /// # Errors
    ///
    /// [`Error::Value`] if `batch_size` is below 1.
    pub fn identity(batch_size: i64) -> Result<SoftTarget> {
        check_in("batch_size", batch_size, 1..)?;
        Ok(SoftTarget::from_shares(batch_size, [(0, 1.0)]))
    }

    /// Columns are taken mod `batch_size`. The shares of equal columns add up.
    fn from_shares(batch_size: i64, shares: impl IntoIterator<Item = (i64, f64)>) -> SoftTarget {
        let mut share_of_column = BTreeMap::new();
        for (column, share) in shares {
            *share_of_column.entry(column.rem_euclid(batch_size)).or_insert(0.0) += share;
        }
        let shares = share_of_column.into_iter().collect();
        SoftTarget { batch_size, copies: 1, shares, smoothing: 0.0, rank: 0, world_size: 1 }
    }

    /// The same target with label smoothing, `target * (1 - smoothing) + smoothing / N`. It replaces earlier smoothing.
    ///
    /// # Errors
    ///
    /// [`Error::Value`] unless `0 <= smoothing <= 1`.
    pub fn smoothed(self, smoothing: f64) -> Result<SoftTarget> {
        check_in("smoothing", smoothing, 0.0..=1.0)?;
        Ok(SoftTarget { smoothing, ..self })
    }

    /// The same target for keys gathered from `world_size` ranks in rank order: `world_size * batch_size` columns, of
    /// which this rank's start at `rank * batch_size`.
    ///
    /// # Errors
    ///
    /// [`Error::Value`] unless `0 <= rank < world_size`, or if the number of columns does not fit in an `i64`.
    pub fn gathered(self, rank: i64, world_size: i64) -> Result<SoftTarget> {
        check_in("world_size", world_size, 1..=i64::MAX / self.batch_size)?;
        check_in("rank", rank, 0..world_size)?;
        Ok(SoftTarget { rank, world_size, ..self })
    }

    /// The same target for `copies` crops of every image, crop by crop: row `c * B + i` equals row `i`. The columns do
    /// not change.
    ///
    /// # Errors
    ///
    /// [`Error::Value`] unless `copies` is at least 1 and the number of rows fits in an `i64`.
    pub fn repeated(self, copies: i64) -> Result<SoftTarget> {
        check_in("copies", copies, 1..=i64::MAX / self.rows())?;
        Ok(SoftTarget { copies: self.copies * copies, ..self })
    }

    /// The number of images, B.
    pub fn batch_size(&self) -> i64 {
        self.batch_size
    }

    /// The number of rows: B, times the number of copies if the target is [`repeated`](SoftTarget::repeated).
    pub fn rows(&self) -> i64 {
        self.batch_size * self.copies
    }

    /// The number of columns, N: how many keys a query is compared with.
    pub fn columns(&self) -> i64 {
        self.batch_size * self.world_size
    }

    /// The columns and shares of row 0, without smoothing and without the offset of the rank. Row `i` has the same
    /// shares at `(column + i) mod batch_size`, in every copy.
    pub fn shares(&self) -> &[(i64, f64)] {
        &self.shares
    }

    /// The target as a matrix, `[rows, N]`.
    ///
    /// # Errors
    ///
    /// [`Error::Kind`] unless `kind` is a floating-point kind; [`Error::Value`] for more than 2^32 elements, or a CUDA
    /// index out of range; [`Error::Torch`] if it does not fit in memory or the device is not available.
    pub fn dense(&self, kind: Kind, device: Device) -> Result<Tensor> {
        check_float_kind("target", kind)?;
        check_index(device)?;
        if i128::from(self.rows()) * i128::from(self.columns()) > MAX_ELEMENTS {
            let expected = format!("small enough for a dense target of at most {MAX_ELEMENTS} elements");
            return Err(Error::Value { name: "batch_size", expected, actual: self.batch_size as f64 });
        }
        let columns: Vec<i64> = self.shares.iter().map(|(column, _)| *column).collect();
        let shares: Vec<f64> = self.shares.iter().map(|(_, share)| share * (1.0 - self.smoothing)).collect();
        let column = to_device(&Tensor::f_from_slice(&columns)?, device)?; // [number of shares]
        let share = to_device(&Tensor::f_from_slice(&shares)?.f_to_kind(kind)?, device)?;
        let row = range(self.batch_size, device)?.f_unsqueeze(1)?; // [B, 1]
        let mut column = row.f_add(&column)?.f_remainder_(self.batch_size)?; // [B, number of shares]
        let column = column.f_add_scalar_(self.rank * self.batch_size)?;
        let background = self.smoothing / self.columns() as f64;
        let mut dense = Tensor::f_zeros([self.batch_size, self.columns()], (kind, device))?.f_fill_(background)?;
        self.repeat_rows(dense.f_scatter_add_(1, &column, &share.f_expand(column.size(), false)?)?)
    }

    /// `target · keys`, `[rows, D]` from keys `[N, D]`, without the matrix.
    pub(crate) fn times_keys(&self, keys: &Tensor) -> Result<Tensor> {
        let own_keys = keys.f_narrow(0, self.rank * self.batch_size, self.batch_size)?;
        let mut product = own_keys.f_zeros_like()?;
        for (column, share) in &self.shares {
            let weighted = own_keys.f_roll(-column, 0)?.f_mul_scalar_(share * (1.0 - self.smoothing))?;
            product = product.f_add_(&weighted)?;
        }
        if self.smoothing > 0.0 {
            let background = keys.f_mean_dim(0, true, None)?.f_mul_scalar_(self.smoothing)?;
            product = product.f_add_(&background)?;
        }
        self.repeat_rows(product)
    }

    /// `[copies * B, ...]` from `[B, ...]`.
    fn repeat_rows(&self, rows: Tensor) -> Result<Tensor> {
        if self.copies == 1 { Ok(rows) } else { Ok(rows.f_repeat([self.copies, 1])?) }
    }
}

/// The soft targets of a mixed batch, made by [`MixPlan::targets`](crate::MixPlan::targets).
#[derive(Debug, Clone, PartialEq)]
pub struct MixTargets {
    /// `A` in the paper: the share of mixed image `i` that comes from image `j`.
    pub mix_to_origin: SoftTarget,
    /// `W = A Aᵀ`: how much mixed images `i` and `j` have in common.
    pub mix_to_mix: SoftTarget,
}

impl MixTargets {
    /// `sources` are the source images of the groups of mixed image 0: distinct multiples of the stride in
    /// `0..batch_size`. `group_sizes` are in patches.
    pub(crate) fn new(batch_size: i64, sources: &[i64], group_sizes: &[i64]) -> MixTargets {
        let patches = group_sizes.iter().sum::<i64>() as f64;
        let shares = sources.iter().zip(group_sizes).map(|(source, size)| (*source, *size as f64 / patches));
        let mix_to_origin = SoftTarget::from_shares(batch_size, shares);
        // Group g of mixed image 0 and group h of mixed image j have the same source image if
        // j = source(g) - source(h) = source(g - h). So all pairs of groups at one distance share a column. Their
        // products are summed as integers, which is exact for any number of groups.
        let mut overlaps = Vec::with_capacity(2 * group_sizes.len());
        for (distance, source) in sources.iter().enumerate() {
            let products = group_sizes.iter().zip(&group_sizes[distance..]).map(|(one, other)| one * other);
            let share = products.sum::<i64>() as f64 / (patches * patches);
            overlaps.push((*source, share));
            if distance > 0 {
                overlaps.push((-source, share));
            }
        }
        MixTargets { mix_to_origin, mix_to_mix: SoftTarget::from_shares(batch_size, overlaps) }
    }

    /// Both targets with label smoothing; see [`SoftTarget::smoothed`].
    ///
    /// # Errors
    ///
    /// [`Error::Value`] unless `0 <= smoothing <= 1`.
    pub fn smoothed(self, smoothing: f64) -> Result<MixTargets> {
        let MixTargets { mix_to_origin, mix_to_mix } = self;
        Ok(MixTargets {
            mix_to_origin: mix_to_origin.smoothed(smoothing)?,
            mix_to_mix: mix_to_mix.smoothed(smoothing)?,
        })
    }

    /// Both targets for keys gathered from several ranks; see [`SoftTarget::gathered`].
    ///
    /// # Errors
    ///
    /// [`Error::Value`] unless `0 <= rank < world_size`, or if the number of columns does not fit in an `i64`.
    pub fn gathered(self, rank: i64, world_size: i64) -> Result<MixTargets> {
        let MixTargets { mix_to_origin, mix_to_mix } = self;
        Ok(MixTargets {
            mix_to_origin: mix_to_origin.gathered(rank, world_size)?,
            mix_to_mix: mix_to_mix.gathered(rank, world_size)?,
        })
    }
}
