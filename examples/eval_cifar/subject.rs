//! What is measured, and the images that it is measured on.

use std::path::{Path, PathBuf};

use patchmix::data::{Dataset, Split};
use patchmix::eval::features;
use patchmix::vit::Pooling;
use tch::{Device, Tensor};

use crate::Result;
use crate::args::SubjectArguments;
use crate::dataset_name::DatasetName;
use crate::datasets::ImageSource;
use crate::device::choose_device;
use crate::encoder::{LoadedEncoder, load_encoder};

pub(crate) const EVALUATION_BATCH: i64 = 500;

/// An encoder, and labelled images to train on and to measure on, on one device.
pub(crate) struct Subject {
    pub(crate) encoder: LoadedEncoder,
    pub(crate) dataset: DatasetName,
    pub(crate) train: Dataset,
    pub(crate) test: Dataset,
    pub(crate) device: Device,
}

impl Subject {
    /// Loads everything that the options name; what they leave open is as in the run that the encoder is from.
    pub(crate) fn load(arguments: &SubjectArguments) -> Result<Subject> {
        check_json(arguments.json.as_deref())?;
        if arguments.threads > 0 {
            tch::set_num_threads(arguments.threads.into());
        }
        let device = choose_device(&arguments.device)?;
        let encoder = load_encoder(&arguments.checkpoint, arguments.weights, device)?;
        let Some(dataset) = arguments.dataset.or(encoder.run.as_ref().map(|run| run.dataset)) else {
            let path = arguments.checkpoint.display();
            return Err(format!("{path} does not say which images: add --dataset cifar10, cifar100 or builtin").into());
        };
        let run = encoder.run.as_ref().filter(|run| run.dataset == dataset);
        let data = arguments.data.clone().or(run.map(|run| run.data.clone())).unwrap_or(PathBuf::from("data"));
        let source = ImageSource {
            dataset,
            data: &data,
            limit: arguments.limit.or(run.map(|run| run.limit)).unwrap_or(0),
            image_size: encoder.encoder.config().image_size,
            download: arguments.download,
            mirror: None,
        };
        let (train, test) = (source.load(Split::Train)?, source.load(Split::Test)?);
        let (train, test) = (train.to_device(device)?, test.to_device(device)?);
        Ok(Subject { encoder, dataset, train, test, device })
    }

    /// The frozen encoder's features of the images.
    pub(crate) fn features(&self, pooling: Pooling, images: &Dataset) -> Result<Tensor> {
        let LoadedEncoder { encoder, mean, std, .. } = &self.encoder;
        Ok(features(encoder, pooling, images, *mean, *std, EVALUATION_BATCH)?)
    }

    /// An error unless the training images make a batch.
    pub(crate) fn check_batch_size(&self, batch_size: i64) -> Result<()> {
        let count = self.train.len();
        if (1..=count).contains(&batch_size) {
            return Ok(());
        }
        Err(format!("--batch-size {batch_size}: choose between 1 and the number of training images, {count}").into())
    }
}

/// An error now rather than after an hour's work.
fn check_json(json: Option<&Path>) -> Result<()> {
    let Some(path) = json else { return Ok(()) };
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if path.is_dir() || !folder.is_dir() {
        return Err(format!("--json {}: name a file in a folder that exists", path.display()).into());
    }
    Ok(())
}
