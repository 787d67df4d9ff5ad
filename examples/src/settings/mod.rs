//! The settings of a pre-training run: option, help, default and check of each, once.
//!
//! A recipe, a `config.json` and a command line are all options for these settings, laid one over the other.

mod checks;
mod command_line;
mod file;
mod help;
mod loss_weights;
mod mixing;
mod parts;
mod precision;
mod recipes;
mod resume;
mod unused;

use std::path::PathBuf;

use clap::builder::BoolishValueParser;
use clap::{ArgAction, Args, value_parser};
use serde::Serialize;

use crate::machine::thread_count;
use crate::parsers::{not_negative, number, positive, positive_share, share};
use loss_weights::WeightsOfTerms;
use precision::PrecisionName;
use recipes::Architecture;

pub(crate) use checks::check_warmup;
pub(crate) use command_line::Arguments;
pub(crate) use file::first_line;
pub(crate) use mixing::{MixBlocks, MixPlans};
pub(crate) use parts::MLP_RATIO;
pub(crate) use recipes::DatasetName;
pub use recipes::Program;
pub(crate) use resume::{History, deciding};

/// The file in a run's folder that holds its settings.
pub(crate) const CONFIG: &str = "config.json";

const IMAGES: &str = "Images";
const MODEL: &str = "Model";
const VIEWS: &str = "Views";
const MIXING: &str = "Mixing and losses";
const OPTIMIZATION: &str = "Optimization";
const SAVING: &str = "Measuring and saving";
const MACHINE: &str = "Machine";

/// All settings of a run; `config.json` holds them. The defaults are the paper's for ViT-T on CIFAR.
#[derive(Debug, Clone, PartialEq, Args, Serialize)]
pub(crate) struct Settings {
    /// Images to train on
    #[arg(long, help_heading = IMAGES, value_enum, default_value = "builtin")]
    pub(crate) dataset: DatasetName,
    /// Folder with the data set's files
    ///
    /// .bin files of CIFAR or STL-10; train/CLASS/*.jpg and val/CLASS/*.jpg, or images in any folders, without classes;
    /// train-*.tar and val-*.tar
    #[arg(long, help_heading = IMAGES, value_name = "DIR", default_value = "data")]
    pub(crate) data: PathBuf,
    /// Labeled images to measure on, DIR/CLASS/*.jpg, instead of val/CLASS/*.jpg in --data
    #[arg(long, help_heading = IMAGES, value_name = "DIR")]
    pub(crate) val: Option<PathBuf>,
    /// Use N training images: the first of CIFAR and STL-10, an even spread of a folder; 0 for all (4096 of the
    /// built-in images, of which N may be larger)
    #[arg(long, help_heading = IMAGES, value_name = "N", default_value_t = 0)]
    #[arg(value_parser = value_parser!(i64).range(0..))]
    pub(crate) limit: i64,
    /// Broken image files that a process leaves out before the run stops; each is reported once
    #[arg(long, help_heading = IMAGES, value_name = "N", default_value_t = 100)]
    pub(crate) max_broken_images: u64,

    /// Encoder
    #[arg(long, help_heading = MODEL, value_enum, default_value = "vit-tiny")]
    pub(crate) arch: Architecture,
    /// Width of a token, for --arch custom
    #[arg(long, help_heading = MODEL, default_value_t = 192)]
    pub(crate) width: i64,
    /// Number of blocks, for --arch custom
    #[arg(long, help_heading = MODEL, default_value_t = 12)]
    pub(crate) depth: i64,
    /// Attention heads, for --arch custom
    #[arg(long, help_heading = MODEL, default_value_t = 3)]
    pub(crate) heads: i64,
    /// Side of a patch in pixels
    #[arg(long, help_heading = MODEL, value_name = "PIXELS", default_value_t = 2)]
    pub(crate) patch_size: i64,
    /// Drop path: probability that the last block is skipped for an image; it falls linearly to 0 at the first. The
    /// momentum encoder drops none
    #[arg(long, help_heading = MODEL, value_name = "P", default_value_t = 0.1)]
    pub(crate) drop_path: f64,
    /// Keep the patch embedding at its initial weights, which stabilizes the training of large models
    #[arg(long, help_heading = MODEL, value_name = "YES", default_value_t = false)]
    #[arg(num_args = 0..=1, default_missing_value = "true", action = ArgAction::Set)]
    pub(crate) freeze_patch_embedding: bool,
    /// Hidden width of projector and predictor
    #[arg(long, help_heading = MODEL, default_value_t = 4096, value_parser = value_parser!(i64).range(1..))]
    pub(crate) hidden: i64,
    /// Width of queries and keys
    #[arg(long, help_heading = MODEL, default_value_t = 256, value_parser = value_parser!(i64).range(1..))]
    pub(crate) out_dim: i64,
    /// Initial momentum of the momentum encoder
    ///
    /// It rises to --momentum-end along a cosine; off is for no momentum encoder
    #[arg(long, help_heading = MODEL, value_name = "M|off", default_value = "off", value_parser = momentum)]
    pub(crate) momentum_encoder: f64,
    /// Momentum of the momentum encoder at the end; the initial one for a constant momentum
    #[arg(long, help_heading = MODEL, value_name = "M", default_value_t = 1.0, value_parser = share)]
    pub(crate) momentum_end: f64,
    /// Begin with the weights in a run's folder, a checkpoint or an encoder file
    ///
    /// The encoder must fit, except for the size of its images; what else fits is taken and said
    #[arg(long, help_heading = MODEL, value_name = "PATH")]
    pub(crate) init: Option<PathBuf>,

    /// Side of the global views in pixels
    #[arg(long, help_heading = VIEWS, value_name = "PIXELS", default_value_t = 32)]
    pub(crate) image_size: i64,
    /// Smallest area share of an image that a random crop keeps
    #[arg(long, help_heading = VIEWS, value_name = "SHARE", default_value_t = 0.1, value_parser = positive_share)]
    pub(crate) crop_min_scale: f64,
    /// Small local views of every image, beside the two global ones; 0 for none
    #[arg(long, help_heading = VIEWS, value_name = "N", default_value_t = 0)]
    #[arg(value_parser = value_parser!(i64).range(0..=64))]
    pub(crate) local_crops: i64,
    /// Side of the local views in pixels
    #[arg(long, help_heading = VIEWS, value_name = "PIXELS", default_value_t = 14)]
    pub(crate) local_size: i64,
    /// Area share that separates local crops (below) from global crops (above)
    #[arg(long, help_heading = VIEWS, value_name = "SHARE", default_value_t = 0.35, value_parser = positive_share)]
    pub(crate) local_max_scale: f64,
    /// Strength of the color jitter, as a multiple of the published one
    #[arg(long, help_heading = VIEWS, value_name = "FACTOR", default_value_t = 1.0, value_parser = jitter_strength)]
    pub(crate) jitter_strength: f64,
    /// Share of the views with color jitter
    #[arg(long, help_heading = VIEWS, value_name = "P", default_value_t = 0.8, value_parser = share)]
    pub(crate) jitter_probability: f64,
    /// Share of the views that are gray
    #[arg(long, help_heading = VIEWS, value_name = "P", default_value_t = 0.2, value_parser = share)]
    pub(crate) gray_probability: f64,
    /// Share of the views that are flipped horizontally
    #[arg(long, help_heading = VIEWS, value_name = "P", default_value_t = 0.5, value_parser = share)]
    pub(crate) flip_probability: f64,
    /// Share of the first and of the second global views that are blurred; of the local ones, half are
    #[arg(long, help_heading = VIEWS, value_name = "P,P", default_value = "1,0.1", value_parser = share)]
    #[arg(value_delimiter = ',', action = ArgAction::Set)]
    pub(crate) blur_probability: Vec<f64>,
    /// Share of the first and of the second global views that are solarized; of the local ones, none is
    #[arg(long, help_heading = VIEWS, value_name = "P,P", default_value = "0,0.2", value_parser = share)]
    #[arg(value_delimiter = ',', action = ArgAction::Set)]
    pub(crate) solarize_probability: Vec<f64>,

    /// Images in a mixed image; of several (2,4) a batch draws one
    #[arg(long, help_heading = MIXING, value_name = "M", default_value = "2")]
    #[arg(value_delimiter = ',', action = ArgAction::Set)]
    pub(crate) groups: Vec<i64>,
    /// Distance in the batch between the images that are mixed
    #[arg(long, help_heading = MIXING, value_name = "N", default_value_t = 1, allow_negative_numbers = true)]
    pub(crate) mix_stride: i64,
    /// Share of the batches that are mixed
    #[arg(long, help_heading = MIXING, value_name = "P", default_value_t = 1.0, value_parser = share)]
    pub(crate) mix_probability: f64,
    /// Temperature of the losses
    #[arg(long, help_heading = MIXING, default_value_t = 0.2, value_parser = positive)]
    pub(crate) temperature: f64,
    /// Temperature at the start, from which it moves to --temperature in a line; 0 for a constant one
    #[arg(long, help_heading = MIXING, value_name = "T", default_value_t = 0.0, value_parser = not_negative)]
    pub(crate) temperature_start: f64,
    /// Epochs from --temperature-start to --temperature
    #[arg(long, help_heading = MIXING, value_name = "N", default_value_t = 0)]
    pub(crate) temperature_warmup_epochs: u64,
    /// Label smoothing of the two mixed targets
    #[arg(long, help_heading = MIXING, value_name = "SHARE", default_value_t = 0.0, value_parser = share)]
    pub(crate) smoothing: f64,
    /// Label smoothing of the origin-to-origin target
    #[arg(long, help_heading = MIXING, value_name = "SHARE", default_value_t = 0.1, value_parser = share)]
    pub(crate) origin_smoothing: f64,
    /// Factors of the losses in the total; 0 leaves out a loss and the passes that only it needs. A loss that is not
    /// named keeps the factor that it has in the recipe, the settings file or the run
    #[arg(long, help_heading = MIXING, value_name = "TERM=WEIGHT,..", default_value_t = WeightsOfTerms::default())]
    pub(crate) loss_weights: WeightsOfTerms,
    /// Side of the blocks that are mixed, in pixels; 0 for the encoder's patches
    #[arg(long, help_heading = MIXING, value_name = "PIXELS", default_value_t = 0)]
    #[arg(value_parser = value_parser!(i64).range(0..))]
    pub(crate) mix_patch_size: i64,
    /// Which images share a random choice of patches
    #[arg(long, help_heading = MIXING, value_enum, default_value = "per-view")]
    pub(crate) mix_plans: MixPlans,
    /// Shape of what a mixed image takes from another
    #[arg(long, help_heading = MIXING, value_enum, default_value = "random")]
    pub(crate) mix_blocks: MixBlocks,
    /// Both global views make queries and keys; a loss is the average over both directions
    #[arg(long, help_heading = MIXING, value_name = "YES", default_value_t = false)]
    #[arg(num_args = 0..=1, default_missing_value = "true", action = ArgAction::Set)]
    pub(crate) symmetric: bool,
    /// Compare queries with the keys of other images too; no is the form of BYOL and SimSiam
    #[arg(long, help_heading = MIXING, value_name = "yes|no", default_value_t = true, action = ArgAction::Set)]
    #[arg(value_parser = BoolishValueParser::new())]
    pub(crate) negatives: bool,

    /// Images in a batch
    #[arg(long, help_heading = OPTIMIZATION, value_name = "N", default_value_t = 512)]
    #[arg(value_parser = value_parser!(i64).range(2..))]
    pub(crate) batch_size: i64,
    /// Encode a batch in N micro-batches, in about 1/N of the memory
    ///
    /// It takes a third more time. Losses and gradients stay those of the whole batch (except for which paths drop path
    /// drops), batch normalization and negatives included
    #[arg(long, help_heading = OPTIMIZATION, value_name = "N", default_value_t = 1)]
    #[arg(value_parser = value_parser!(i64).range(1..))]
    pub(crate) accumulate: i64,
    /// Passes over the training images
    #[arg(long, help_heading = OPTIMIZATION, value_name = "N", default_value_t = 800)]
    #[arg(value_parser = value_parser!(u64).range(1..=1_000_000))]
    pub(crate) epochs: u64,
    /// Epochs of linear warm-up
    #[arg(long, help_heading = OPTIMIZATION, value_name = "N", default_value_t = 100)]
    pub(crate) warmup_epochs: u64,
    /// Base learning rate, for a batch of 256; falls to 1e-6 along a cosine
    #[arg(long, help_heading = OPTIMIZATION, value_name = "RATE", default_value_t = 2e-3, value_parser = not_negative)]
    pub(crate) lr: f64,
    /// Weight decay at the start
    #[arg(long, help_heading = OPTIMIZATION, value_name = "RATE", default_value_t = 0.02, value_parser = not_negative)]
    pub(crate) weight_decay: f64,
    /// Weight decay at the end, along a cosine
    #[arg(long, help_heading = OPTIMIZATION, value_name = "RATE", default_value_t = 0.2, value_parser = not_negative)]
    pub(crate) weight_decay_end: f64,
    /// Scale the gradients of a step down to this L2 norm, all together, if theirs is larger; 0 never scales them
    #[arg(long, help_heading = OPTIMIZATION, value_name = "NORM", default_value_t = 0.0, value_parser = not_negative)]
    pub(crate) clip_gradient_norm: f64,
    /// Steps in a row with a loss or gradient that is not finite before the run stops; they change no weight
    #[arg(long, help_heading = OPTIMIZATION, value_name = "N", default_value_t = 0)]
    pub(crate) max_skipped_steps: u64,
    /// Decides everything random
    #[arg(long, help_heading = OPTIMIZATION, default_value_t = 0)]
    pub(crate) seed: u64,

    /// Measure kNN accuracy every N epochs, and at the end
    #[arg(long, help_heading = SAVING, value_name = "N", default_value_t = 10)]
    #[arg(value_parser = value_parser!(u64).range(1..))]
    pub(crate) knn_every: u64,
    /// Measure it with N training and at most N test images, spread evenly; 0 for all
    #[arg(long, help_heading = SAVING, value_name = "N", default_value_t = 0)]
    #[arg(value_parser = value_parser!(i64).range(0..))]
    pub(crate) knn_images: i64,
    /// Train a linear classifier beside the encoder, which learns nothing from it, and measure it where kNN is
    #[arg(long, help_heading = SAVING, value_name = "YES", default_value_t = false)]
    #[arg(num_args = 0..=1, default_missing_value = "true", action = ArgAction::Set)]
    pub(crate) online_probe: bool,
    /// Save every N steps too, not only at the ends of epochs; 0 for the ends only
    #[arg(long, help_heading = SAVING, value_name = "STEPS", default_value_t = 0)]
    pub(crate) save_every: u64,
    /// Save at the end of every N epochs and of the last. An epoch whose kNN accuracy is the best so far is saved too
    #[arg(long, help_heading = SAVING, value_name = "N", default_value_t = 1)]
    #[arg(value_parser = value_parser!(u64).range(1..))]
    pub(crate) save_epochs: u64,
    /// Checkpoints to keep, besides the one with the best kNN accuracy
    #[arg(long, help_heading = SAVING, value_name = "N", default_value_t = 2)]
    #[arg(value_parser = value_parser!(u64).range(1..))]
    pub(crate) keep: u64,

    /// auto (a GPU if there is one), cpu, cuda or cuda:N
    #[arg(long, help_heading = MACHINE, default_value = "auto")]
    pub(crate) device: String,
    /// Format of the matrix products
    ///
    /// Weights, norms, softmax and losses stay float32. auto is settled when a run begins, and stays with it
    #[arg(long, help_heading = MACHINE, value_enum, default_value = "auto")]
    pub(crate) precision: PrecisionName,
    /// On a GPU, only use algorithms that give the same bits every time, which is slower. On a CPU all do
    #[arg(long, help_heading = MACHINE, value_name = "YES", default_value_t = false)]
    #[arg(num_args = 0..=1, default_missing_value = "true", action = ArgAction::Set)]
    pub(crate) deterministic: bool,
    /// CPU threads; 0 leaves it to libtorch
    #[arg(long, help_heading = MACHINE, value_name = "N", default_value_t = 0, value_parser = thread_count())]
    pub(crate) threads: u16,
    /// Threads that decode image files; 0 for one per core
    #[arg(long, help_heading = MACHINE, value_name = "N", default_value_t = 0)]
    #[arg(value_parser = value_parser!(u16).range(0..=1024))]
    pub(crate) workers: u16,
}

/// A momentum between 0 and 1, or `off`, which is 0.
fn momentum(text: &str) -> std::result::Result<f64, String> {
    if text == "off" { Ok(0.0) } else { share(text).map_err(|error| format!("{error}, or off")) }
}

/// A multiple of the published color jitter, whose hue may turn by half the color circle at most.
fn jitter_strength(text: &str) -> std::result::Result<f64, String> {
    number("between 0 and 5", |strength| (0.0..=5.0).contains(&strength))(text)
}

#[cfg(test)]
mod tests;
