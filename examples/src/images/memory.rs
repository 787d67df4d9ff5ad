//! Images that fit in memory: CIFAR-10, CIFAR-100, STL-10, and built-in ones.

use indicatif::ProgressBar;
use patchmix::data::{Cut, Dataset, Split, cifar10, cifar100, procedural, stl10, stl10_unlabeled};
use patchmix::eval::{evaluation_view, features};
use patchmix::vit::Pooling;
use tch::{Device, Tensor};

use super::{
    Batch, BatchImages, Decoded, DecodedBatches, FeatureBatch, ImageSource, Labeled, Request, Voters, at_most,
};
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
    /// To train on, if these are not the labeled training images.
    unlabeled: Option<Tensor>,
    train: Dataset,
    test: Dataset,
}

impl MemoryImages {
    pub(super) fn load(request: &Request<'_>, device: Device) -> Result<MemoryImages> {
        let [train, test] = [Split::Train, Split::Test].map(|split| read(request, split));
        let (train, test) = (train?.to_device(device)?, test?.to_device(device)?);
        let unlabeled = match (request.dataset, request.to_pretrain) {
            (DatasetName::Stl10, true) => {
                let images = stl10_unlabeled(request.data, limit(request)).map_err(|error| hinted(request, &error))?;
                Some(images.f_to_device(device)?)
            }
            _ => None,
        };
        Ok(MemoryImages { dataset: request.dataset, unlabeled, train, test })
    }

    fn part(&self, split: Split) -> &Dataset {
        if split == Split::Train { &self.train } else { &self.test }
    }
}

/// How many training images are asked for, if not all.
fn limit(request: &Request<'_>) -> Option<i64> {
    (request.limit > 0).then_some(request.limit)
}

/// One part of the labeled images, on the CPU.
fn read(request: &Request<'_>, split: Split) -> Result<Dataset> {
    // A pre-training on STL-10 limits the images that it trains on, and all training images vote.
    let is_limited = split == Split::Train && !(request.dataset == DatasetName::Stl10 && request.to_pretrain);
    let limit = limit(request).filter(|_| is_limited);
    let (read, archive): (fn(_, _, _) -> _, _) = match request.dataset {
        DatasetName::Cifar10 => (cifar10, Archive::Cifar10),
        DatasetName::Cifar100 => (cifar100, Archive::Cifar100),
        DatasetName::Stl10 => (stl10, Archive::Stl10),
        DatasetName::Builtin => return draw(request, split, limit),
        _ => return Err("images in files are not read into memory".into()),
    };
    if request.download {
        download::data_files(archive, request.data, request.mirror)?;
    }
    Ok(read(request.data, split, limit).map_err(|error| hinted(request, &error))?)
}

/// An error in reading files, with the options that name and fetch them.
fn hinted(request: &Request<'_>, error: &patchmix::Error) -> String {
    let hint = if request.download { "" } else { " (--data names the folder, --download fetches it)" };
    format!("{error}{hint}")
}

/// The images at these positions, which are below their number.
fn select(images: &Tensor, positions: &[i64]) -> Result<Tensor> {
    let positions = Tensor::f_from_slice(positions)?.f_to_device(images.device())?;
    Ok(images.f_index_select(0, &positions)?)
}

fn draw(request: &Request<'_>, split: Split, limit: Option<i64>) -> Result<Dataset> {
    if request.download {
        return Err("--download fetches cifar10, cifar100 or stl10; the built-in images need none".into());
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

    fn to_train_on(&self) -> i64 {
        self.unlabeled.as_ref().map_or(self.train.len(), |images| images.size()[0])
    }

    fn is_labeled(&self) -> bool {
        self.unlabeled.is_none()
    }

    fn voters(&self) -> Voters {
        Voters::Training
    }

    fn count(&self, split: Split) -> i64 {
        self.part(split).len()
    }

    fn class_names(&self) -> &[String] {
        &self.train.class_names
    }

    fn identity(&self) -> Result<String> {
        Ok(format!("{} images", self.to_train_on()))
    }

    fn broken(&self) -> Option<usize> {
        None
    }

    fn batches<'a>(&'a self, positions: Vec<Vec<i64>>, _: Vec<Cut>) -> Result<DecodedBatches<'a>> {
        Ok(Box::new(positions.into_iter().map(move |positions| {
            let on_device = move || {
                let (images, labels) = match &self.unlabeled {
                    Some(images) => (select(images, &positions)?, None),
                    None => self.train.select(&positions).map(|(images, labels)| (images, Some(labels)))?,
                };
                Ok(Batch { images: BatchImages::Whole(images), labels, broken: 0 })
            };
            Ok(Box::new(on_device) as Decoded<'a>)
        })))
    }

    /// The labeled ones are among them.
    fn examples(&self, count: i64, image_size: i64) -> Result<Tensor> {
        Ok(self.dataset(Split::Train, count, image_size)?.images)
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
            take(FeatureBatch { features, labels: Some(some.labels), paths: None })?;
        }
        Ok(())
    }
}
