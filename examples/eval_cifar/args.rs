//! The command line.

use clap::{Args, Parser, Subcommand};

use crate::evaluate::args::{LinearArguments, SubjectArguments};
use crate::memory::MemoryOptions;

/// Measures an encoder that `pretrain_cifar` trained, or one in a file of its own, on the test images of a data set
/// that fits in memory. For images in folders there is `eval_imagenet`.
#[derive(Debug, Parser)]
#[command(name = "eval_cifar", version)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    pub(crate) evaluation: Evaluation,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Evaluation {
    /// Nearest neighbours among the features: no training
    Knn(SubjectArguments<MemoryOptions>),
    /// A linear classifier on the frozen features
    Linear(LinearArguments<MemoryOptions>),
    /// The whole encoder trained on with labels; or the same from scratch, to compare
    Finetune(FinetuneArguments),
}

#[derive(Debug, Args)]
pub(crate) struct FinetuneArguments {
    #[command(flatten)]
    pub(crate) subject: SubjectArguments<MemoryOptions>,
    /// Begin with random weights: only the shape is taken from the checkpoint
    #[arg(long)]
    pub(crate) from_scratch: bool,
    /// Passes over the training images
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    pub(crate) epochs: u64,
    /// Epochs of linear warm-up [default: a fifth of the epochs, at most 5]
    #[arg(long, value_name = "N")]
    pub(crate) warmup_epochs: Option<u64>,
    /// Images in a batch
    #[arg(long, value_name = "N", default_value_t = 256)]
    pub(crate) batch_size: i64,
    /// Learning rate for a batch of 256; falls to 0 along a cosine [default: 1e-3 up to a width of 192, above 5e-4]
    #[arg(long, value_name = "RATE")]
    pub(crate) lr: Option<f64>,
    /// Factor of the learning rate from a block to the one before it [default: 0.75; 1 with --from-scratch]
    #[arg(long, value_name = "FACTOR")]
    pub(crate) layer_decay: Option<f64>,
    /// Weight decay
    #[arg(long, value_name = "RATE", default_value_t = 0.05)]
    pub(crate) weight_decay: f64,
    /// Probability that the last block is skipped for an image, earlier ones less
    #[arg(long, value_name = "P", default_value_t = 0.1)]
    pub(crate) drop_path: f64,
    /// Label smoothing
    #[arg(long, value_name = "SHARE", default_value_t = 0.1)]
    pub(crate) smoothing: f64,
    /// Mixup's alpha; 0 for none
    #[arg(long, value_name = "ALPHA", default_value_t = 0.8)]
    pub(crate) mixup: f64,
    /// CutMix's alpha; 0 for none
    #[arg(long, value_name = "ALPHA", default_value_t = 1.0)]
    pub(crate) cutmix: f64,
    /// Share of CutMix, where there is Mixup too
    #[arg(long, value_name = "P", default_value_t = 0.5)]
    pub(crate) cutmix_share: f64,
    /// Probability of random erasing
    #[arg(long, value_name = "P", default_value_t = 0.25)]
    pub(crate) erasing: f64,
    /// Pixels around an image before the random crop
    #[arg(long, value_name = "PIXELS", default_value_t = 4)]
    pub(crate) padding: i64,
    /// Greatest decay of the averaged weights, less in a run of few steps
    #[arg(long, value_name = "DECAY", default_value_t = 0.9998)]
    pub(crate) average_decay: f64,
    /// Measure accuracy every N epochs, and at the end
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) measure_every: u64,
    /// Decides everything random
    #[arg(long, default_value_t = 0)]
    pub(crate) seed: u64,
}
