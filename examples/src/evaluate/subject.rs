//! The encoder under evaluation, and the images it is measured on.

use std::path::{Path, PathBuf};

use clap::Args;
use patchmix::data::Split;
use patchmix::vit::Pooling;
use tch::Device;

use crate::Result;
use crate::encoder::{EncoderOptions, LoadedEncoder};
use crate::images::{Choice, ENCODER_BATCH, ImageOptions, Images, Labeled, preparation};
use crate::machine::MachineOptions;
use crate::terminal::{progress, shown};

/// The options that all evaluations share.
#[derive(Debug, Args)]
pub(super) struct SubjectOptions {
    #[command(flatten)]
    encoder: EncoderOptions,
    #[command(flatten)]
    images: ImageOptions,
    /// Images that go through the frozen encoder together
    #[arg(long, value_name = "N", default_value_t = ENCODER_BATCH)]
    #[arg(value_parser = clap::value_parser!(i64).range(1..=65_536))]
    encoder_batch: i64,
    #[command(flatten)]
    machine: MachineOptions,
    /// Also write the results to this file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// An encoder, and labeled images to learn from and to measure on.
pub(super) struct Subject {
    pub(super) encoder: LoadedEncoder,
    /// Which images these are.
    pub(super) choice: Choice,
    pub(super) images: Images,
    pub(super) device: Device,
    /// Images that go through the encoder together when it is frozen.
    pub(super) encoder_batch: i64,
    /// File for the results.
    pub(super) json: Option<PathBuf>,
}

impl Subject {
    /// Loads the encoder and opens labeled images.
    pub(super) fn load(options: &SubjectOptions) -> Result<Subject> {
        Subject::load_with(options, ImageOptions::open)
    }

    /// The same with images that need no classes.
    pub(super) fn load_with_any_images(options: &SubjectOptions) -> Result<Subject> {
        Subject::load_with(options, ImageOptions::open_any)
    }

    fn load_with(
        options: &SubjectOptions,
        open: fn(&ImageOptions, &Choice, &LoadedEncoder, Device) -> Result<Images>,
    ) -> Result<Subject> {
        let SubjectOptions { encoder_batch, json, .. } = options;
        // Now, rather than after an hour of work.
        json.as_deref().map_or(Ok(()), check_json)?;
        let device = options.machine.set_up()?;
        let encoder = options.encoder.load(device)?;
        let choice = options.images.choose(&encoder)?;
        let images = open(&options.images, &choice, &encoder, device)?;
        Ok(Subject { encoder, choice, images, device, encoder_batch: *encoder_batch, json: json.clone() })
    }

    /// How images are prepared for the frozen encoder, in words.
    pub(super) fn preparation(&self) -> String {
        preparation(self.encoder.encoder.config().image_size)
    }

    /// Frozen features of one part of the images, by each of the poolings.
    pub(super) fn features(&self, split: Split, poolings: &[Pooling]) -> Result<Labeled> {
        let part = if split == Split::Train { "training images" } else { "test images" };
        let bar = progress(self.images.count(split) as u64, part);
        let features = self.images.features(self.encoder.frozen(), poolings, split, 0, self.encoder_batch, &bar);
        bar.finish_and_clear();
        features
    }

    /// An error unless the training images fill a batch.
    pub(super) fn check_batch_size(&self, batch_size: i64) -> Result<()> {
        let count = self.images.count(Split::Train);
        if (1..=count).contains(&batch_size) {
            return Ok(());
        }
        Err(format!("--batch-size {batch_size}: choose between 1 and the number of training images, {count}").into())
    }
}

/// An error unless a file can be at `path`.
fn check_json(path: &Path) -> Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if (path.exists() && !path.is_file()) || !folder.is_dir() {
        return Err(format!("--json {}: name a file in a folder that exists", shown(path)).into());
    }
    Ok(())
}
