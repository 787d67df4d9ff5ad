//! The command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::dataset_name::DatasetName;
use crate::encoder::Weights;

/// Measures an encoder that `pretrain_cifar` trained, or one in a file of its own, on the test images of a data set.
#[derive(Debug, Parser)]
#[command(name = "eval_cifar", version)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    pub(crate) evaluation: Evaluation,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Evaluation {
    /// Nearest neighbours among the features: no training
    Knn(KnnArguments),
    /// A linear classifier on the frozen features
    Linear(LinearArguments),
    /// The whole encoder trained on with labels; or the same from scratch, to compare
    Finetune(FinetuneArguments),
}

/// What is measured, on which images, and where.
#[derive(Debug, Args)]
pub(crate) struct SubjectArguments {
    /// Folder of a run (its best checkpoint, else its newest), a checkpoint in it, or an encoder file
    #[arg(long, value_name = "CHECKPOINT")]
    pub(crate) checkpoint: PathBuf,
    /// Which of the run's encoders
    #[arg(long, value_enum, default_value = "trained")]
    pub(crate) weights: Weights,
    /// Images to learn the classes from and to measure on [default: the run's]
    #[arg(long, value_enum)]
    pub(crate) dataset: Option<DatasetName>,
    /// Folder with the data set's .bin files [default: the run's, if the data set is, else data]
    #[arg(long, value_name = "DIR")]
    pub(crate) data: Option<PathBuf>,
    /// Use the first N training images; 0 for all [default: the run's, if the data set is, else 0]
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = clap::value_parser!(i64).range(0..))]
    pub(crate) limit: Option<i64>,
    /// Fetch the data set into --data first
    #[arg(long)]
    pub(crate) download: bool,
    /// auto (a GPU if there is one), cpu, cuda or cuda:N
    #[arg(long, default_value = "auto")]
    pub(crate) device: String,
    /// CPU threads; 0 leaves it to libtorch
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) threads: u16,
    /// Write the results to this file too
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct KnnArguments {
    #[command(flatten)]
    pub(crate) subject: SubjectArguments,
}

#[derive(Debug, Args)]
pub(crate) struct LinearArguments {
    #[command(flatten)]
    pub(crate) subject: SubjectArguments,
    /// Features of new random crops and flips in every epoch, instead of features computed once
    #[arg(long)]
    pub(crate) augment: bool,
    /// Passes over the training images
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    pub(crate) epochs: u64,
    /// Images in a batch
    #[arg(long, value_name = "N", default_value_t = 256)]
    pub(crate) batch_size: i64,
    /// Learning rate for a batch of 256; falls to 0 along a cosine
    #[arg(long, value_name = "RATE", default_value_t = 0.05)]
    pub(crate) lr: f64,
    /// Decides everything random
    #[arg(long, default_value_t = 0)]
    pub(crate) seed: u64,
}

#[derive(Debug, Args)]
pub(crate) struct FinetuneArguments {
    #[command(flatten)]
    pub(crate) subject: SubjectArguments,
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
