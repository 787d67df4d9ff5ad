//! The linear probe.

use patchmix::augment::ViewRecipe;
use patchmix::data::Split;
use patchmix::eval::{LinearClassifier, LinearConfig, accuracy};
use patchmix::vit::Pooling;
use serde_json::json;
use tch::{Kind, Tensor};

use super::Result;
use super::args::LinearArguments;
use super::encoder::LoadedEncoder;
use super::images::{ImageOptions, Images, LabelledFeatures};
use super::report::{accuracy_json, announce, left_out, percent, progress, write_json};
use super::subject::Subject;

/// Smallest share of an image that a random crop keeps, as linear probes are trained everywhere.
const CROP_MIN_SCALE: f64 = 0.08;

pub(crate) fn run<O: ImageOptions>(arguments: &LinearArguments<O>) -> Result<()> {
    let LinearArguments { epochs, batch_size, lr, seed, augment, .. } = *arguments;
    if !(lr.is_finite() && lr > 0.0) {
        return Err(format!("--lr {lr}: must be above 0").into());
    }
    let subject = Subject::load(&arguments.subject)?;
    subject.check_batch_size(batch_size)?;
    let pooling = subject.encoder.pooling;
    let features = if pooling == Pooling::ClassToken { "class token" } else { "patch mean" };
    let views = if augment { "new crops and flips each epoch" } else { "computed once" };
    announce(
        &subject,
        &format!(
            "linear classifier on the {features}, {views}; batch {batch_size}, {epochs} epochs, learning rate {lr}"
        ),
    );

    let config = LinearConfig { epochs, batch_size, learning_rate: lr, seed, ..LinearConfig::default() };
    let classifier = match augment {
        true => train_on_views(&subject, &config, pooling)?,
        false => train_on_features(&subject, &config, pooling)?,
    };
    let LabelledFeatures { features: of_test, labels } =
        subject.images.features(&subject.encoder, Split::Test, &[pooling])?;
    let measured = accuracy(&classifier.logits(&of_test[0])?, &labels)
        .map_err(|error| format!("{error}; a lower --lr may help"))?;
    let left_out = left_out(&subject.images).map_or_else(String::new, |left_out| format!("  ({left_out})"));
    println!("linear probe  top-1 {}  top-5 {}{left_out}", percent(measured.top1), percent(measured.top5));
    let results = json!({
        "features": features, "augment": augment, "epochs": epochs, "batch_size": batch_size, "lr": lr, "seed": seed,
        "accuracy": accuracy_json(measured),
    });
    write_json(arguments.subject.json.as_deref(), "linear", &subject, results)
}

/// Trains on features of new random crops and flips in every epoch.
fn train_on_views<I: Images>(
    subject: &Subject<I>,
    config: &LinearConfig,
    pooling: Pooling,
) -> Result<LinearClassifier> {
    let Subject { encoder, images, device } = subject;
    let count = images.count(Split::Train);
    let view = crop_and_flip(encoder);
    let mut views = images.views(&view, config);
    let bar = progress(config.epochs * (count / config.batch_size) as u64, "linear probe");
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

/// Trains on features of the images as they are measured, computed once.
fn train_on_features<I: Images>(
    subject: &Subject<I>,
    config: &LinearConfig,
    pooling: Pooling,
) -> Result<LinearClassifier> {
    let LabelledFeatures { features, labels } = subject.images.features(&subject.encoder, Split::Train, &[pooling])?;
    let (count, width) = features[0].size2()?;
    let bar = progress(config.epochs * (count / config.batch_size) as u64, "linear probe");
    let shape = (width, subject.images.classes());
    let classifier = LinearClassifier::train(config, count, shape, subject.device, |_, positions| {
        bar.inc(1);
        let positions = Tensor::f_from_slice(positions)?.f_to_device(subject.device)?;
        Ok((features[0].f_index_select(0, &positions)?, labels.f_index_select(0, &positions)?))
    })?;
    bar.finish_and_clear();
    Ok(classifier)
}

/// Random resized crop and flip, nothing else.
fn crop_and_flip(LoadedEncoder { encoder, mean, std, .. }: &LoadedEncoder) -> ViewRecipe {
    ViewRecipe {
        jitter_probability: 0.0,
        grey_probability: 0.0,
        blur_probability: 0.0,
        mean: *mean,
        std: *std,
        ..ViewRecipe::first(encoder.config().image_size, CROP_MIN_SCALE)
    }
}
