//! The recipe of fine-tuning: its options, their published values and their bounds.

use clap::Args;
use patchmix::augment::{MixupCutMix, RandAugment, RandomCrop, RandomErasing, ViewRecipe};
use serde::Serialize;

use super::super::subject::Subject;
use crate::Result;
use crate::parsers::{number, positive_share, share};
use crate::settings::check_warmup;

/// Encoders up to the width of ViT-T have the higher of the two published learning rates.
const TINY_WIDTH: i64 = 192;

/// The published learning rates of the first epoch, and at the end of the cosine.
pub(super) const FIRST_RATE: f64 = 1e-6;
pub(super) const LAST_RATE: f64 = 1e-5;

/// The options. Those whose default depends on something else stay open until [`Recipe::new`].
#[derive(Debug, Args, Serialize)]
pub(super) struct RecipeOptions {
    /// Start from random weights: only the shape comes from the checkpoint
    #[arg(long)]
    pub(super) from_scratch: bool,
    /// Passes over the training images
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    pub(super) epochs: u64,
    /// Epochs of linear warm-up [default: 10, at most a fifth of the epochs]
    #[arg(long, value_name = "N")]
    #[serde(skip)]
    warmup_epochs: Option<u64>,
    /// Images in a batch
    #[arg(long, value_name = "N", default_value_t = 256)]
    pub(super) batch_size: i64,
    /// Learning rate for a batch of 256; falls towards 1e-5 along a cosine [default: 1e-3 up to width 192, else 5e-4]
    #[arg(long, value_name = "RATE")]
    #[arg(value_parser = number("above 0 and at most 1e6", |rate| rate > 0.0 && rate <= 1e6))]
    #[serde(skip)]
    lr: Option<f64>,
    /// Factor of the learning rate from a block to the one below it [default: 0.75; 1 with --from-scratch]
    #[arg(long, value_name = "FACTOR", value_parser = positive_share)]
    #[serde(skip)]
    layer_decay: Option<f64>,
    /// Weight decay
    #[arg(long, value_name = "RATE", default_value_t = 0.05)]
    #[arg(value_parser = number("between 0 and 1e6", |rate| (0.0..=1e6).contains(&rate)))]
    pub(super) weight_decay: f64,
    /// Probability that an image skips the last block; smaller for the blocks below it
    #[arg(long, value_name = "P", default_value_t = 0.1)]
    #[arg(value_parser = number("at least 0 and at most 0.99", |p| (0.0..=0.99).contains(&p)))]
    pub(super) drop_path: f64,
    /// Label smoothing
    #[arg(long, value_name = "SHARE", default_value_t = 0.1, value_parser = share)]
    pub(super) smoothing: f64,
    /// Alpha of Mixup; 0 for none
    #[arg(long, value_name = "ALPHA", default_value_t = 0.8, value_parser = alpha)]
    mixup: f64,
    /// Alpha of CutMix; 0 for none
    #[arg(long, value_name = "ALPHA", default_value_t = 1.0, value_parser = alpha)]
    cutmix: f64,
    /// Share of CutMix where there is Mixup too
    #[arg(long, value_name = "P", default_value_t = 0.5, value_parser = share)]
    cutmix_share: f64,
    /// Draw Mixup and CutMix for each image, instead of once for the whole batch
    #[arg(long)]
    mix_per_image: bool,
    /// Operations of RandAugment that are drawn for an image, and applied half of the time; 0 for none
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u8).range(0..=16))]
    rand_operations: u8,
    /// Strength of RandAugment's operations, between 0 and 10
    #[arg(long, value_name = "M", default_value_t = 9.0)]
    #[arg(value_parser = number("between 0 and 10", |magnitude| (0.0..=10.0).contains(&magnitude)))]
    rand_magnitude: f64,
    /// Probability of RandomErasing
    #[arg(long, value_name = "P", default_value_t = 0.25, value_parser = share)]
    erasing: f64,
    /// Images in memory: black pixels around an image before the random crop [default: 4]
    #[arg(long, value_name = "PIXELS", value_parser = clap::value_parser!(i64).range(0..=1024))]
    #[serde(skip)]
    padding: Option<i64>,
    /// Image folders: smallest share of an image's area in the random crop [default: 0.08]
    #[arg(long, value_name = "SHARE", value_parser = positive_share)]
    #[serde(skip)]
    crop_min_scale: Option<f64>,
    /// Largest decay of the averaged weights; smaller in a short run
    #[arg(long, value_name = "DECAY", default_value_t = 0.9998, value_parser = share)]
    pub(super) average_decay: f64,
    /// Seed of everything random
    #[arg(long, default_value_t = 0)]
    pub(super) seed: u64,
}

/// Everything that decides what fine-tuning computes.
#[derive(Debug, Serialize)]
pub(super) struct Recipe<'a> {
    #[serde(flatten)]
    pub(super) options: &'a RecipeOptions,
    pub(super) warmup_epochs: u64,
    pub(super) lr: f64,
    pub(super) layer_decay: f64,
    padding: i64,
    crop_min_scale: f64,
}

impl Recipe<'_> {
    /// Fills in what the options leave open, for an encoder of `width` and images in memory or in folders. An error if
    /// two options contradict each other.
    pub(super) fn new(options: &RecipeOptions, width: i64, is_folder: bool) -> Result<Recipe<'_>> {
        let epochs = options.epochs;
        match (is_folder, options.padding, options.crop_min_scale) {
            (true, Some(_), _) => return Err("--padding applies to images in memory only; leave it out".into()),
            (false, _, Some(_)) => return Err("--crop-min-scale applies to image folders only; leave it out".into()),
            _ => {}
        }
        let recipe = Recipe {
            options,
            warmup_epochs: options.warmup_epochs.unwrap_or((epochs / 5).min(10)),
            lr: options.lr.unwrap_or(if width <= TINY_WIDTH { 1e-3 } else { 5e-4 }),
            // Pre-trained lower layers should stay close to where they are; random ones have to learn.
            layer_decay: options.layer_decay.unwrap_or(if options.from_scratch { 1.0 } else { 0.75 }),
            // Files are cut out by the random crop already.
            padding: if is_folder { 0 } else { options.padding.unwrap_or(4) },
            crop_min_scale: if is_folder { options.crop_min_scale.unwrap_or(0.08) } else { 1.0 },
        };
        check_warmup(recipe.warmup_epochs, epochs)?;
        Ok(recipe)
    }

    /// The learning rate after warm-up: the base rate is for 256 images.
    pub(super) fn scaled_lr(&self) -> f64 {
        self.lr * self.options.batch_size as f64 / 256.0
    }

    /// How images are cropped and flipped on the device.
    pub(super) fn crop(&self) -> RandomCrop {
        RandomCrop { padding: self.padding, ..RandomCrop::default() }
    }

    /// The size and the scale of the random crops that are cut out of image files.
    pub(super) fn crop_of_files(&self, subject: &Subject) -> ViewRecipe {
        ViewRecipe::first(subject.encoder.encoder.config().image_size, self.crop_min_scale)
    }
}

impl RecipeOptions {
    pub(super) fn erasing(&self) -> RandomErasing {
        RandomErasing { probability: self.erasing, ..RandomErasing::default() }
    }

    pub(super) fn pairs(&self) -> MixupCutMix {
        MixupCutMix {
            mixup_alpha: self.mixup,
            cutmix_alpha: self.cutmix,
            switch_probability: self.cutmix_share,
            per_image: self.mix_per_image,
        }
    }

    /// RandAugment, if it is on.
    pub(super) fn rand_augment(&self) -> Option<RandAugment> {
        let (operations, magnitude) = (self.rand_operations.into(), self.rand_magnitude);
        (operations > 0).then(|| RandAugment { operations, magnitude, ..RandAugment::default() })
    }
}

fn alpha(text: &str) -> std::result::Result<f64, String> {
    number("0 for none, or between 0.01 and 100", |alpha| alpha == 0.0 || (0.01..=100.0).contains(&alpha))(text)
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use serde_json::json;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        options: RecipeOptions,
    }

    fn options(line: &str) -> RecipeOptions {
        Line::parse_from(std::iter::once("finetune").chain(line.split_whitespace())).options
    }

    #[test]
    fn open_options_get_the_published_values() {
        let values = |line: &str, width| {
            let options = options(line);
            let Recipe { warmup_epochs, lr, layer_decay, .. } = Recipe::new(&options, width, false).unwrap();
            (warmup_epochs, lr, layer_decay)
        };
        assert_eq!(values("", 192), (10, 1e-3, 0.75));
        assert_eq!(values("--epochs 9", 384), (1, 5e-4, 0.75));
        assert_eq!(values("--from-scratch", 192), (10, 1e-3, 1.0));
        let given = "--from-scratch --warmup-epochs 7 --lr 0.25 --layer-decay 0.5";
        assert_eq!(values(given, 192), (7, 0.25, 0.5));
        let given = options("--epochs 2 --warmup-epochs 3");
        assert!(Recipe::new(&given, 192, false).unwrap_err().to_string().contains("--epochs 2"));
        for (line, is_folder) in [("--padding 2", true), ("--crop-min-scale 0.5", false)] {
            let given = options(line);
            assert!(Recipe::new(&given, 192, !is_folder).is_ok());
            assert!(
                Recipe::new(&given, 192, is_folder).unwrap_err().to_string().contains(line.split(' ').next().unwrap())
            );
        }
    }

    #[test]
    fn the_results_list_every_value_of_the_recipe() {
        let options = options("");
        let expected = json!({
            "from_scratch": false, "epochs": 100, "warmup_epochs": 10, "batch_size": 256, "lr": 1e-3,
            "layer_decay": 0.75, "weight_decay": 0.05, "drop_path": 0.1, "smoothing": 0.1, "mixup": 0.8,
            "cutmix": 1.0, "cutmix_share": 0.5, "mix_per_image": false, "rand_operations": 2, "rand_magnitude": 9.0,
            "erasing": 0.25, "padding": 4, "crop_min_scale": 1.0, "average_decay": 0.9998, "seed": 0,
        });
        assert_eq!(serde_json::to_value(Recipe::new(&options, 192, false).unwrap()).unwrap(), expected);
    }
}
