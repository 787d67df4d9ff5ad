//! The images of a run, and what nearest neighbours make of them.

use patchmix::augment::{IMAGENET_MEAN, IMAGENET_STD, normalize};
use patchmix::data::{Dataset, Split};
use patchmix::eval::{features, knn_accuracy};
use patchmix::vit::{Pooling, Vit};
use tch::{Device, Tensor};

use crate::Result;
use crate::args::Arguments;
use crate::datasets::ImageSource;
use crate::settings::Settings;

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
        let source = ImageSource {
            dataset: settings.dataset,
            data: &settings.data,
            limit: settings.limit,
            image_size: settings.image_size,
            download: arguments.download,
            mirror: arguments.mirror.as_deref(),
        };
        let (train, test) = (source.load(Split::Train)?, source.load(Split::Test)?);
        if train.len() < settings.batch_size {
            let (batch, count) = (settings.batch_size, train.len());
            return Err(format!("--batch-size {batch}: there are only {count} training images").into());
        }
        Ok(Images { train: train.to_device(device)?, test: test.to_device(device)? })
    }

    /// Top-1 accuracy in percent of nearest neighbours among the encoder's features.
    pub(crate) fn knn_of_encoder(&self, encoder: &Vit) -> Result<f64> {
        self.knn(|dataset| {
            let (pooling, batch_size) = (Pooling::ClassToken, EVALUATION_BATCH);
            Ok(features(encoder, pooling, dataset, IMAGENET_MEAN, IMAGENET_STD, batch_size)?)
        })
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
