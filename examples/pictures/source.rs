//! The encoder that is looked at, and the images that it looks at.

use std::path::PathBuf;

use clap::Args;
use patchmix::data::{Dataset, Split, epoch_order};
use patchmix::eval::features;
use patchmix::vit::Pooling;
use tch::{Device, Tensor};

use crate::Result;
use crate::dataset_name::DatasetName;
use crate::datasets::ImageSource;
use crate::device::choose_device;
use crate::encoder::{LoadedEncoder, Weights, load_encoder};
use crate::pooling::PoolingName;

/// Where images are looked for unless a run or an option says otherwise.
const DATA: &str = "data";
const BATCH: i64 = 500;

/// Which images, for a picture that needs no encoder.
#[derive(Debug, Args)]
pub(crate) struct ImageOptions {
    /// Images to show [default: those of the run, or the built-in ones]
    #[arg(long, value_enum)]
    pub(crate) dataset: Option<DatasetName>,
    /// Folder with the data set's .bin files [default: that of the run, or data]
    #[arg(long, value_name = "DIR")]
    pub(crate) data: Option<PathBuf>,
    /// Fetch the data set into --data first (official archive, checksum verified)
    #[arg(long)]
    pub(crate) download: bool,
}

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
    /// Use the first N training images; 0 for all [default: those of the run]
    #[arg(long, value_name = "N")]
    limit: Option<i64>,
    /// auto (a GPU if there is one), cpu, cuda or cuda:N
    #[arg(long, default_value = "auto")]
    device: String,
}

impl ImageOptions {
    /// The first training images, 32 pixels wide and high.
    pub(crate) fn first(&self, count: i64) -> Result<Dataset> {
        let folder = self.data.clone().unwrap_or(DATA.into());
        let source = ImageSource {
            dataset: self.dataset.unwrap_or(DatasetName::Builtin),
            data: &folder,
            limit: count,
            image_size: 32,
            download: self.download,
            mirror: None,
        };
        source.load(Split::Train)
    }
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
        let (options, run) = (&self.options.images, self.encoder.run.as_ref());
        let named = options.dataset.or(run.map(|run| run.dataset));
        let dataset = named.ok_or("an encoder file does not say on which images: name them with --dataset")?;
        // The folder and the number of images of the run are those of its own data set.
        let run = run.filter(|run| run.dataset == dataset);
        let folder = options.data.clone().or(run.map(|run| run.data.clone())).unwrap_or(DATA.into());
        let source = ImageSource {
            dataset,
            data: &folder,
            limit: self.options.limit.or(run.map(|run| run.limit)).unwrap_or(0),
            image_size: self.encoder.encoder.config().image_size,
            download: options.download,
            mirror: None,
        };
        Ok(source.load(split)?.to_device(self.device)?)
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
