//! The linear probe.

use patchmix::augment::ViewRecipe;
use patchmix::eval::{LinearClassifier, LinearConfig, accuracy};
use patchmix::random::{Purpose, seed_for};
use patchmix::vit::Pooling;
use serde_json::json;
use tch::Tensor;

use crate::args::LinearArguments;
use crate::encoder::LoadedEncoder;
use crate::report::{accuracy_json, announce, percent, progress, write_json};
use crate::subject::Subject;
use crate::{Outcome, Result};

/// Smallest share of an image that a random crop keeps, as linear probes are trained everywhere.
const CROP_MIN_SCALE: f64 = 0.08;

pub(crate) fn run(arguments: &LinearArguments) -> Result<Outcome> {
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
    let (count, shape) = (subject.train.len(), (subject.encoder.encoder.config().width, subject.train.classes()));
    let bar = progress(epochs * (count / batch_size) as u64, "linear probe");
    let classifier = if augment {
        let view = crop_and_flip(&subject.encoder);
        let mut step = 0;
        LinearClassifier::train(&config, count, shape, subject.device, |epoch, positions| {
            bar.inc(1);
            step += 1;
            tch::manual_seed(seed_for(seed, epoch, step, Purpose::FirstView));
            let (images, labels) = subject.train.select(positions)?;
            Ok((subject.encoder.encoder.features(&view.view(&images)?, pooling, false)?, labels))
        })?
    } else {
        let features = subject.features(pooling, &subject.train)?;
        bar.reset_eta();
        LinearClassifier::train(&config, count, shape, subject.device, |_, positions| {
            bar.inc(1);
            let positions = Tensor::f_from_slice(positions)?.f_to_device(subject.device)?;
            Ok((features.f_index_select(0, &positions)?, subject.train.labels.f_index_select(0, &positions)?))
        })?
    };
    bar.finish_and_clear();

    let logits = classifier.logits(&subject.features(pooling, &subject.test)?)?;
    let measured =
        accuracy(&logits, &subject.test.labels).map_err(|error| format!("{error}; a lower --lr may help"))?;
    println!("linear probe  top-1 {}  top-5 {}", percent(measured.top1), percent(measured.top5));
    let results = json!({
        "features": features, "augment": augment, "epochs": epochs, "batch_size": batch_size, "lr": lr, "seed": seed,
        "accuracy": accuracy_json(measured),
    });
    write_json(arguments.subject.json.as_deref(), "linear", &subject, results)?;
    Ok(Outcome::Finished)
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
