//! Images in folders by class, which stream from their files.

use std::sync::Arc;

use patchmix::augment::{IMAGENET_MEAN, IMAGENET_STD};
use patchmix::data::{CropStream, CroppedBatch, Cut, Dataset, Split, StreamConfig};
use patchmix::eval::{FolderConfig, folder_features};
use patchmix::random::{Purpose, seed_for};
use patchmix::vit::{Pooling, Vit};
use sha2::{Digest, Sha256};
use tch::Device;

use super::Result;
use super::image_files::ImageFiles;
use super::images::{EVALUATION_BATCH, Labelled};
use super::settings::Settings;
use super::views::{Batch, BatchImages, Loaded, view_recipes};

/// Side of the images whose pixels are compared: those of whole photographs would be too many.
const SMALL: i64 = 32;
/// As many of them as fit into any memory.
const MOST_SMALL: i64 = 50_000;

/// Training and test images in files, and the device that they go to.
pub(crate) struct Folders {
    pub(crate) files: ImageFiles,
    device: Device,
}

impl Folders {
    /// `DIR/train` and `DIR/val`.
    pub(crate) fn open(settings: &Settings, device: Device) -> Result<Folders> {
        let most_broken = usize::try_from(settings.max_broken_images)?;
        let files = ImageFiles::open(&settings.data, settings.limit, settings.workers.into(), most_broken)?;
        Ok(Folders { files, device })
    }

    /// See [`Images::identity`](super::images::Images::identity).
    pub(crate) fn identity(&self) -> Result<String> {
        let train = &self.files.train;
        let mut names = Sha256::new();
        for position in 0..train.len() {
            let path = train.path(position)?;
            // As they are within their part, which may lie elsewhere the next time.
            let name = path.components().rev().take(2).map(|part| part.as_os_str().as_encoded_bytes());
            names.update(name.collect::<Vec<_>>().join(&b'/'));
            names.update(b"\n");
        }
        let digest: String = names.finalize().iter().take(6).map(|byte| format!("{byte:02x}")).collect();
        Ok(format!("{} files whose names have the digest {digest}", train.len()))
    }

    /// The crops of `batches`, decoded ahead of their use.
    pub(crate) fn batches<'a>(
        &'a self,
        batches: Vec<Vec<i64>>,
        settings: &Settings,
        epoch: u64,
    ) -> Result<impl Iterator<Item = Result<Loaded>> + use<'a>> {
        let seed = |view| seed_for(settings.seed, epoch, view, Purpose::Crops) as u64;
        let recipes = view_recipes(settings);
        let cuts = recipes.iter().zip(0..).map(|(recipe, view)| Cut::random(recipe, seed(view))).collect();
        let batch_size = batches.first().map_or(1, |batch| batch.len() as i64);
        let reading = self.pinned(self.files.reading_of_ranks(batch_size));
        let stream = CropStream::start(Arc::clone(&self.files.train), batches, cuts, &reading)?;
        Ok(stream.map(|batch| {
            let batch = batch?;
            self.files.report(&batch.broken, |line| eprintln!("{line}"))?;
            Ok(Loaded::Crops(batch))
        }))
    }

    /// The crops of a batch on the device. Nothing waits for a GPU.
    pub(crate) fn on_device(&self, batch: &CroppedBatch) -> Result<Batch> {
        Ok(Batch { images: BatchImages::Cut(batch.crops_on(self.device)?), broken: batch.broken.len() as u64 })
    }

    /// As the files are to be read; for a GPU, into memory that it can copy from by itself.
    fn pinned(&self, reading: StreamConfig) -> StreamConfig {
        StreamConfig { pinned: self.device.is_cuda(), ..reading }
    }

    /// Small images, of which one can compare the pixels: at most `count`, and not more than memory holds.
    pub(crate) fn small(&self, split: Split, count: i64) -> Result<Dataset> {
        Ok(self.files.centres(split, self.count(split, count).min(MOST_SMALL), SMALL)?.to_device(self.device)?)
    }

    /// The encoder's features of at most `count` images, 0 for all, by the published protocol.
    pub(crate) fn features(&self, encoder: &Vit, split: Split, count: i64) -> Result<Labelled> {
        let folder = self.files.part(split);
        let folder = Arc::new(folder.take(self.count(split, count))?);
        let config = FolderConfig {
            mean: IMAGENET_MEAN,
            std: IMAGENET_STD,
            batch_size: EVALUATION_BATCH,
            stream: self.pinned(self.files.reading(EVALUATION_BATCH)),
        };
        let report = |batch: &CroppedBatch| self.files.report(&batch.broken, |line| eprintln!("{line}"));
        let made = folder_features(encoder, &[Pooling::ClassToken], &folder, &config, report)?;
        let features = made.features.into_iter().next().ok_or("an encoder has features")?;
        Ok((features, made.labels))
    }

    fn count(&self, split: Split, count: i64) -> i64 {
        let all = self.files.part(split).len();
        if count == 0 { all } else { count.min(all) }
    }
}
