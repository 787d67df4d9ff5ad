//! The encoder that is pictured, and the images that it is shown.

use clap::Args;
use patchmix::augment::normalize;
use patchmix::data::{Dataset, Split, epoch_order};
use tch::{Device, Tensor};

use crate::Result;
use crate::encoder::{EncoderOptions, LoadedEncoder, PoolingName};
use crate::images::{Choice, ENCODER_BATCH, ImageOptions, Images, Voters};
use crate::machine::MachineOptions;
use crate::terminal::say;

/// Images read from each part of an image folder unless --limit says otherwise: all of them would not fit in memory.
const FROM_FOLDER: i64 = 2_000;

/// Which encoder, which images, and where to compute.
#[derive(Debug, Args)]
pub(super) struct SubjectOptions {
    #[command(flatten)]
    encoder: EncoderOptions,
    #[command(flatten)]
    images: ImageOptions,
    #[command(flatten)]
    machine: MachineOptions,
}

/// The same, and how to read features.
#[derive(Debug, Args)]
pub(super) struct FeatureOptions {
    #[command(flatten)]
    subject: SubjectOptions,
    /// How features are read [default: as the checkpoint says; class-token for a run]
    #[arg(long, value_enum)]
    pooling: Option<PoolingName>,
}

/// A loaded encoder and its images.
pub(super) struct Subject {
    pub(super) encoder: LoadedEncoder,
    images: Images,
    /// At most so many images of the training and of the test part; 0 for all.
    counts: (i64, i64),
}

impl SubjectOptions {
    /// Loads the encoder, prints which it is, and opens labeled images.
    pub(super) fn open(&self) -> Result<Subject> {
        self.open_with(ImageOptions::open)
    }

    fn open_with(&self, open: fn(&ImageOptions, &Choice, &LoadedEncoder, Device) -> Result<Images>) -> Result<Subject> {
        let device = self.machine.set_up()?;
        let encoder = self.encoder.load(device)?;
        say!("encoder  {}", encoder.description);
        let images = open(&self.images, &self.images.choose(&encoder)?, &encoder, device)?;
        let counts = match (images.is_folder(), self.images.limit) {
            (false, _) => (0, 0),
            (true, None) => (FROM_FOLDER, FROM_FOLDER),
            (true, Some(limit)) => (limit, FROM_FOLDER),
        };
        Ok(Subject { encoder, images, counts })
    }
}

impl FeatureOptions {
    /// As [`SubjectOptions::open`]; --pooling replaces the encoder's own.
    pub(super) fn open(&self) -> Result<Subject> {
        self.open_with(ImageOptions::open)
    }

    /// The same with images that need no classes.
    pub(super) fn open_any(&self) -> Result<Subject> {
        self.open_with(ImageOptions::open_any)
    }

    fn open_with(&self, open: fn(&ImageOptions, &Choice, &LoadedEncoder, Device) -> Result<Images>) -> Result<Subject> {
        let mut subject = self.subject.open_with(open)?;
        if let Some(pooling) = self.pooling {
            subject.encoder.pooling = pooling.into();
        }
        Ok(subject)
    }
}

impl Subject {
    /// Whether there are labeled training images and test images.
    pub(super) fn has_classes(&self) -> bool {
        self.images.voters() == Voters::Training
    }

    /// The images to train on, without their classes if they have some: `[N, 3, H, W]` of bytes on the encoder's
    /// device.
    pub(super) fn unlabeled(&self) -> Result<Tensor> {
        self.images.examples(self.counts.0, self.encoder.encoder.config().image_size)
    }

    /// The training images, on the encoder's device.
    pub(super) fn train(&self) -> Result<Dataset> {
        self.dataset(Split::Train, self.counts.0)
    }

    /// `count` test images, spread evenly over the classes, or all for 0, on the encoder's device.
    pub(super) fn test(&self, count: i64) -> Result<Dataset> {
        self.dataset(Split::Test, count)
    }

    /// `count` random test images, taken from one class after the other.
    pub(super) fn sample(&self, count: i64, seed: u64) -> Result<Dataset> {
        let test = self.test(self.counts.1)?;
        let (images, labels) = test.select(&positions(&test, count, seed)?)?;
        Ok(Dataset { images, labels, ..test })
    }

    /// These images as the encoder sees them, `[N, 3, size, size]` of bytes.
    pub(super) fn views(&self, images: &Tensor) -> Result<Tensor> {
        self.images.evaluated(images, self.encoder.encoder.config().image_size)
    }

    /// The encoder's features of these images, `[N, 3, H, W]` of bytes.
    pub(super) fn features(&self, images: &Tensor) -> Result<Tensor> {
        let _no_grad = tch::no_grad_guard();
        let LoadedEncoder { encoder, mean, std, pooling, .. } = &self.encoder;
        let count = images.size()[0];
        let features = (0..count).step_by(ENCODER_BATCH as usize).map(|first| -> Result<Tensor> {
            let views = self.views(&images.f_narrow(0, first, ENCODER_BATCH.min(count - first))?)?;
            Ok(encoder.features(&normalize(&views, *mean, *std)?, *pooling, false)?)
        });
        Ok(Tensor::f_cat(&features.collect::<Result<Vec<_>>>()?, 0)?)
    }

    /// One part of the data set, with class names as they are drawn.
    fn dataset(&self, split: Split, count: i64) -> Result<Dataset> {
        let mut dataset = self.images.dataset(split, count, self.encoder.encoder.config().image_size)?;
        dataset.class_names.iter_mut().for_each(|name| *name = name.replace('_', " "));
        Ok(dataset)
    }
}

/// Labels as indices into the class names.
pub(super) fn label_list(labels: &Tensor) -> Result<Vec<usize>> {
    let labels = Vec::<i64>::try_from(labels.f_to_device(Device::Cpu)?.f_flatten(0, -1)?)?;
    Ok(labels.into_iter().map(|label| label as usize).collect())
}

/// An error unless `count`, which --images names, is between 1 and the number of images.
pub(super) fn check_count(count: i64, all: i64) -> Result<()> {
    if (1..=all).contains(&count) {
        return Ok(());
    }
    Err(format!("--images {count}: choose between 1 and {all}, as there are {all} images").into())
}

/// Positions of `count` random images, taken from one class after the other.
fn positions(images: &Dataset, count: i64, seed: u64) -> Result<Vec<i64>> {
    check_count(count, images.len())?;
    let labels = label_list(&images.labels)?;
    let mut classes = vec![Vec::new(); images.class_names.len()];
    for position in epoch_order(images.len(), seed, 0)? {
        classes[labels[position as usize]].push(position);
    }
    let rounds = 0..classes.iter().map(Vec::len).max().unwrap_or(0);
    let in_turn = rounds.flat_map(|round| classes.iter().filter_map(move |class| class.get(round).copied()));
    Ok(in_turn.take(count as usize).collect())
}

#[cfg(test)]
mod tests {
    use patchmix::data::procedural;

    use super::*;

    #[test]
    fn images_are_drawn_from_one_class_after_the_other() {
        let images = procedural(25, 8, 1).unwrap();
        let drawn = positions(&images, 14, 3).unwrap();
        let classes: Vec<i64> = drawn.iter().map(|position| position % 10).collect();
        assert_eq!(classes, [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 1, 2, 3]);
        let mut all = positions(&images, 25, 3).unwrap();
        all.sort_unstable();
        assert_eq!(all, (0..25).collect::<Vec<_>>());
        assert_ne!(positions(&images, 14, 4).unwrap(), drawn);
        for count in [0, 26] {
            assert!(positions(&images, count, 3).unwrap_err().to_string().contains("25 images"));
        }
    }
}
