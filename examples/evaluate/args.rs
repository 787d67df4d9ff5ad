//! The options that both programs share.

use std::path::PathBuf;

use clap::Args;

use super::encoder::Weights;
use super::images::ImageOptions;

/// What is measured, on which images, and where.
#[derive(Debug, Args)]
pub(crate) struct SubjectArguments<O: ImageOptions> {
    /// Folder of a run (its best checkpoint, else its newest), a checkpoint in it, or an encoder file
    #[arg(long, value_name = "CHECKPOINT")]
    pub(crate) checkpoint: PathBuf,
    /// Which of the run's encoders
    #[arg(long, value_enum, default_value = "trained")]
    pub(crate) weights: Weights,
    #[command(flatten)]
    pub(crate) images: O,
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
pub(crate) struct LinearArguments<O: ImageOptions> {
    #[command(flatten)]
    pub(crate) subject: SubjectArguments<O>,
    /// Features of new random crops and flips in every epoch, instead of features computed once
    #[arg(long)]
    pub(crate) augment: bool,
    /// Passes over the training images
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    pub(crate) epochs: u64,
    /// Images in a batch
    #[arg(long, value_name = "N", default_value_t = O::LINEAR_BATCH)]
    pub(crate) batch_size: i64,
    /// Learning rate for a batch of 256; falls to 0 along a cosine
    #[arg(long, value_name = "RATE", default_value_t = O::LINEAR_RATE)]
    pub(crate) lr: f64,
    /// Decides everything random
    #[arg(long, default_value_t = 0)]
    pub(crate) seed: u64,
}
