//! What is measured, and the images that it is measured on.

use std::path::Path;

use patchmix::data::Split;
use tch::Device;

use super::Result;
use super::args::SubjectArguments;
use super::device::choose_device;
use super::encoder::{LoadedEncoder, load_encoder};
use super::images::{ImageOptions, Images};

/// An encoder, and labelled images to learn from and to measure on.
pub(crate) struct Subject<I> {
    pub(crate) encoder: LoadedEncoder,
    pub(crate) images: I,
    pub(crate) device: Device,
}

impl<I: Images> Subject<I> {
    /// Loads everything that the options name; what they leave open is as in the run that the encoder is from.
    pub(crate) fn load<O: ImageOptions<Images = I>>(arguments: &SubjectArguments<O>) -> Result<Subject<I>> {
        check_json(arguments.json.as_deref())?;
        if arguments.threads > 0 {
            tch::set_num_threads(arguments.threads.into());
        }
        let device = choose_device(&arguments.device)?;
        let encoder = load_encoder(&arguments.checkpoint, arguments.weights, device)?;
        let images = arguments.images.open(&encoder, device)?;
        Ok(Subject { encoder, images, device })
    }

    /// An error unless the training images make a batch.
    pub(crate) fn check_batch_size(&self, batch_size: i64) -> Result<()> {
        let count = self.images.count(Split::Train);
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
