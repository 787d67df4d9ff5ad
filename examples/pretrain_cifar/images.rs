//! The images of a run, and what nearest neighbours make of them.

use patchmix::augment::{IMAGENET_MEAN, IMAGENET_STD, normalize};
use patchmix::data::{Dataset, Split, cifar10, cifar100, procedural};
use patchmix::eval::{features, knn_accuracy};
use patchmix::vit::Vit;
use tch::{Device, Tensor};

use crate::Result;
use crate::args::Arguments;
use crate::download::{self, Archive};
use crate::settings::{DatasetName, Settings};

/// Built-in images: enough to learn from in minutes.
const BUILTIN_TRAIN: i64 = 4096;
const BUILTIN_TEST: i64 = 1000;
/// The built-in images are the same for every run, so that runs can be compared.
const BUILTIN_SEEDS: (u64, u64) = (1, 2);

/// The published classifier: k = 20 neighbours, temperature 0.07.
const NEIGHBOURS: i64 = 20;
const TEMPERATURE: f64 = 0.07;
const EVALUATION_BATCH: i64 = 500;

/// Images to train on and to measure on, on the device.
pub(crate) struct Images {
    pub(crate) train: Dataset,
    pub(crate) test: Dataset,
}

impl Images {
    pub(crate) fn load(settings: &Settings, arguments: &Arguments, device: Device) -> Result<Images> {
        let limit = (settings.limit > 0).then_some(settings.limit);
        let (train, test) = match settings.dataset {
            DatasetName::Builtin => {
                if arguments.download {
                    return Err("--download fetches cifar10 or cifar100; the built-in images need none".into());
                }
                let train = procedural(limit.unwrap_or(BUILTIN_TRAIN), settings.image_size, BUILTIN_SEEDS.0)?;
                (train, procedural(BUILTIN_TEST, settings.image_size, BUILTIN_SEEDS.1)?)
            }
            DatasetName::Cifar10 | DatasetName::Cifar100 => {
                let (read, archive): (fn(_, _, _) -> _, _) = match settings.dataset {
                    DatasetName::Cifar10 => (cifar10, Archive::Cifar10),
                    _ => (cifar100, Archive::Cifar100),
                };
                if arguments.download {
                    download::cifar(archive, &settings.data, arguments.mirror.as_deref())?;
                }
                let hint = |error: patchmix::Error| {
                    let hint =
                        if arguments.download { "" } else { " (--data names the folder, --download fetches it)" };
                    format!("{error}{hint}")
                };
                let train = read(&settings.data, Split::Train, limit).map_err(hint)?;
                (train, read(&settings.data, Split::Test, None).map_err(hint)?)
            }
        };
        if train.len() < settings.batch_size {
            let (batch, count) = (settings.batch_size, train.len());
            return Err(format!("--batch-size {batch}: there are only {count} training images").into());
        }
        Ok(Images { train: train.to_device(device)?, test: test.to_device(device)? })
    }

    /// Top-1 accuracy in percent of nearest neighbours among the encoder's features.
    pub(crate) fn knn_of_encoder(&self, encoder: &Vit) -> Result<f64> {
        self.knn(|dataset| Ok(features(encoder, dataset, IMAGENET_MEAN, IMAGENET_STD, EVALUATION_BATCH)?))
    }

    /// Top-1 accuracy in percent of nearest neighbours among the pixels themselves.
    pub(crate) fn knn_of_pixels(&self) -> Result<f64> {
        self.knn(|dataset| Ok(normalize(&dataset.images, IMAGENET_MEAN, IMAGENET_STD)?.f_flatten(1, -1)?))
    }

    fn knn(&self, features: impl Fn(&Dataset) -> Result<Tensor>) -> Result<f64> {
        let (train, test) = (features(&self.train)?, features(&self.test)?);
        let classes = self.train.classes();
        let accuracy = knn_accuracy(
            (&train, &self.train.labels),
            (&test, &self.test.labels),
            classes,
            &[NEIGHBOURS],
            TEMPERATURE,
        )?;
        let top1 = accuracy.first().map_or(f64::NAN, |accuracy| accuracy.top1);
        Ok((top1 * 10_000.0).round() / 100.0)
    }
}
