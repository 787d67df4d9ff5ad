//! A mix of four images, computed by the library: everything that the animation shows.

use patchmix::{MixPlan, SoftTarget};
use tch::{Device, Kind, Tensor};

use crate::Result;
use crate::pictures::draw::matrix::Matrix;
use crate::pictures::draw::tiles::Tiles;

/// Images in the batch; each has a color.
pub(super) const BATCH: usize = 4;

/// A batch of four images and its mix by one plan.
pub(super) struct Mixing {
    pub(super) images: Tiles,
    /// Patches along each side of an image.
    pub(super) side: usize,
    pub(super) mix_stride: i64,
    /// For every index in the shuffled order, the position of the patch that goes there.
    pub(super) shuffled: Vec<usize>,
    /// For every position, its group.
    pub(super) group_of_position: Vec<usize>,
    /// Number of patches in each group.
    pub(super) group_sizes: Vec<usize>,
    /// For every mixed image and position, the image that the patch comes from.
    pub(super) sources: Vec<Vec<usize>>,
    pub(super) mix_to_origin: Matrix,
    pub(super) mix_to_mix: Matrix,
}

impl Mixing {
    /// Mixes `images`, `[4, 3, H, W]` of bytes; `seed` decides the permutation.
    pub(super) fn new(images: &Tensor, side: i64, groups: i64, mix_stride: i64, seed: i64) -> Result<Mixing> {
        let tiles = Tiles::new(images, "images")?;
        if side < 1 || i64::from(tiles.width) % side != 0 {
            let width = tiles.width;
            return Err(format!("--patches-per-side {side}: choose a divisor of the image's side, {width}").into());
        }
        let patches = side * side;
        tch::manual_seed(seed);
        let permutation = Vec::<i64>::try_from(Tensor::f_randperm(patches, (Kind::Int64, Device::Cpu))?)?;
        let plan = MixPlan::from_permutation(&permutation, groups, mix_stride)?;
        let group_of_position: Vec<usize> = plan.group_of_position().iter().map(|group| *group as usize).collect();
        let mut group_sizes = vec![0; groups as usize];
        group_of_position.iter().for_each(|group| group_sizes[*group] += 1);

        // Patches that contain only the number of their image reveal where the library takes each from.
        let batch = BATCH as i64;
        let numbers = Tensor::f_arange(batch, (Kind::Int64, Device::Cpu))?
            .f_view([batch, 1, 1])?
            .f_expand([batch, patches, 1], false)?;
        let sources = Vec::<i64>::try_from(plan.mix_patches(&numbers)?.f_flatten(0, -1)?)?;
        let sources = sources.chunks(patches as usize).map(|row| row.iter().map(|image| *image as usize).collect());

        let targets = plan.targets(batch)?;
        let matrix = |target: &SoftTarget, name| Matrix::new(&target.dense(Kind::Double, Device::Cpu)?, batch, name);
        Ok(Mixing {
            images: tiles,
            side: side as usize,
            mix_stride,
            shuffled: permutation.into_iter().map(|position| position as usize).collect(),
            group_of_position,
            group_sizes,
            sources: sources.collect(),
            mix_to_origin: matrix(&targets.mix_to_origin, "mix-to-origin")?,
            mix_to_mix: matrix(&targets.mix_to_mix, "mix-to-mix")?,
        })
    }

    /// Number of patches of an image.
    pub(super) fn patches(&self) -> usize {
        self.shuffled.len()
    }

    /// The one mixed image that the patch of `image` at `position` goes to.
    pub(super) fn destination(&self, image: usize, position: usize) -> usize {
        self.sources.iter().position(|row| row[position] == image).unwrap_or(image)
    }

    /// Number of images to the left that the patches of a group move.
    pub(super) fn shift(&self, group: usize) -> usize {
        let position = self.group_of_position.iter().position(|own| *own == group).unwrap_or(0);
        self.sources[0][position]
    }

    /// Number of patches of a mixed image that come from `image`.
    pub(super) fn count_from(&self, mixed: usize, image: usize) -> usize {
        self.sources[mixed].iter().filter(|source| **source == image).count()
    }
}
