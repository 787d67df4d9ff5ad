//! The batches of an epoch and their views: two global ones of every image, and small local ones if the run has them.

use patchmix::data::{Batches, Cut};
use tch::Tensor;

use super::position::Position;
use super::world::World;
use crate::Result;
use crate::images::{Batch, BatchImages, DecodedBatches, Images};
use crate::seeds::{Purpose, seed_for};
use crate::settings::Settings;

/// The views of a batch, each `[B, 3, size, size]`.
pub(super) struct Views {
    pub(super) global: [Tensor; 2],
    pub(super) local: Vec<Tensor>,
}

/// This rank's part of the batches of an epoch from `position` on, in the order that the seed and the epoch decide.
pub(super) fn batches<'a>(
    images: &'a Images,
    settings: &Settings,
    position: &Position,
    world: &World,
) -> Result<DecodedBatches<'a>> {
    let order = Batches::new(images.to_train_on(), settings.batch_size, settings.seed, position.epoch)?;
    let order = order.iter().skip(position.batch as usize);
    let parts = order.map(|batch| part_of(batch, world.rank, world.size).to_vec()).collect();
    let cuts = settings.view_recipes().into_iter().zip(0..).map(|(recipe, view)| {
        Cut::random(&recipe, seed_for(settings.seed, position.epoch, view, Purpose::Crops) as u64)
    });
    images.batches(parts, cuts.collect())
}

/// A rank's part of a batch; the parts of all ranks, in rank order, are the batch.
fn part_of(batch: &[i64], rank: i64, ranks: i64) -> &[i64] {
    let part = batch.len() / ranks as usize;
    &batch[rank as usize * part..][..part]
}

impl Batch {
    /// The batch with the same size on all ranks: keys of different numbers could not be gathered, so the smallest
    /// batch decides, and what of it can be mixed. It may be empty.
    pub(super) fn of_one_size(self, settings: &Settings, world: &World) -> Result<Batch> {
        let Batch { images: BatchImages::Cut(crops), labels, broken } = self else { return Ok(self) };
        let least = world.least(crops[0].size()[0])?;
        let size = (2..=least).rev().find(|size| settings.check_can_mix(*size).is_ok()).unwrap_or(0);
        let cut = crops.iter().map(|crop| crop.f_narrow(0, 0, size)).collect::<std::result::Result<_, _>>()?;
        let labels = labels.map(|labels| labels.f_narrow(0, 0, size)).transpose()?;
        Ok(Batch { images: BatchImages::Cut(cut), labels, broken: world.sum(broken)? })
    }

    /// Whether so many of the files are broken that nothing is left to contrast.
    pub(super) fn is_empty(&self) -> bool {
        match &self.images {
            BatchImages::Whole(images) => images.size()[0] == 0,
            BatchImages::Cut(crops) => crops[0].size()[0] == 0,
        }
    }

    /// The views of this batch; `seed` gives the seed for a purpose.
    pub(super) fn views(&self, settings: &Settings, seed: impl Fn(Purpose) -> i64) -> Result<Views> {
        let mut views = Vec::new();
        for (index, recipe) in settings.view_recipes().iter().enumerate() {
            match index {
                0 => tch::manual_seed(seed(Purpose::FirstView)),
                1 => tch::manual_seed(seed(Purpose::SecondView)),
                2 => tch::manual_seed(seed(Purpose::LocalViews)),
                _ => {} // local views are drawn one after the other
            }
            views.push(self.view(recipe, index)?);
        }
        let local = views.split_off(2);
        let global = views.try_into().map_err(|_| "there are always two global views")?;
        Ok(Views { global, local })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ranks_see_every_image_of_an_epoch_once() {
        for (count, batch_size, ranks) in [(40, 8, 2), (36, 12, 3), (50, 12, 4), (7, 6, 1)] {
            let batches = Batches::new(count, batch_size, 3, 5).unwrap();
            let mut seen: Vec<i64> = (0..ranks)
                .flat_map(|rank| batches.iter().flat_map(move |batch| part_of(batch, rank, ranks)))
                .copied()
                .collect();
            seen.sort_unstable();
            let mut all: Vec<i64> = batches.iter().flatten().copied().collect();
            all.sort_unstable();
            assert_eq!(seen, all);
            seen.dedup();
            assert_eq!(seen.len(), (count / batch_size * batch_size) as usize, "no image twice");
        }
    }
}
