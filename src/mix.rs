//! The mixing itself: which image each patch position is read from.

use tch::{Device, Kind, Tensor};

use crate::error::{Error, Result, check_shape, check_value, is_float};
use crate::native;
use crate::numbers::{range, to_device};
use crate::target::MixTargets;

/// Mixes a batch of patch sequences and returns it with both soft labels.
///
/// `batch` is `[B, T, D]`: `B` images of `T` patches. A fresh random partition of the positions into `groups` groups is
/// drawn (it follows [`tch::manual_seed`]); group `g` of mixed image `i` is read from image `(i + g * mix_stride) mod B`,
/// every patch at its own position. The paper's stride is 1.
///
/// Returns `(mixed, mix_to_origin_target, mix_to_mix_target)` of shapes `[B, T, D]`, `[B, B]`, `[B, B]`: what share of
/// mixed image `i` comes from image `j`, and how much mixed images `i` and `j` have in common. Every row sums to 1.
/// The targets are of the batch's kind where that is a floating-point kind and `Float` otherwise. Gradient flows
/// through `mixed`, so a batch of patch embeddings can be mixed too.
///
/// To mix several tensors alike (two views, several crops), or whole images, draw a [`MixPlan`].
///
/// ```no_run
/// let batch = tch::Tensor::rand([8, 64, 192], tch::kind::FLOAT_CPU);
/// let (mixed, mix_to_origin, mix_to_mix) = patchmix::patch_mix(&batch, 2, 1)?;
/// # Ok::<(), patchmix::Error>(())
/// ```
///
/// # Errors
///
/// [`Error::Shape`] unless `batch` has three dimensions, and the errors of [`MixPlan::random`] and
/// [`MixPlan::targets`].
pub fn patch_mix(batch: &Tensor, groups: i64, mix_stride: i64) -> Result<(Tensor, Tensor, Tensor)> {
    check_shape("batch", batch, &[("B", None), ("T", None), ("D", None)])?;
    let (batch_size, patches, _) = batch.size3()?;
    let plan = MixPlan::random(patches, groups, mix_stride)?;
    let mixed = plan.mix_patches(batch)?;
    let kind = Some(batch.f_kind()?).filter(|kind| is_float(*kind)).unwrap_or(Kind::Float);
    let targets = plan.targets(batch_size, kind, batch.device())?;
    Ok((mixed, targets.mix_to_origin()?, targets.mix_to_mix()?))
}

/// A mix decided once and used for several tensors: both views, all crops, any device.
///
/// A plan is the group of every patch position and the stride. It holds no tensor, so it can be cloned, compared, sent
/// between threads and written down.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MixPlan {
    /// For every position of a patch, the group that it belongs to.
    group_of_position: Vec<i64>,
    groups: i64,
    mix_stride: i64,
}

impl MixPlan {
    /// The most patches that a plan is drawn for: an image of 4096 x 4096 of them. It bounds what a number alone can
    /// make [`MixPlan::random`] allocate.
    pub const MOST_PATCHES: i64 = 1 << 24;

    /// The most groups that a plan has: a mixed image needs as many distinct images in its batch. It bounds the work of
    /// [`MixPlan::targets`], which grows with the square of the groups.
    pub const MOST_GROUPS: i64 = 1 << 14;

    /// Draws a random partition of `patches` positions into `groups` groups whose sizes differ by at most one.
    ///
    /// Follows [`tch::manual_seed`]; the draw is made on the CPU whatever the device of the images, so a plan does not
    /// wait for a GPU.
    ///
    /// # Errors
    ///
    /// [`Error::Groups`] unless `1 <= groups <= patches`, [`Error::Value`] beyond [`MixPlan::MOST_PATCHES`] or
    /// [`MixPlan::MOST_GROUPS`].
    pub fn random(patches: i64, groups: i64, mix_stride: i64) -> Result<MixPlan> {
        check_groups(groups, patches)?;
        let permutation = Vec::<i64>::try_from(Tensor::f_randperm(patches, (Kind::Int64, Device::Cpu))?)?;
        MixPlan::from_permutation(&permutation, groups, mix_stride)
    }

    /// The plan in which group `g` takes the positions `permutation[g T / groups .. (g + 1) T / groups]` (rounded down).
    ///
    /// # Errors
    ///
    /// [`Error::Groups`] unless `1 <= groups <= permutation.len()`; [`Error::Value`] beyond [`MixPlan::MOST_PATCHES`] or
    /// [`MixPlan::MOST_GROUPS`]; [`Error::Permutation`] unless every position from 0 to `permutation.len() - 1` is there
    /// once.
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

    /// The number of patches an image has.
    pub fn patches(&self) -> i64 {
        self.group_of_position.len() as i64
    }

    /// The number of images that one mixed image is made of, M in the paper.
    pub fn groups(&self) -> i64 {
        self.groups
    }

    /// The distance in the batch between the images that neighbouring groups come from.
    pub fn mix_stride(&self) -> i64 {
        self.mix_stride
    }

    /// For every position of a patch, the group that it belongs to.
    pub fn group_of_position(&self) -> &[i64] {
        &self.group_of_position
    }

    /// Mixes patch sequences `[B, T, D]`: `mixed[i, t] = batch[(i + group(t) * stride) mod B, t]`.
    ///
    /// Any kind, any device, contiguous or not; gradient flows to every patch from the place it was moved to.
    ///
    /// # Errors
    ///
    /// [`Error::Shape`] unless `batch` is `[B, T, D]` with the plan's number of patches; [`Error::SourcesCollide`] if
    /// `B` images are too few for the plan.
    pub fn mix_patches(&self, batch: &Tensor) -> Result<Tensor> {
        check_shape("batch", batch, &[("B", None), ("T", Some(self.patches())), ("D", None)])?;
        self.mix_pieces(batch, &self.group_of_position, batch.size()[2])
    }

    /// Mixes images `[B, C, H, W]` of whole patches of `patch_size` x `patch_size` pixels; H and W may differ.
    ///
    /// Patches are numbered row by row, as a Vision Transformer numbers its tokens: mixing the images and then
    /// embedding them is mixing the embeddings.
    ///
    /// # Errors
    ///
    /// [`Error::PatchSize`] if the images do not divide into patches; [`Error::Shape`] if they have another number of
    /// patches than the plan; [`Error::SourcesCollide`] if `B` images are too few for the plan.
    pub fn mix_images(&self, images: &Tensor, patch_size: i64) -> Result<Tensor> {
        check_shape("images", images, &[("B", None), ("C", None), ("H", None), ("W", None)])?;
        let (_, _, height, width) = images.size4()?;
        if patch_size < 1 || height % patch_size != 0 || width % patch_size != 0 {
            return Err(Error::PatchSize { height, width, patch_size });
        }
        let (rows, columns) = (height / patch_size, width / patch_size);
        if rows.checked_mul(columns) != Some(self.patches()) {
            let expected = format!("[B, C, H, W] with {} patches of {patch_size} x {patch_size}", self.patches());
            return Err(Error::Shape { name: "images", expected, actual: images.size() });
        }
        // A row of pixels is a row of pieces, `patch_size` of them to a row of patches.
        let rows_of_patches = self.group_of_position.chunks(columns as usize);
        let group_of_piece: Vec<i64> = rows_of_patches.flat_map(|row| row.repeat(patch_size as usize)).collect();
        self.mix_pieces(images, &group_of_piece, patch_size)
    }

    /// The soft labels of a batch of `batch_size` images mixed by this plan, in numbers of `kind` on `device`.
    ///
    /// They depend on the sizes of the groups only, not on where the patches are, and are held sparse.
    ///
    /// # Errors
    ///
    /// [`Error::SourcesCollide`] if the images are too few for the plan, [`Error::Kind`] unless `kind` is a
    /// floating-point kind, [`Error::Value`] for the index of a GPU that there cannot be.
    pub fn targets(&self, batch_size: i64, kind: Kind, device: Device) -> Result<MixTargets> {
        let sources = self.sources(batch_size)?;
        let patches = self.patches();
        let counts: Vec<i64> =
            (0..self.groups).map(|group| group_range(group, self.groups, patches).len() as i64).collect();
        MixTargets::new(batch_size, &sources, &counts, kind, device)
    }

    /// For every group, the image that mixed image 0 takes it from: `group * stride mod batch_size`.
    fn sources(&self, batch_size: i64) -> Result<Vec<i64>> {
        let mix_stride = self.mix_stride;
        // The multiples of the stride come round after batch_size / gcd of them.
        let distinct = if batch_size < 1 { 0 } else { batch_size / greatest_common_divisor(mix_stride, batch_size) };
        if distinct < self.groups {
            return Err(Error::SourcesCollide { batch_size, groups: self.groups, mix_stride, distinct });
        }
        let step = i128::from(mix_stride.rem_euclid(batch_size));
        // The remainder lies in 0..batch_size, so it fits.
        Ok((0..self.groups).map(|group| (i128::from(group) * step % i128::from(batch_size)) as i64).collect())
    }

    /// Mixes `batch` `[B, ...]`, in memory order pieces of `piece_elements` elements: `group_of_piece` holds the group of
    /// each, over and over until the image is full.
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

/// `mixed[i, piece] = batch[(i + shift[piece]) mod B, piece]`: one gather, which knows its gradient and any device.
fn gather_pieces(batch: &Tensor, shift_of_piece: &[i64], piece_elements: i64) -> Result<Tensor> {
    let (batch_size, pieces) = (batch.size()[0], shift_of_piece.len() as i64);
    let cut = batch.f_reshape([batch_size, -1, pieces, piece_elements])?;
    let shift = to_device(&Tensor::f_from_slice(shift_of_piece)?, batch.device())?.f_view([1, 1, pieces, 1])?;
    let row = range(batch_size, batch.device())?.f_view([batch_size, 1, 1, 1])?;
    let source = row.f_add(&shift)?.f_remainder_(batch_size)?;
    Ok(cut.f_gather(0, &source.f_expand(cut.size(), false)?, false)?.f_view(batch.size().as_slice())?)
}

/// An error unless a plan of `groups` groups of `patches` positions can be made.
fn check_groups(groups: i64, patches: i64) -> Result<()> {
    if groups < 1 || groups > patches {
        return Err(Error::Groups { groups, patches });
    }
    for (name, actual, most) in [("patches", patches, MixPlan::MOST_PATCHES), ("groups", groups, MixPlan::MOST_GROUPS)]
    {
        check_value(name, actual as f64, &format!("at most {most}"), actual <= most)?;
    }
    Ok(())
}

/// Which entries of the permutation group `group` takes: sizes differ by at most one.
fn group_range(group: i64, groups: i64, patches: i64) -> std::ops::Range<usize> {
    let bound = |group: i64| (i128::from(group) * i128::from(patches) / i128::from(groups)) as usize;
    bound(group)..bound(group + 1)
}

/// Euclid's algorithm; `b` is positive, and so is the result.
fn greatest_common_divisor(a: i64, b: i64) -> i64 {
    let (mut a, mut b) = (b, a.rem_euclid(b));
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a
}
