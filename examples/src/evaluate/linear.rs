//! The linear probe: a linear classifier trained on frozen features.

use clap::Args;
use indicatif::ProgressBar;
use patchmix::augment::ViewRecipe;
use patchmix::data::Split;
use patchmix::eval::{LinearClassifier, LinearConfig, accuracy};
use patchmix::vit::Pooling;
use serde_json::json;
use tch::{Kind, Tensor};

use super::report::{accuracy_json, announce, left_out, percent, write_results};
use super::subject::{Subject, SubjectOptions};
use crate::Result;
use crate::encoder::LoadedEncoder;
use crate::images::{Images, Labeled};
use crate::parsers::positive;
use crate::terminal::progress;

/// Smallest share of an image that a random crop keeps, the usual one for linear probes.
const CROP_MIN_SCALE: f64 = 0.08;

/// The options of `evaluate linear`.
#[derive(Debug, Args)]
pub(super) struct LinearArguments {
    #[command(flatten)]
    subject: SubjectOptions,
    /// Train on features of new random crops and flips in every epoch, instead of features computed once
    #[arg(long)]
    augment: bool,
    /// Passes over the training images
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    epochs: u64,
    /// Images in a batch [default: 256; 1024 for image folders]
    #[arg(long, value_name = "N")]
    batch_size: Option<i64>,
    /// Learning rate for a batch of 256; falls to 0 along a cosine [default: 0.05; 0.02 for image folders]
    #[arg(long, value_name = "RATE", value_parser = positive)]
    lr: Option<f64>,
    /// Seed of everything random
    #[arg(long, default_value_t = 0)]
    seed: u64,
}

impl LinearArguments {
    /// The published values, for CIFAR or for ImageNet, unless options set others.
    fn config(&self, images: &Images) -> LinearConfig {
        let (batch_size, learning_rate) = if images.is_folder() { (1024, 0.02) } else { (256, 0.05) };
        LinearConfig {
            epochs: self.epochs,
            batch_size: self.batch_size.unwrap_or(batch_size),
            learning_rate: self.lr.unwrap_or(learning_rate),
            seed: self.seed,
            ..LinearConfig::default()
        }
    }
}

pub(super) fn run(arguments: &LinearArguments) -> Result<()> {
    let subject = Subject::load(&arguments.subject)?;
    let config = arguments.config(&subject.images);
    let LinearConfig { epochs, batch_size, learning_rate, seed, .. } = config;
    subject.check_batch_size(batch_size)?;
    let pooling = subject.encoder.pooling;
    let features = if pooling == Pooling::ClassToken { "class token" } else { "patch mean" };
    let views = if arguments.augment { "new crops and flips each epoch" } else { "computed once" };
    let method = format!(
        "linear classifier on the {features}, {views}; batch {batch_size}, {epochs} epochs, learning rate \
         {learning_rate}"
    );
    announce(&subject, &subject.preparation(), &method);

    let classifier = match arguments.augment {
        true => train_on_views(&subject, &config, pooling)?,
        false => train_on_features(&subject, &config, pooling)?,
    };
    let Labeled { features: test, labels } = subject.features(Split::Test, &[pooling])?;
    let measured =
        accuracy(&classifier.logits(&test[0])?, &labels).map_err(|error| format!("{error}; a lower --lr may help"))?;
    let left_out = left_out(&subject.images).map_or_else(String::new, |left_out| format!("  ({left_out})"));
    println!("linear probe  top-1 {}  top-5 {}{left_out}", percent(measured.top1), percent(measured.top5));
    let results = json!({
        "features": features, "augment": arguments.augment, "epochs": epochs, "batch_size": batch_size,
        "lr": learning_rate, "seed": seed, "accuracy": accuracy_json(measured),
    });
    write_results(&subject, "linear", results)
}

/// Trains on features of new random crops and flips in every epoch.
fn train_on_views(subject: &Subject, config: &LinearConfig, pooling: Pooling) -> Result<LinearClassifier> {
    let Subject { encoder, images, device, .. } = subject;
    let count = images.count(Split::Train);
    let view = crop_and_flip(encoder);
    let mut views = images.views(&view, config);
    let bar = steps(config, count);
    let shape = (encoder.encoder.config().width, images.classes());
    let classifier = LinearClassifier::train(config, count, shape, *device, |epoch, positions| {
        let (images, labels) = views(epoch, positions)?;
        bar.inc(1);
        if labels.numel() == 0 {
            return Ok((Tensor::f_zeros([0, shape.0], (Kind::Float, *device))?, labels)); // all files were broken
        }
        Ok((encoder.encoder.features(&images, pooling, false)?, labels))
    })?;
    bar.finish_and_clear();
    Ok(classifier)
}

/// Trains on features that are computed once, of the images as the test images are seen.
fn train_on_features(subject: &Subject, config: &LinearConfig, pooling: Pooling) -> Result<LinearClassifier> {
    let Labeled { features, labels } = subject.features(Split::Train, &[pooling])?;
    let (count, width) = features[0].size2()?;
    let bar = steps(config, count);
    let shape = (width, subject.images.classes());
    let classifier = LinearClassifier::train(config, count, shape, subject.device, |_, positions| {
        bar.inc(1);
        let positions = Tensor::f_from_slice(positions)?.f_to_device(subject.device)?;
        Ok((features[0].f_index_select(0, &positions)?, labels.f_index_select(0, &positions)?))
    })?;
    bar.finish_and_clear();
    Ok(classifier)
}

/// A bar of all steps on `count` images.
fn steps(config: &LinearConfig, count: i64) -> ProgressBar {
    progress(config.epochs * (count / config.batch_size) as u64, "linear probe")
}

/// Random resized crop and flip, nothing else.
fn crop_and_flip(LoadedEncoder { encoder, mean, std, .. }: &LoadedEncoder) -> ViewRecipe {
    ViewRecipe {
        jitter_probability: 0.0,
        gray_probability: 0.0,
        blur_probability: 0.0,
        mean: *mean,
        std: *std,
        ..ViewRecipe::first(encoder.config().image_size, CROP_MIN_SCALE)
    }
}
