//! The images of a run, in memory or in files, and what nearest neighbours make of them.

use patchmix::augment::{IMAGENET_MEAN, IMAGENET_STD, normalize};
use patchmix::data::{Batches, Dataset, Split};
use patchmix::eval::{features, knn_accuracy};
use patchmix::vit::{Pooling, Vit};
use tch::{Device, Tensor};

use super::Result;
use super::args::Arguments;
use super::dataset_name::DatasetName;
use super::datasets::ImageSource;
use super::folders::Folders;
use super::settings::Settings;
use super::state::Position;
use super::views::{Batch, BatchImages, Loaded};
use super::world::World;

/// The published classifier: k = 20 neighbours, temperature 0.07.
const NEIGHBOURS: i64 = 20;
const TEMPERATURE: f64 = 0.07;
pub(crate) const EVALUATION_BATCH: i64 = 500;

/// Images to train on and to measure on.
pub(crate) enum Images {
    /// In memory, on the device.
    Memory { train: Dataset, test: Dataset },
    /// In files, decoded when they are needed.
    Folders(Folders),
}

/// Features `[N, D]` of images, and their classes `[N]`.
pub(crate) type Labelled = (Tensor, Tensor);

impl Images {
    pub(crate) fn load(settings: &Settings, arguments: &Arguments, device: Device) -> Result<Images> {
        let images = match settings.dataset {
            DatasetName::ImageFolder => Images::Folders(Folders::open(settings, device)?),
            dataset => {
                let source = ImageSource {
                    dataset,
                    data: &settings.data,
                    limit: settings.limit,
                    image_size: settings.image_size,
                    download: arguments.download,
                    mirror: arguments.mirror.as_deref(),
                };
                let [train, test] = [Split::Train, Split::Test].map(|split| source.load(split));
                Images::Memory { train: train?.to_device(device)?, test: test?.to_device(device)? }
            }
        };
        let (batch, count) = (settings.batch_size, images.train_count());
        if count < batch {
            return Err(format!("--batch-size {batch}: there are only {count} training images").into());
        }
        Ok(images)
    }

    pub(crate) fn train_count(&self) -> i64 {
        match self {
            Images::Memory { train, .. } => train.len(),
            Images::Folders(folders) => folders.files.train.len(),
        }
    }

    /// Which training images these are: their number, and what tells names of files from others.
    pub(crate) fn identity(&self) -> Result<String> {
        Ok(match self {
            Images::Memory { train, .. } => format!("{} images", train.len()),
            Images::Folders(folders) => folders.identity()?,
        })
    }

    pub(crate) fn test_count(&self) -> i64 {
        match self {
            Images::Memory { test, .. } => test.len(),
            Images::Folders(folders) => folders.files.test.len(),
        }
    }

    /// This rank's part of the batches of an epoch from `position` on, in the order that the seed and the epoch decide.
    pub(crate) fn batches<'a>(
        &'a self,
        settings: &Settings,
        position: &Position,
        world: &World,
    ) -> Result<Box<dyn Iterator<Item = Result<Loaded>> + 'a>> {
        let batches = Batches::new(self.train_count(), settings.batch_size, settings.seed, position.epoch)?;
        let batches = batches.iter().skip(position.batch as usize);
        let batches: Vec<Vec<i64>> = batches.map(|batch| part_of(batch, world.rank, world.size).to_vec()).collect();
        match self {
            Images::Memory { .. } => {
                Ok(Box::new(batches.into_iter().map(|positions| Ok(Loaded::Positions(positions)))))
            }
            Images::Folders(folders) => Ok(Box::new(folders.batches(batches, settings, position.epoch)?)),
        }
    }

    /// The images of a batch on the device. Nothing waits for a GPU.
    pub(crate) fn on_device(&self, batch: &Loaded) -> Result<Batch> {
        match (self, batch) {
            (Images::Memory { train, .. }, Loaded::Positions(positions)) => {
                let (images, _labels) = train.select(positions)?;
                Ok(Batch { images: BatchImages::Whole(images), broken: 0 })
            }
            (Images::Folders(folders), Loaded::Crops(batch)) => folders.on_device(batch),
            _ => Err("the batch does not come from this data set".into()),
        }
    }

    /// Some training images, `[count, 3, H, W]` of `Uint8`, on the CPU, to be shown.
    pub(crate) fn shown(&self, count: i64, size: i64) -> Result<Tensor> {
        let images = match self {
            Images::Memory { train, .. } => train.images.f_narrow(0, 0, count.min(train.len()))?,
            // Some may be broken.
            Images::Folders(folders) => {
                let images = folders.files.centres(Split::Train, 8 * count, size)?.images;
                images.f_narrow(0, 0, count.min(images.size()[0]))?
            }
        };
        Ok(images.f_to_device(Device::Cpu)?)
    }

    /// Top-1 accuracy in percent of nearest neighbours among the encoder's features.
    pub(crate) fn knn_of_encoder(&self, encoder: &Vit, settings: &Settings) -> Result<f64> {
        match self {
            Images::Memory { train, test } => {
                let features = |dataset: &Dataset| -> Result<Labelled> {
                    let dataset = some(dataset, settings.knn_images)?;
                    let (mean, std) = (IMAGENET_MEAN, IMAGENET_STD);
                    let features = features(encoder, Pooling::ClassToken, &dataset, mean, std, EVALUATION_BATCH)?;
                    Ok((features, dataset.labels))
                };
                top1(features(train)?, features(test)?, train.classes())
            }
            Images::Folders(folders) => {
                let features = |split| folders.features(encoder, split, settings.knn_images);
                top1(features(Split::Train)?, features(Split::Test)?, folders.files.train.classes())
            }
        }
    }

    /// Top-1 accuracy in percent of nearest neighbours among the pixels themselves.
    pub(crate) fn knn_of_pixels(&self, settings: &Settings) -> Result<f64> {
        let pixels = |dataset: &Dataset| -> Result<Labelled> {
            let pixels = normalize(&dataset.images, IMAGENET_MEAN, IMAGENET_STD)?.f_flatten(1, -1)?;
            Ok((pixels, dataset.labels.shallow_clone()))
        };
        let (train, test) = match self {
            Images::Memory { train, test } => (some(train, settings.knn_images)?, some(test, settings.knn_images)?),
            Images::Folders(folders) => {
                let small = |split| folders.small(split, settings.knn_images);
                (small(Split::Train)?, small(Split::Test)?)
            }
        };
        top1(pixels(&train)?, pixels(&test)?, train.classes())
    }
}

/// A rank's part of a batch; the ranks' parts make the batch, one behind the other.
fn part_of(batch: &[i64], rank: i64, ranks: i64) -> &[i64] {
    let part = batch.len() / ranks as usize;
    &batch[rank as usize * part..][..part]
}

/// The first `count` images; all for 0.
fn some(dataset: &Dataset, count: i64) -> Result<Dataset> {
    Ok(dataset.take(if count == 0 { dataset.len() } else { count.min(dataset.len()) })?)
}

fn top1((train, train_labels): Labelled, (test, test_labels): Labelled, classes: i64) -> Result<f64> {
    let accuracy = knn_accuracy((&train, &train_labels), (&test, &test_labels), classes, &[NEIGHBOURS], TEMPERATURE)?;
    let top1 = accuracy.first().map_or(f64::NAN, |accuracy| accuracy.top1);
    Ok((top1 * 10_000.0).round() / 100.0)
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
