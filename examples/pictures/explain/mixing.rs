//! What the library computes of the four images: all that the picture shows.

use patchmix::MixPlan;
use tch::{Device, Kind, Tensor};

use crate::Result;
use crate::pictures::matrix::Matrix;
use crate::pictures::tiles::Tiles;

/// Images in the batch; each has a colour.
pub(crate) const BATCH: usize = 4;

/// A batch of four images, and what one plan makes of it.
pub(crate) struct Mixing {
    pub(crate) images: Tiles,
    /// Patches along each side of an image.
    pub(crate) side: usize,
    pub(crate) mix_stride: i64,
    /// For every place in the shuffled order, the position of the patch that comes there.
    pub(crate) shuffled: Vec<usize>,
    /// For every position of a patch, its group.
    pub(crate) group_of_position: Vec<usize>,
    /// How many patches each group has.
    pub(crate) group_sizes: Vec<usize>,
    /// For every mixed image and every position, the image that the patch comes from.
    pub(crate) sources: Vec<Vec<usize>>,
    pub(crate) mix_to_origin: Matrix,
    pub(crate) mix_to_mix: Matrix,
}

impl Mixing {
    /// `images`: `[4, 3, H, W]` of bytes; the permutation follows `seed`.
    pub(crate) fn new(images: &Tensor, side: i64, groups: i64, mix_stride: i64, seed: i64) -> Result<Mixing> {
        let tiles = Tiles::new(images, "images")?;
        if side < 1 || i64::from(tiles.width) % side != 0 {
            let width = tiles.width;
            return Err(format!("--patches-per-side {side}: choose a divisor of the image's side of {width}").into());
        }
        let patches = side * side;
        tch::manual_seed(seed);
        let permutation = Vec::<i64>::try_from(Tensor::f_randperm(patches, (Kind::Int64, Device::Cpu))?)?;
        let plan = MixPlan::from_permutation(&permutation, groups, mix_stride)?;
        let group_of_position: Vec<usize> = plan.group_of_position().iter().map(|group| *group as usize).collect();
        let mut group_sizes = vec![0; groups as usize];
        group_of_position.iter().for_each(|group| group_sizes[*group] += 1);

        // Patches that hold nothing but the number of their image show where the library takes each from.
        let batch = BATCH as i64;
        let numbers = Tensor::f_arange(batch, (Kind::Int64, Device::Cpu))?
            .f_view([batch, 1, 1])?
            .f_expand([batch, patches, 1], false)?;
        let sources = Vec::<i64>::try_from(plan.mix_patches(&numbers)?.f_flatten(0, -1)?)?;
        let sources = sources.chunks(patches as usize).map(|row| row.iter().map(|image| *image as usize).collect());

        let targets = plan.targets(batch, Kind::Double, Device::Cpu)?;
        Ok(Mixing {
            images: tiles,
            side: side as usize,
            mix_stride,
            shuffled: permutation.into_iter().map(|position| position as usize).collect(),
            group_of_position,
            group_sizes,
            sources: sources.collect(),
            mix_to_origin: Matrix::new(&targets.mix_to_origin()?, batch, "mix-to-origin")?,
            mix_to_mix: Matrix::new(&targets.mix_to_mix()?, batch, "mix-to-mix")?,
        })
    }

    /// The number of patches of an image.
    pub(crate) fn patches(&self) -> usize {
        self.shuffled.len()
    }

    /// The mixed image that the patch of `image` at `position` goes to: every patch goes to exactly one.
    pub(crate) fn destination(&self, image: usize, position: usize) -> usize {
        self.sources.iter().position(|row| row[position] == image).unwrap_or(image)
    }

    /// How many images to the left the patches of a group go.
    pub(crate) fn shift(&self, group: usize) -> usize {
        let position = self.group_of_position.iter().position(|own| *own == group).unwrap_or(0);
        self.sources[0][position]
    }

    /// How many patches of a mixed image come from `image`.
    pub(crate) fn count_from(&self, mixed: usize, image: usize) -> usize {
        self.sources[mixed].iter().filter(|source| **source == image).count()
    }
}
