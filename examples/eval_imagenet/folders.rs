//! Images in folders, which stream from their files.

use std::path::PathBuf;
use std::sync::Arc;

use clap::{Args, ValueEnum};
use patchmix::Error;
use patchmix::augment::ViewRecipe;
use patchmix::data::{Batches, CropStream, CroppedBatch, Cut, Split, StreamConfig};
use patchmix::eval::{FolderConfig, FolderFeatures, LinearConfig, evaluation_cut, folder_features};
use patchmix::random::{Purpose, seed_for};
use patchmix::vit::Pooling;
use tch::Device;

use crate::Result;
use crate::dataset_name::DatasetName;
use crate::encoder::LoadedEncoder;
use crate::evaluate::images::{ImageOptions, Images, LabelledFeatures, Views};
use crate::evaluate::report::progress;
use crate::image_files::ImageFiles;

/// Options that name the folders, and how they are read.
#[derive(Debug, Args)]
pub(crate) struct FolderOptions {
    /// Folder that holds train/CLASS/ and val/CLASS/ with jpeg, png or webp files [default: the run's]
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Use N training images, spread over the classes; 0 for all [default: the run's, if the folder is, else 0]
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = clap::value_parser!(i64).range(0..))]
    limit: Option<i64>,
    /// Threads that decode; 0 for one a processor
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = clap::value_parser!(u16).range(0..=1024))]
    workers: u16,
    /// Images that go through the encoder together when they are measured
    #[arg(long, value_name = "N", default_value_t = 256, value_parser = clap::value_parser!(i64).range(1..=65_536))]
    encoder_batch: i64,
    /// Broken files are named and left out; more than N are an error
    #[arg(long, value_name = "N", default_value_t = 100)]
    max_broken_images: usize,
}

/// Images in files.
pub(crate) struct FolderImages {
    files: ImageFiles,
    encoder_batch: i64,
    device: Device,
}

impl ImageOptions for FolderOptions {
    type Images = FolderImages;
    const LINEAR_BATCH: i64 = 1024;
    /// As published for ImageNet; for CIFAR it is 0.05.
    const LINEAR_RATE: f64 = 0.02;

    fn open(&self, encoder: &LoadedEncoder, device: Device) -> Result<FolderImages> {
        let run = encoder.run.as_ref().filter(|run| run.dataset == DatasetName::ImageFolder);
        let Some(data) = self.data.as_ref().or(run.map(|run| &run.data)) else {
            return Err(
                "the checkpoint is of no run on image folders: add --data DIR, the folder that holds train/ and \
                        val/; CIFAR and the built-in images are for the program eval_cifar"
                    .into(),
            );
        };
        // The number of images of the run is that of its own folder.
        let limit = self.limit.or(run.filter(|run| run.data == *data).map(|run| run.limit)).unwrap_or(0);
        let files = ImageFiles::open(data, limit, self.workers.into(), self.max_broken_images)?;
        Ok(FolderImages { files, encoder_batch: self.encoder_batch, device })
    }
}

impl Images for FolderImages {
    fn name(&self) -> String {
        DatasetName::ImageFolder.to_possible_value().map_or_else(String::new, |name| name.get_name().to_owned())
    }

    fn count(&self, split: Split) -> i64 {
        self.files.part(split).len()
    }

    fn classes(&self) -> i64 {
        self.files.train.classes()
    }

    fn preparation(&self, image_size: i64) -> String {
        match evaluation_cut(image_size) {
            Cut::Centre { resize, size } => format!(", shorter side resized to {resize} px, centre of {size} px"),
            Cut::Random { .. } => String::new(),
        }
    }

    fn features(&self, loaded: &LoadedEncoder, split: Split, poolings: &[Pooling]) -> Result<LabelledFeatures> {
        let folder = self.files.part(split);
        let config = FolderConfig {
            mean: loaded.mean,
            std: loaded.std,
            batch_size: self.encoder_batch,
            stream: self.reading(self.encoder_batch),
        };
        let part = if split == Split::Train { "training images" } else { "test images" };
        let bar = progress(folder.len() as u64, part);
        let FolderFeatures { features, labels, .. } =
            folder_features(&loaded.encoder, poolings, folder, &config, |batch| {
                bar.inc((batch.positions.len() + batch.broken.len()) as u64);
                self.files.report(&batch.broken, |line| bar.suspend(|| eprintln!("{line}")))
            })?;
        bar.finish_and_clear();
        Ok(LabelledFeatures { features, labels })
    }

    fn views<'a>(&'a self, view: &'a ViewRecipe, config: &'a LinearConfig) -> Views<'a> {
        let mut epochs = Epochs { images: self, view, config, at: None };
        Box::new(move |epoch, _| {
            let (step, batch) = epochs.next_batch(epoch)?;
            self.files.report(&batch.broken, |line| eprintln!("{line}"))?;
            tch::manual_seed(seed_for(config.seed, epoch, step, Purpose::FirstView));
            let crops = batch.crops_on(self.device)?;
            Ok((view.view_of_crops(&crops[0])?, batch.labels_on(self.device)?))
        })
    }

    fn broken(&self) -> Option<usize> {
        Some(self.files.broken_count())
    }
}

impl FolderImages {
    /// How files are read; for a GPU, into memory that it can copy from by itself.
    fn reading(&self, batch_size: i64) -> StreamConfig {
        StreamConfig { pinned: self.device.is_cuda(), ..self.files.reading(batch_size) }
    }
}

/// The batches of one epoch after the other, in the order in which the linear probe asks for them.
struct Epochs<'a> {
    images: &'a FolderImages,
    view: &'a ViewRecipe,
    config: &'a LinearConfig,
    /// The epoch under way, the number of its next batch, and its batches.
    at: Option<(u64, u64, CropStream)>,
}

impl Epochs<'_> {
    /// The next batch of `epoch`, which follows the batch before or begins an epoch, and its number.
    fn next_batch(&mut self, epoch: u64) -> patchmix::Result<(u64, CroppedBatch)> {
        // Random numbers of step 0 are those of the crops.
        let (step, mut stream) = match self.at.take() {
            Some((under_way, step, stream)) if under_way == epoch => (step, stream),
            _ => (1, self.begin(epoch)?),
        };
        let problem = |problem: &str| Error::Data { path: PathBuf::from("train"), problem: problem.to_owned() };
        let batch = stream.next().ok_or_else(|| problem("ended before the epoch"))??;
        self.at = Some((epoch, step + 1, stream));
        Ok((step, batch))
    }

    fn begin(&self, epoch: u64) -> patchmix::Result<CropStream> {
        let LinearConfig { batch_size, seed, .. } = *self.config;
        let folder = &self.images.files.train;
        let batches = Batches::new(folder.len(), batch_size, seed, epoch)?;
        let batches = batches.iter().map(<[i64]>::to_vec).collect();
        let cut = Cut::random(self.view, seed_for(seed, epoch, 0, Purpose::FirstView) as u64);
        CropStream::start(Arc::clone(folder), batches, vec![cut], &self.images.reading(batch_size))
    }
}
