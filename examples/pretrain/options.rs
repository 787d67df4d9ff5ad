//! The settings as options of the command line.

use std::path::PathBuf;

use clap::Args;
use serde::Serialize;

use super::dataset_name::DatasetName;
use super::precision::PrecisionName;
use super::recipes::Architecture;

/// One option for every field of [`Settings`], of the same name.
#[derive(Debug, Args, Serialize)]
pub(crate) struct Overrides {
    /// Images to train on
    #[arg(long, value_enum)]
    pub(crate) dataset: Option<DatasetName>,
    /// Folder with the data set's files: .bin files of CIFAR, or train/CLASS/*.jpg and val/CLASS/*.jpg
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Use N training images: the first of CIFAR, every so-many-th of a folder; 0 for all (of the built-in images 4096,
    /// and N may be larger)
    #[arg(long, value_name = "N")]
    limit: Option<i64>,
    /// Side of the views in pixels
    #[arg(long, value_name = "PIXELS")]
    image_size: Option<i64>,
    /// Encoder
    #[arg(long, value_enum)]
    pub(crate) arch: Option<Architecture>,
    /// Width of a token, for --arch custom
    #[arg(long)]
    pub(crate) width: Option<i64>,
    /// Number of blocks, for --arch custom
    #[arg(long)]
    pub(crate) depth: Option<i64>,
    /// Attention heads, for --arch custom
    #[arg(long)]
    pub(crate) heads: Option<i64>,
    /// Side of a patch in pixels
    #[arg(long, value_name = "PIXELS")]
    patch_size: Option<i64>,
    /// Probability that the last block is skipped for an image, earlier ones less
    #[arg(long, value_name = "P", value_parser = finite)]
    drop_path: Option<f64>,
    /// Leave the patch embedding as it was drawn at random, which steadies the training of large models
    #[arg(long, value_name = "YES", num_args = 0..=1, default_missing_value = "true")]
    freeze_patch_embedding: Option<bool>,
    /// Hidden width of projector and predictor
    #[arg(long)]
    hidden: Option<i64>,
    /// Width of queries and keys
    #[arg(long)]
    out_dim: Option<i64>,
    /// Images in a batch
    #[arg(long, value_name = "N")]
    batch_size: Option<i64>,
    /// Let the encoder work through a batch in N parts, in about 1/N of the memory and a third more time. What is
    /// computed stays the same, but for which paths drop path leaves out: batch normalisation and negatives are those
    /// of the whole batch
    #[arg(long, value_name = "N")]
    accumulate: Option<i64>,
    /// Passes over the training images
    #[arg(long, value_name = "N")]
    epochs: Option<u64>,
    /// Epochs of linear warm-up
    #[arg(long, value_name = "N")]
    warmup_epochs: Option<u64>,
    /// Base learning rate, for a batch of 256; falls to 1e-6 along a cosine
    #[arg(long, value_name = "RATE", value_parser = finite)]
    lr: Option<f64>,
    /// Weight decay at the start
    #[arg(long, value_name = "RATE", value_parser = finite)]
    weight_decay: Option<f64>,
    /// Weight decay at the end, along a cosine
    #[arg(long, value_name = "RATE", value_parser = finite)]
    weight_decay_end: Option<f64>,
    /// Smallest share of an image that a random crop keeps
    #[arg(long, value_name = "SHARE", value_parser = finite)]
    crop_min_scale: Option<f64>,
    /// Small local views of every image, beside the two global ones; 0 for none
    #[arg(long, value_name = "N")]
    local_crops: Option<i64>,
    /// Side of the local views in pixels
    #[arg(long, value_name = "PIXELS")]
    local_size: Option<i64>,
    /// With local views: share of an image up to which they reach, and from which on the global ones do
    #[arg(long, value_name = "SHARE", value_parser = finite)]
    local_max_scale: Option<f64>,
    /// Images that a mixed image is made of; several values (2,4) are drawn from, one per batch
    #[arg(long, value_name = "M", value_delimiter = ',', num_args = 1..)]
    groups: Option<Vec<i64>>,
    /// Distance in the batch between the images that are mixed
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    mix_stride: Option<i64>,
    /// Share of the batches that are mixed
    #[arg(long, value_name = "P", value_parser = finite)]
    mix_probability: Option<f64>,
    /// Temperature of the losses
    #[arg(long, value_parser = finite)]
    temperature: Option<f64>,
    /// Label smoothing of the two mixed targets
    #[arg(long, value_name = "SHARE", value_parser = finite)]
    smoothing: Option<f64>,
    /// Label smoothing of the origin-to-origin target
    #[arg(long, value_name = "SHARE", value_parser = finite)]
    origin_smoothing: Option<f64>,
    /// Momentum that the key encoder starts with (it rises to 1 along a cosine), or off
    #[arg(long, value_name = "MOMENTUM|off", value_parser = momentum)]
    momentum_encoder: Option<f64>,
    /// Number format of the matrix products; weights, norms, softmax and losses stay float32. auto is settled when a
    /// run begins, and stays with it
    #[arg(long, value_enum)]
    precision: Option<PrecisionName>,
    /// On a GPU, take only algorithms that give the same bits every time, which is slower. On a CPU all do
    #[arg(long, value_name = "YES", num_args = 0..=1, default_missing_value = "true")]
    deterministic: Option<bool>,
    /// Decides everything random
    #[arg(long)]
    seed: Option<u64>,
    /// Measure kNN accuracy every N epochs, and at the end
    #[arg(long, value_name = "N")]
    knn_every: Option<u64>,
    /// Measure it with N training and at most N test images, spread evenly; 0 for all
    #[arg(long, value_name = "N")]
    knn_images: Option<i64>,
    /// Save every N steps too, not only at the ends of epochs; 0 for the ends only
    #[arg(long, value_name = "STEPS")]
    save_every: Option<u64>,
    /// Save at the end of every N epochs and of the last. An epoch whose kNN accuracy is the best so far is saved too
    #[arg(long, value_name = "N")]
    save_epochs: Option<u64>,
    /// Checkpoints to keep, besides the one of the best kNN accuracy
    #[arg(long, value_name = "N")]
    keep: Option<usize>,
    /// Steps in a row with a loss or gradient that is not finite before the run stops; they change no weight
    #[arg(long, value_name = "N")]
    max_skipped_steps: Option<u64>,
    /// Broken image files that a process leaves out before the run stops; it reports each once
    #[arg(long, value_name = "N")]
    pub(crate) max_broken_images: Option<u64>,
    /// auto (a GPU if there is one), cpu, cuda or cuda:N
    #[arg(long)]
    device: Option<String>,
    /// CPU threads; 0 leaves it to libtorch
    #[arg(long, value_name = "N")]
    threads: Option<u16>,
    /// Threads that decode image files; 0 for one a core
    #[arg(long, value_name = "N")]
    pub(crate) workers: Option<u16>,
}

fn momentum(text: &str) -> std::result::Result<f64, String> {
    if text == "off" {
        return Ok(0.0);
    }
    finite(text).map_err(|_| "a number between 0 and 1, or off".to_owned())
}

fn finite(text: &str) -> std::result::Result<f64, String> {
    text.parse().ok().filter(|number: &f64| number.is_finite()).ok_or_else(|| "a finite number".to_owned())
}
