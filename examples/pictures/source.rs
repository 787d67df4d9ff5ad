//! The encoder that is looked at, and the images that it looks at.

use std::path::PathBuf;

use clap::Args;
use patchmix::data::{Dataset, Split, epoch_order};
use patchmix::eval::features;
use patchmix::vit::Pooling;
use tch::{Device, Tensor};

use crate::Result;
use crate::chosen_images::ImageOptions;
use crate::dataset_name::DatasetName;
use crate::device::choose_device;
use crate::encoder::{LoadedEncoder, Weights, load_encoder};
use crate::image_files::ImageFiles;
use crate::pooling::PoolingName;

const BATCH: i64 = 500;

/// Images in files that are looked at of each part, where no option says how many: all would not fit in memory.
const FROM_FILES: i64 = 2_000;

/// Which encoder, and which images.
#[derive(Debug, Args)]
pub(crate) struct EncoderOptions {
    /// Folder of a run (its best checkpoint, else its newest), a checkpoint in it, or an encoder file
    #[arg(long, value_name = "CHECKPOINT")]
    checkpoint: PathBuf,
    /// Which of the run's encoders
    #[arg(long, value_enum, default_value = "trained")]
    weights: Weights,
    #[command(flatten)]
    images: ImageOptions,
    /// Use N training images; 0 for all [default: those of the run; of image folders 2,000]
    #[arg(long, value_name = "N")]
    limit: Option<i64>,
    /// auto (a GPU if there is one), cpu, cuda or cuda:N
    #[arg(long, default_value = "auto")]
    device: String,
}

/// An encoder that was loaded, and where its images are.
pub(crate) struct Source<'a> {
    options: &'a EncoderOptions,
    pub(crate) encoder: LoadedEncoder,
    device: Device,
}

impl EncoderOptions {
    /// Loads the encoder, and says which it is.
    pub(crate) fn open(&self) -> Result<Source<'_>> {
        let device = choose_device(&self.device)?;
        let encoder = load_encoder(&self.checkpoint, self.weights, device)?;
        println!("encoder  {}", encoder.description);
        Ok(Source { options: self, encoder, device })
    }
}

impl Source<'_> {
    /// The images of one part of the data set, on the encoder's device.
    pub(crate) fn images(&self, split: Split) -> Result<Dataset> {
        let chosen = self.options.images.choose(&self.encoder, self.options.limit)?;
        let images = match chosen.dataset {
            DatasetName::ImageFolder => {
                let files = ImageFiles::open(&chosen.data, 0, 0, usize::MAX)?;
                let count = if split == Split::Train { self.options.limit } else { None }.unwrap_or(FROM_FILES);
                let count = if count == 0 { files.part(split).len() } else { count };
                files.centres(split, count, self.encoder.encoder.config().image_size)?
            }
            _ => chosen.load(split)?,
        };
        Ok(images.to_device(self.device)?)
    }

    /// The features of images, read as `pooling` says, or else as the checkpoint does.
    pub(crate) fn features(&self, images: &Dataset, pooling: Option<PoolingName>) -> Result<Tensor> {
        let LoadedEncoder { encoder, mean, std, pooling: own, .. } = &self.encoder;
        let pooling = pooling.map_or(*own, Pooling::from);
        Ok(features(encoder, pooling, images, *mean, *std, BATCH)?)
    }
}

/// The positions of `count` images that are drawn at random, from one class after the other.
pub(crate) fn draw(images: &Dataset, count: i64, seed: u64) -> Result<Vec<i64>> {
    if !(1..=images.len()).contains(&count) {
        return Err(format!("cannot show {count} of {} images: choose a number between", images.len()).into());
    }
    let labels = Vec::<i64>::try_from(images.labels.f_to_device(Device::Cpu)?)?;
    let mut of_class = vec![Vec::new(); images.class_names.len()];
    for position in epoch_order(images.len(), seed, 0)? {
        of_class[labels[position as usize] as usize].push(position);
    }
    let rounds = 0..of_class.iter().map(Vec::len).max().unwrap_or(0);
    let in_turn = rounds.flat_map(|round| of_class.iter().filter_map(move |class| class.get(round).copied()));
    Ok(in_turn.take(count as usize).collect())
}

#[cfg(test)]
mod tests {
    use patchmix::data::procedural;

    use super::*;

    #[test]
    fn images_are_drawn_from_one_class_after_the_other() {
        let images = procedural(25, 8, 1).unwrap();
        let drawn = draw(&images, 14, 3).unwrap();
        let classes: Vec<i64> = drawn.iter().map(|position| position % 10).collect();
        assert_eq!(classes, [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 1, 2, 3]);
        let mut all = draw(&images, 25, 3).unwrap();
        all.sort_unstable();
        assert_eq!(all, (0..25).collect::<Vec<_>>());
        assert_ne!(draw(&images, 14, 4).unwrap(), drawn);
        for count in [0, 26] {
            assert!(draw(&images, count, 3).unwrap_err().to_string().contains("25 images"));
        }
    }
}
