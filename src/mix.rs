//! Mixes the patches of a batch: which image each patch position is read from.

use tch::{Device, Kind, Tensor};

use crate::error::{Error, Result, check_in, check_shape, is_float};
use crate::native;
use crate::numbers::{range, to_device};
use crate::target::MixTargets;

/// Mixes a batch of patch sequences, and returns the mix with both soft targets.
///
/// `batch` is `[B, T, D]`: `B` images of `T` patches. The patch positions are partitioned at random into `groups`
/// groups (following [`tch::manual_seed`]). Group `g` of mixed image `i` is read from image
/// `(i + g * mix_stride) mod B`, and every patch keeps its position. The paper's stride is 1.
///
/// Returns `(mixed, mix_to_origin_target, mix_to_mix_target)` of shapes `[B, T, D]`, `[B, B]` and `[B, B]`. The first
/// target holds the share of mixed image `i` that comes from image `j`, the second how much mixed images `i` and `j`
/// have in common. Every row sums to 1. The targets have the kind of the batch if that is a floating-point kind, and
/// `Float` otherwise. Gradient flows through `mixed`, so patch embeddings can be mixed too.
///
/// For images `[B, C, H, W]`, and to mix several tensors alike (two views, several crops), draw a plan with
/// [`MixPlan::for_images`] or [`MixPlan::random`].
///
/// ```no_run
/// let batch = tch::Tensor::rand([8, 64, 192], tch::kind::FLOAT_CPU);
/// let (mixed, mix_to_origin, mix_to_mix) = patchmix::patch_mix(&batch, 2, 1)?;
/// # Ok::<(), patchmix::Error>(())
/// ```
///
/// # Errors
///
/// [`Error::Shape`] unless `batch` has three dimensions; it names [`MixPlan::for_images`] if there are four.
/// [`Error::SourcesCollide`] if it has too few images for the groups; [`Error::Value`] for targets of more than 2^32
/// elements; those of [`MixPlan::random`].
pub fn patch_mix(batch: &Tensor, groups: i64, mix_stride: i64) -> Result<(Tensor, Tensor, Tensor)> {
    check_sequences(batch, None)?;
    let (batch_size, patches, _) = batch.size3()?;
    let plan = MixPlan::random(patches, groups, mix_stride)?;
    let mixed = plan.mix_patches(batch)?;
    let kind = Some(batch.f_kind()?).filter(|kind| is_float(*kind)).unwrap_or(Kind::Float);
    let MixTargets { mix_to_origin, mix_to_mix } = plan.targets(batch_size)?;
    Ok((mixed, mix_to_origin.dense(kind, batch.device())?, mix_to_mix.dense(kind, batch.device())?))
}

/// A mix drawn once and used for several tensors: both views, all crops, any device.
///
/// A plan is the group of every patch position, and the stride. It holds no tensor, so it can be cloned, compared and
/// sent between threads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MixPlan {
    group_of_position: Vec<i64>,
    groups: i64,
    mix_stride: i64,
}

/// The largest number of patches: an image of 4096 x 4096 patches. It limits what a single number can make
/// [`MixPlan::random`] allocate.
const MAX_PATCHES: i64 = 1 << 24;

/// The largest number of groups. It limits the work of [`MixPlan::targets`], which grows with its square.
const MAX_GROUPS: i64 = 1 << 14;

/// The largest number of pieces, one per patch and pixel row of it. It limits what an expanded tensor, which has more
/// elements than memory, can make [`MixPlan::mix_images`] allocate.
const MAX_PIECES: i64 = 1 << 28;

impl MixPlan {
    /// Draws a random partition of `patches` positions into `groups` groups whose sizes differ by at most one.
    ///
    /// Follows [`tch::manual_seed`]. The draw is made on the CPU whatever the device of the images, so a plan never
    /// waits for a GPU.
    ///
    /// # Errors
    ///
    /// [`Error::Groups`] unless `1 <= groups <= patches`; [`Error::Value`] for more than 2^24 patches or 2^14 groups.
    pub fn random(patches: i64, groups: i64, mix_stride: i64) -> Result<MixPlan> {
        check_groups(groups, patches)?;
        let permutation = Vec::<i64>::try_from(Tensor::f_randperm(patches, (Kind::Int64, Device::Cpu))?)?;
        MixPlan::from_permutation(&permutation, groups, mix_stride)
    }

    /// Draws a plan for images `[B, C, H, W]` cut into patches of `patch_size` x `patch_size` pixels, as
    /// [`MixPlan::random`] does for their number of patches. [`MixPlan::mix_images`] applies it.
    ///
    /// ```no_run
    /// # let images = tch::Tensor::rand([8, 3, 224, 224], tch::kind::FLOAT_CPU);
    /// let plan = patchmix::MixPlan::for_images(&images, 16, 2, 1)?; // 14 x 14 patches, 2 images per mix, stride 1
    /// let mixed = plan.mix_images(&images, 16)?;
    /// # Ok::<(), patchmix::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Shape`] unless the images have four dimensions; [`Error::PatchSize`] unless `patch_size` divides H and
    /// W; [`Error::SourcesCollide`] if the batch has too few images for the groups; those of [`MixPlan::random`].
    pub fn for_images(images: &Tensor, patch_size: i64, groups: i64, mix_stride: i64) -> Result<MixPlan> {
        let (rows, columns) = patch_grid(images, patch_size)?;
        MixPlan::check_batch_size(images.size()[0], groups, mix_stride)?;
        MixPlan::random(rows.saturating_mul(columns), groups, mix_stride)
    }

    /// The plan in which group `g` takes the positions `permutation[g T / groups .. (g + 1) T / groups]` (rounded
    /// down), where `T` is the length of `permutation`.
    ///
    /// # Errors
    ///
    /// [`Error::Groups`] unless `1 <= groups <= T`; [`Error::Value`] for more than 2^24 patches or 2^14 groups;
    /// [`Error::Permutation`] unless `permutation` holds every position in `0..T` once.
    pub fn from_permutation(permutation: &[i64], groups: i64, mix_stride: i64) -> Result<MixPlan> {
        let patches = permutation.len() as i64;
        check_groups(groups, patches)?;
        const UNSEEN: i64 = -1;
        let mut group_of_position = vec![UNSEEN; permutation.len()];
        for group in 0..groups {
            for &position in &permutation[group_range(group, groups, patches)] {
                let slot = usize::try_from(position).ok().and_then(|position| group_of_position.get_mut(position));
                match slot {
                    Some(slot) if *slot == UNSEEN => *slot = group,
                    _ => return Err(Error::Permutation { length: patches, position }),
                }
            }
        }
        Ok(MixPlan { group_of_position, groups, mix_stride })
    }

    /// Checks that a batch of `batch_size` images can be mixed with `groups` groups and this stride, without a plan.
    ///
    /// # Errors
    ///
    /// [`Error::Value`] unless `groups` is between 1 and 2^14; [`Error::SourcesCollide`] if the batch has fewer than
    /// `groups` distinct source images.
    pub fn check_batch_size(batch_size: i64, groups: i64, mix_stride: i64) -> Result<()> {
        check_in("groups", groups, 1..=MAX_GROUPS)?;
        // The multiples of the stride repeat after batch_size / gcd(mix_stride, batch_size) of them.
        let distinct = if batch_size < 1 { 0 } else { batch_size / greatest_common_divisor(mix_stride, batch_size) };
        if distinct < groups {
            return Err(Error::SourcesCollide { batch_size, groups, mix_stride, distinct });
        }
        Ok(())
    }

    /// The number of patches in an image.
    pub fn patches(&self) -> i64 {
        self.group_of_position.len() as i64
    }

    /// The number of images that a mixed image is made of, M in the paper.
    pub fn groups(&self) -> i64 {
        self.groups
    }

    /// The distance in the batch between the source images of neighboring groups.
    pub fn mix_stride(&self) -> i64 {
        self.mix_stride
    }

    /// The group of every patch position.
    pub fn group_of_position(&self) -> &[i64] {
        &self.group_of_position
    }

    /// Mixes patch sequences `[B, T, D]`: `mixed[i, t] = batch[(i + group(t) * stride) mod B, t]`.
    ///
    /// Works for any kind, device and memory layout. The gradient of a patch flows back to the image it was read from.
    ///
    /// # Errors
    ///
    /// [`Error::Shape`] unless `batch` is `[B, T, D]` with the plan's number of patches; [`Error::SourcesCollide`] if B
    /// images have fewer distinct sources than the plan has groups.
    pub fn mix_patches(&self, batch: &Tensor) -> Result<Tensor> {
        check_sequences(batch, Some(self.patches()))?;
        self.mix_pieces(batch, &self.group_of_position, batch.size()[2])
    }

    /// Mixes images `[B, C, H, W]` in patches of `patch_size` x `patch_size` pixels; H and W may differ.
    ///
    /// Patches are numbered row by row, like the tokens of a Vision Transformer, so mixing the images and then
    /// embedding them gives the same tokens as mixing the embeddings.
    ///
    /// # Errors
    ///
    /// [`Error::PatchSize`] unless `patch_size` divides H and W; [`Error::Shape`] if the images do not have the plan's
    /// number of patches; [`Error::SourcesCollide`] if B images have fewer distinct sources than the plan has groups;
    /// [`Error::Value`] for more than 2^28 rows of pixels in all patches.
    pub fn mix_images(&self, images: &Tensor, patch_size: i64) -> Result<Tensor> {
        let (rows, columns) = patch_grid(images, patch_size)?;
        if rows.checked_mul(columns) != Some(self.patches()) {
            let expected = format!("[B, C, H, W] with {} patches of {patch_size} x {patch_size}", self.patches());
            return Err(Error::Shape { name: "images", expected, actual: images.size() });
        }
        if images.numel() == 0 {
            return self.mix_pieces(images, &[], patch_size); // its other sizes may be of any length
        }
        // In memory, an image is a sequence of pieces `patch_size` pixels wide. A row of patches is `patch_size` pixel
        // rows, each with one piece of every patch.
        check_in("patches * patch_size", self.patches().saturating_mul(patch_size), ..=MAX_PIECES)?;
        let patch_rows = self.group_of_position.chunks(columns as usize);
        let group_of_piece: Vec<i64> = patch_rows.flat_map(|row| row.repeat(patch_size as usize)).collect();
        self.mix_pieces(images, &group_of_piece, patch_size)
    }

    /// The soft targets of a batch of `batch_size` images mixed by this plan.
    ///
    /// They depend on the sizes of the groups, not on where the patches are. They are sparse; for matrices see
    /// [`SoftTarget::dense`](crate::SoftTarget::dense).
    ///
    /// # Errors
    ///
    /// [`Error::SourcesCollide`] if a batch of this size has fewer distinct sources than the plan has groups. Without a
    /// plan, [`MixPlan::check_batch_size`] answers the same.
    pub fn targets(&self, batch_size: i64) -> Result<MixTargets> {
        let sources = self.sources(batch_size)?;
        let group_sizes: Vec<i64> =
            (0..self.groups).map(|group| group_range(group, self.groups, self.patches()).len() as i64).collect();
        Ok(MixTargets::new(batch_size, &sources, &group_sizes))
    }

    /// The source image of every group of mixed image 0: `group * stride mod batch_size`.
    fn sources(&self, batch_size: i64) -> Result<Vec<i64>> {
        MixPlan::check_batch_size(batch_size, self.groups, self.mix_stride)?;
        let step = i128::from(self.mix_stride.rem_euclid(batch_size));
        Ok((0..self.groups).map(|group| (i128::from(group) * step % i128::from(batch_size)) as i64).collect())
    }

    /// Mixes `batch` `[B, ...]`, whose images are sequences of pieces of `piece_elements` elements in memory order.
    /// `group_of_piece` holds the group of each piece, and repeats until the image is full.
    fn mix_pieces(&self, batch: &Tensor, group_of_piece: &[i64], piece_elements: i64) -> Result<Tensor> {
        let shift_of_group = self.sources(batch.size()[0])?;
        if batch.numel() == 0 {
            return Ok(batch.shallow_clone());
        }
        if batch.device() == Device::Cpu && !batch.requires_grad() {
            return native::mix(batch, group_of_piece, &shift_of_group, piece_elements);
        }
        let shift_of_piece: Vec<i64> = group_of_piece.iter().map(|&group| shift_of_group[group as usize]).collect();
        gather_pieces(batch, &shift_of_piece, piece_elements)
    }
}

/// `mixed[i, piece] = batch[(i + shift[piece]) mod B, piece]` as one gather, which works on any device and has a
/// gradient.
fn gather_pieces(batch: &Tensor, shift_of_piece: &[i64], piece_elements: i64) -> Result<Tensor> {
    let (batch_size, pieces) = (batch.size()[0], shift_of_piece.len() as i64);
    let cut = batch.f_reshape([batch_size, -1, pieces, piece_elements])?;
    let shift = to_device(&Tensor::f_from_slice(shift_of_piece)?, batch.device())?.f_view([1, 1, pieces, 1])?;
    let row = range(batch_size, batch.device())?.f_view([batch_size, 1, 1, 1])?;
    let source = row.f_add(&shift)?.f_remainder_(batch_size)?;
    Ok(cut.f_gather(0, &source.f_expand(cut.size(), false)?, false)?.f_view(batch.size().as_slice())?)
}

/// An error unless `batch` is `[B, T, D]` with `patches` patches, or any number of them.
fn check_sequences(batch: &Tensor, patches: Option<i64>) -> Result<()> {
    let checked = check_shape("batch", batch, &[("B", None), ("T", patches), ("D", None)]);
    checked.map_err(|error| match error {
        Error::Shape { name, expected, actual } if actual.len() == 4 => {
            let expected = format!("{expected} (for images, use MixPlan::for_images and MixPlan::mix_images)");
            Error::Shape { name, expected, actual }
        }
        other => other,
    })
}

/// The rows and columns of patches in images `[B, C, H, W]`.
fn patch_grid(images: &Tensor, patch_size: i64) -> Result<(i64, i64)> {
    check_shape("images", images, &[("B", None), ("C", None), ("H", None), ("W", None)])?;
    let (_, _, height, width) = images.size4()?;
    if patch_size < 1 || height % patch_size != 0 || width % patch_size != 0 {
        return Err(Error::PatchSize { height, width, patch_size });
    }
    Ok((height / patch_size, width / patch_size))
}

/// An error unless `patches` positions can be divided into `groups` groups.
fn check_groups(groups: i64, patches: i64) -> Result<()> {
    if !(1..=patches).contains(&groups) {
        return Err(Error::Groups { groups, patches });
    }
    check_in("patches", patches, ..=MAX_PATCHES)?;
    check_in("groups", groups, ..=MAX_GROUPS)
}

/// Which entries of the permutation group `group` takes. Group sizes differ by at most one.
fn group_range(group: i64, groups: i64, patches: i64) -> std::ops::Range<usize> {
    let bound = |group: i64| (i128::from(group) * i128::from(patches) / i128::from(groups)) as usize;
    bound(group)..bound(group + 1)
}

/// Euclid's algorithm; `b` must be positive, and so is the result.
fn greatest_common_divisor(a: i64, b: i64) -> i64 {
    let (mut a, mut b) = (b, a.rem_euclid(b));
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a
}
