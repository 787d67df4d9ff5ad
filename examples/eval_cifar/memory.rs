//! Images that fit in memory.

use clap::{Args, ValueEnum};
use patchmix::augment::ViewRecipe;
use patchmix::data::{Dataset, Split};
use patchmix::eval::{LinearConfig, features};
use patchmix::random::{Purpose, seed_for};
use patchmix::vit::Pooling;
use tch::Device;

use crate::Result;
use crate::chosen_images;
use crate::dataset_name::DatasetName;
use crate::encoder::LoadedEncoder;
use crate::evaluate::images::{ImageOptions, Images, LabelledFeatures, Views};

pub(crate) const EVALUATION_BATCH: i64 = 500;

/// Options that name a data set.
#[derive(Debug, Args)]
pub(crate) struct MemoryOptions {
    #[command(flatten)]
    images: chosen_images::ImageOptions,
    /// Use the first N training images; 0 for all [default: the run's, if the data set is, else 0]
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = clap::value_parser!(i64).range(0..))]
    limit: Option<i64>,
}

/// A data set in memory, on the device.
pub(crate) struct MemoryImages {
    dataset: DatasetName,
    pub(crate) train: Dataset,
    pub(crate) test: Dataset,
}

impl ImageOptions for MemoryOptions {
    type Images = MemoryImages;
    const LINEAR_BATCH: i64 = 256;
    const LINEAR_RATE: f64 = 0.05;

    fn open(&self, encoder: &LoadedEncoder, device: Device) -> Result<MemoryImages> {
        let chosen = self.images.choose(encoder, self.limit)?;
        if chosen.dataset == DatasetName::ImageFolder {
            let advice =
                "use the program eval_imagenet, or name other images with --dataset cifar10, cifar100 or builtin";
            return Err(format!("images in folders are not read into memory: {advice}").into());
        }
        let [train, test] = [Split::Train, Split::Test].map(|split| chosen.load(split));
        Ok(MemoryImages { dataset: chosen.dataset, train: train?.to_device(device)?, test: test?.to_device(device)? })
    }
}

impl MemoryImages {
    fn part(&self, split: Split) -> &Dataset {
        if split == Split::Train { &self.train } else { &self.test }
    }
}

impl Images for MemoryImages {
    fn name(&self) -> String {
        self.dataset.to_possible_value().map_or_else(String::new, |name| name.get_name().to_owned())
    }

    fn count(&self, split: Split) -> i64 {
        self.part(split).len()
    }

    fn classes(&self) -> i64 {
        self.train.classes()
    }

    fn preparation(&self, image_size: i64) -> String {
        let own = self.test.images.size()[3];
        if own == image_size { String::new() } else { format!(", scaled from {own} to {image_size} px") }
    }

    fn features(&self, loaded: &LoadedEncoder, split: Split, poolings: &[Pooling]) -> Result<LabelledFeatures> {
        let LoadedEncoder { encoder, mean, std, .. } = loaded;
        let images = self.part(split);
        let features =
            poolings.iter().map(|pooling| features(encoder, *pooling, images, *mean, *std, EVALUATION_BATCH));
        Ok(LabelledFeatures {
            features: features.collect::<patchmix::Result<_>>()?,
            labels: images.labels.shallow_clone(),
        })
    }

    fn views<'a>(&'a self, view: &'a ViewRecipe, config: &'a LinearConfig) -> Views<'a> {
        let mut step = 0;
        Box::new(move |epoch, positions| {
            step += 1;
            tch::manual_seed(seed_for(config.seed, epoch, step, Purpose::FirstView));
            let (images, labels) = self.train.select(positions)?;
            Ok((view.view(&images)?, labels))
        })
    }

    fn broken(&self) -> Option<usize> {
        None
    }
}
