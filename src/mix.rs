//! Mixes the patches of a batch: which image each patch position is read from.

mod apply;
mod variants;

use tch::{Device, Kind, Tensor};

use crate::error::{Error, Result, check_in, is_float};
use crate::target::MixTargets;
use apply::{check_sequences, patch_grid};

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
    check_sequences(batch, None, None)?;
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
/// sent between threads. All images of a batch are mixed alike, unless the plan is one [per image](MixPlan::per_image).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MixPlan {
    /// Image by image in a plan per image.
    group_of_position: Vec<i64>,
    /// How many images have a partition of their own; `None` if all are mixed alike.
    images: Option<i64>,
    groups: i64,
    mix_stride: i64,
}

/// The largest number of patches: an image of 4096 x 4096 patches. It limits what a single number can make
/// [`MixPlan::random`] allocate.
const MAX_PATCHES: i64 = 1 << 24;

/// The largest number of groups. It limits the work of [`MixPlan::targets`], which grows with its square.
const MAX_GROUPS: i64 = 1 << 14;

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
        Ok(MixPlan { group_of_position, images: None, groups, mix_stride })
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
        self.group_of_position.len() as i64 / self.images.unwrap_or(1)
    }

    /// The number of images that a mixed image is made of, M in the paper.
    pub fn groups(&self) -> i64 {
        self.groups
    }

    /// The distance in the batch between the source images of neighboring groups.
    pub fn mix_stride(&self) -> i64 {
        self.mix_stride
    }

    /// The group of every patch position; of a plan [per image](MixPlan::per_image), image by image.
    pub fn group_of_position(&self) -> &[i64] {
        &self.group_of_position
    }

    /// The soft targets of a batch of `batch_size` images mixed by this plan.
    ///
    /// They depend on the sizes of the groups, not on where the patches are, and so not on whether all images are mixed
    /// alike. They are sparse; for matrices see [`SoftTarget::dense`](crate::SoftTarget::dense).
    ///
    /// # Errors
    ///
    /// [`Error::SourcesCollide`] if a batch of this size has fewer distinct sources than the plan has groups. Without a
    /// plan, [`MixPlan::check_batch_size`] answers the same. [`Error::Value`] if a plan per image is for another number
    /// of images.
    pub fn targets(&self, batch_size: i64) -> Result<MixTargets> {
        if let Some(images) = self.images.filter(|images| *images != batch_size) {
            let expected = format!("{images}, the images of the plan");
            return Err(Error::Value { name: "batch_size", expected, actual: batch_size as f64 });
        }
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
