//! Images that fit in memory: CIFAR-10, CIFAR-100, and built-in ones.

use indicatif::ProgressBar;
use patchmix::data::{Cut, Dataset, Split, cifar10, cifar100, procedural};
use patchmix::eval::{evaluation_view, features};
use patchmix::vit::Pooling;
use tch::{Device, Tensor};

use super::{Batch, BatchImages, Decoded, DecodedBatches, FeatureBatch, ImageSource, Labeled, Request, at_most};
use crate::Result;
use crate::download::{self, Archive};
use crate::encoder::Frozen;
use crate::settings::DatasetName;

/// Built-in images: enough to learn from in minutes.
const BUILTIN_TRAIN: i64 = 4096;
const BUILTIN_TEST: i64 = 1000;
/// Every run has the same built-in images, so that runs can be compared.
const BUILTIN_SEEDS: (u64, u64) = (1, 2);

/// A data set in memory, on the device.
pub(super) struct MemoryImages {
    dataset: DatasetName,
    train: Dataset,
    test: Dataset,
}

impl MemoryImages {
    pub(super) fn load(request: &Request<'_>, device: Device) -> Result<MemoryImages> {
        let [train, test] = [Split::Train, Split::Test].map(|split| read(request, split));
        let (train, test) = (train?.to_device(device)?, test?.to_device(device)?);
        Ok(MemoryImages { dataset: request.dataset, train, test })
    }

    fn part(&self, split: Split) -> &Dataset {
        if split == Split::Train { &self.train } else { &self.test }
    }
}

/// One part of the data set, on the CPU.
fn read(request: &Request<'_>, split: Split) -> Result<Dataset> {
    let limit = (request.limit > 0 && split == Split::Train).then_some(request.limit);
    let (read, archive): (fn(_, _, _) -> _, _) = match request.dataset {
        DatasetName::Cifar10 => (cifar10, Archive::Cifar10),
        DatasetName::Cifar100 => (cifar100, Archive::Cifar100),
        DatasetName::Builtin => return draw(request, split, limit),
        _ => return Err("images in files are not read into memory".into()),
    };
    if request.download {
        download::cifar(archive, request.data, request.mirror)?;
    }
    let hint = if request.download { "" } else { " (--data names the folder, --download fetches it)" };
    read(request.data, split, limit).map_err(|error: patchmix::Error| format!("{error}{hint}").into())
}

fn draw(request: &Request<'_>, split: Split, limit: Option<i64>) -> Result<Dataset> {
    if request.download {
        return Err("--download fetches cifar10 or cifar100; the built-in images need none".into());
    }
    let (count, seed) = match split {
        Split::Train => (limit.unwrap_or(BUILTIN_TRAIN), BUILTIN_SEEDS.0),
        Split::Test => (BUILTIN_TEST, BUILTIN_SEEDS.1),
    };
    Ok(procedural(count, request.image_size, seed)?)
}

impl ImageSource for MemoryImages {
    fn name(&self) -> String {
        self.dataset.name()
    }

    fn is_folder(&self) -> bool {
        false
    }

    fn count(&self, split: Split) -> i64 {
        self.part(split).len()
    }

    fn class_names(&self) -> &[String] {
        &self.train.class_names
    }

    fn identity(&self) -> Result<String> {
        Ok(format!("{} images", self.train.len()))
    }

    fn broken(&self) -> Option<usize> {
        None
    }

    fn batches<'a>(&'a self, positions: Vec<Vec<i64>>, _: Vec<Cut>) -> Result<DecodedBatches<'a>> {
        Ok(Box::new(positions.into_iter().map(move |positions| {
            let on_device = move || {
                let (images, labels) = self.train.select(&positions)?;
                Ok(Batch { images: BatchImages::Whole(images), labels, broken: 0 })
            };
            Ok(Box::new(on_device) as Decoded<'a>)
        })))
    }

    fn dataset(&self, split: Split, count: i64, _: i64) -> Result<Dataset> {
        let part = self.part(split);
        Ok(part.spread(at_most(count, part.len()))?)
    }

    fn evaluated(&self, images: &Tensor, image_size: i64) -> Result<Tensor> {
        Ok(evaluation_view(images, image_size)?)
    }

    fn features(
        &self,
        Frozen { encoder, mean, std }: Frozen<'_>,
        poolings: &[Pooling],
        split: Split,
        count: i64,
        batch: i64,
        _: &ProgressBar,
    ) -> Result<Labeled> {
        let images = self.dataset(split, count, encoder.config().image_size)?;
        let features = poolings.iter().map(|pooling| features(encoder, *pooling, &images, mean, std, batch));
        Ok(Labeled { features: features.collect::<patchmix::Result<_>>()?, labels: images.labels })
    }

    fn stream_features(
        &self,
        Frozen { encoder, mean, std }: Frozen<'_>,
        pooling: Pooling,
        split: Split,
        batch: i64,
        bar: &ProgressBar,
        take: &mut dyn FnMut(FeatureBatch) -> patchmix::Result<()>,
    ) -> Result<()> {
        let part = self.part(split);
        for first in (0..part.len()).step_by(batch as usize) {
            let count = batch.min(part.len() - first);
            let images = part.images.f_narrow(0, first, count)?;
            let labels = part.labels.f_narrow(0, first, count)?;
            let some = Dataset { images, labels, class_names: Vec::new() };
            let features = features(encoder, pooling, &some, mean, std, batch)?;
            bar.inc(count as u64);
            take(FeatureBatch { features, labels: some.labels, paths: None })?;
        }
        Ok(())
    }
}
