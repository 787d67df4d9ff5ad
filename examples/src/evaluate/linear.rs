//! The linear probe: a linear classifier trained on frozen features.

use clap::Args;
use patchmix::Error;
use patchmix::augment::ViewRecipe;
use patchmix::data::{Batches, Cut, Split};
use patchmix::eval::{Accuracy, LinearClassifier, LinearConfig, accuracy};
use patchmix::vit::Pooling;
use serde_json::{Value, json};
use tch::Tensor;

use super::report::{accuracy_json, announce, left_out, percent, write_results};
use super::subject::{Subject, SubjectOptions};
use crate::Result;
use crate::encoder::LoadedEncoder;
use crate::images::Labeled;
use crate::parsers::positive;
use crate::seeds::{Purpose, seed_for};
use crate::terminal::{progress, say};

/// Smallest share of an image that a random crop keeps, the usual one for linear probes.
const CROP_MIN_SCALE: f64 = 0.08;

/// The published learning rates, each for encoders up to a width; wider ones have [`WIDE_RATE`].
const RATES: [(i64, f64); 2] = [(192, 0.05), (384, 0.02)];
const WIDE_RATE: f64 = 0.01;

/// The options of `evaluate linear`.
#[derive(Debug, Args)]
pub(super) struct LinearArguments {
    #[command(flatten)]
    subject: SubjectOptions,
    /// Compute features once, of the images as the test images are seen, instead of new random crops and flips in
    /// every epoch
    #[arg(long)]
    cached: bool,
    /// Passes over the training images
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    epochs: u64,
    /// Images in a batch [default: 256; 1024 for image folders; at most all training images]
    #[arg(long, value_name = "N")]
    batch_size: Option<i64>,
    /// Learning rate for a batch of 256, which falls to 0 along a cosine. Several, separated by commas, train a
    /// classifier each on the same features [default: 0.05 up to a width of 192, 0.02 up to 384, 0.01 above]
    #[arg(long, value_name = "RATE", value_parser = positive, value_delimiter = ',')]
    lr: Vec<f64>,
    /// Seed of everything random
    #[arg(long, default_value_t = 0)]
    seed: u64,
}

impl LinearArguments {
    /// The published values, for CIFAR or for ImageNet, unless options set others; one for each learning rate.
    fn configs(&self, subject: &Subject) -> Vec<LinearConfig> {
        let width = subject.encoder.encoder.config().width;
        let published = RATES.iter().find(|(limit, _)| width <= *limit).map_or(WIDE_RATE, |(_, rate)| *rate);
        let rates = if self.lr.is_empty() { vec![published] } else { self.lr.clone() };
        let published = if subject.images.is_folder() { 1024 } else { 256 };
        let batch_size = self.batch_size.unwrap_or(subject.images.count(Split::Train).min(published));
        let config = LinearConfig { epochs: self.epochs, batch_size, seed: self.seed, ..LinearConfig::default() };
        rates.into_iter().map(|learning_rate| LinearConfig { learning_rate, ..config.clone() }).collect()
    }
}

/// A classifier in training, and how good it has been.
struct Probe {
    config: LinearConfig,
    classifier: LinearClassifier,
    /// After the last epoch so far; `None` if its weights are no longer finite.
    last: Option<Accuracy>,
    /// The best epoch so far, counted from 1.
    best: Option<(u64, Accuracy)>,
}

impl Probe {
    fn new(config: LinearConfig, subject: &Subject) -> Result<Probe> {
        let shape = (subject.encoder.encoder.config().width, subject.images.classes());
        Ok(Probe { config, classifier: LinearClassifier::new(shape, subject.device)?, last: None, best: None })
    }

    /// Measures the accuracy on the test images after an epoch, counted from 1.
    fn measure(&mut self, epoch: u64, test: &Labeled) -> Result<()> {
        let scores = self.classifier.logits(&test.features[0])?;
        self.last = match accuracy(&scores, &test.labels) {
            Ok(accuracy) => Some(accuracy),
            Err(Error::Value { name: "scores", .. }) => None,
            Err(error) => return Err(error.into()),
        };
        if let Some(last) = self.last.filter(|last| self.best.is_none_or(|(_, best)| last.top1 > best.top1)) {
            self.best = Some((epoch, last));
        }
        Ok(())
    }

    fn to_json(&self) -> Value {
        let best = self.best.map(|(epoch, accuracy)| json!({ "epoch": epoch, "accuracy": accuracy_json(accuracy) }));
        json!({ "lr": self.config.learning_rate, "accuracy": self.last.map(accuracy_json), "best": best })
    }
}

pub(super) fn run(arguments: &LinearArguments) -> Result<()> {
    let subject = Subject::load(&arguments.subject)?;
    let configs = arguments.configs(&subject);
    let LinearConfig { epochs, batch_size, seed, .. } = configs[0];
    subject.check_batch_size(batch_size)?;
    let pooling = subject.encoder.pooling;
    let features = if pooling == Pooling::ClassToken { "class token" } else { "patch mean" };
    let views = if arguments.cached { "computed once" } else { "new crops and flips each epoch" };
    let rates: Vec<String> = configs.iter().map(|config| config.learning_rate.to_string()).collect();
    let rates = rates.join(", ");
    let method = format!(
        "linear classifier on the {features}, {views}; batch {batch_size}, {epochs} epochs, learning rate {rates}"
    );
    announce(&subject, &subject.preparation(), &method);

    let probes = configs.into_iter().map(|config| Probe::new(config, &subject)).collect::<Result<Vec<_>>>()?;
    let probes = train(&subject, probes, arguments.cached)?;
    let results = json!({
        "features": features, "cached": arguments.cached, "epochs": epochs, "batch_size": batch_size, "seed": seed,
        "rates": probes.iter().map(Probe::to_json).collect::<Vec<_>>(),
    });
    write_results(&subject, "linear", results)?;
    print(&probes);
    if let Some(left_out) = left_out(&subject.images) {
        say!("{left_out}");
    }
    Ok(())
}

/// Trains all probes on the same features, and measures them after every epoch.
fn train(subject: &Subject, mut probes: Vec<Probe>, cached: bool) -> Result<Vec<Probe>> {
    let LinearConfig { epochs, batch_size, seed, .. } = probes[0].config;
    let pooling = subject.encoder.pooling;
    let test = subject.features(Split::Test, &[pooling])?;
    let train = if cached { Some(subject.features(Split::Train, &[pooling])?) } else { None };
    let count = train.as_ref().map_or(subject.images.count(Split::Train), |train| train.labels.size()[0]);
    let bar = progress(epochs * (count / batch_size) as u64, "linear probe");
    for epoch in 0..epochs {
        let order = Batches::new(count, batch_size, seed, epoch)?;
        let batches = match &train {
            Some(train) => cached_batches(train, &order),
            None => view_batches(subject, &order, seed, epoch)?,
        };
        let mut has_learned = false;
        for batch in batches {
            let (features, labels) = batch?;
            bar.inc(1);
            if labels.numel() == 0 {
                continue; // all files of the batch were broken
            }
            for Probe { config, classifier, .. } in &mut probes {
                let _ = classifier.step(&features, &labels, config.rate(epoch), config.momentum)?;
            }
            has_learned = true;
        }
        if !has_learned {
            return Err("none of the training images can be read; fix the files named above".into());
        }
        probes.iter_mut().try_for_each(|probe| probe.measure(epoch + 1, &test))?;
        if let Some(last) = probes[0].last {
            bar.set_message(format!("top-1 {}", percent(last.top1)));
        }
    }
    bar.finish_and_clear();
    if probes.iter().all(|probe| probe.last.is_none()) {
        return Err("the weights are not finite; a lower --lr may help".into());
    }
    Ok(probes)
}

/// Features `[P, width]` and labels `[P]`, batch by batch.
type FeatureBatches<'a> = Box<dyn Iterator<Item = Result<(Tensor, Tensor)>> + 'a>;

/// Batches of features that exist.
fn cached_batches<'a>(train: &'a Labeled, order: &Batches) -> FeatureBatches<'a> {
    let batches: Vec<Vec<i64>> = order.iter().map(<[i64]>::to_vec).collect();
    Box::new(batches.into_iter().map(|positions| {
        let positions = Tensor::f_from_slice(&positions)?.f_to_device(train.labels.device())?;
        Ok((train.features[0].f_index_select(0, &positions)?, train.labels.f_index_select(0, &positions)?))
    }))
}

/// Batches of features of new random crops and flips.
fn view_batches<'a>(subject: &'a Subject, order: &Batches, seed: u64, epoch: u64) -> Result<FeatureBatches<'a>> {
    let Subject { encoder, images, .. } = subject;
    let view = crop_and_flip(encoder);
    let cut = Cut::random(&view, seed_for(seed, epoch, 0, Purpose::Crops) as u64);
    let batches = images.batches(order.iter().map(<[i64]>::to_vec).collect(), vec![cut])?;
    Ok(Box::new(batches.zip(0..).map(move |(batch, step)| {
        let on_device = batch?;
        let batch = on_device()?;
        let width = encoder.encoder.config().width;
        let labels = batch.labels()?.shallow_clone();
        if labels.numel() == 0 {
            return Ok((Tensor::f_zeros([0, width], (tch::Kind::Float, subject.device))?, labels));
        }
        tch::manual_seed(seed_for(seed, epoch, step, Purpose::FirstView));
        let _no_grad = tch::no_grad_guard();
        let views = batch.view(&view, 0)?.f_split(subject.encoder_batch, 0)?;
        let features = views.iter().map(|views| encoder.encoder.features(views, encoder.pooling, false));
        Ok((Tensor::f_cat(&features.collect::<patchmix::Result<Vec<_>>>()?, 0)?, labels))
    })))
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

/// Prints the last and the best epoch of every probe.
fn print(probes: &[Probe]) {
    say!("linear probe");
    for Probe { config, last, best, .. } in probes {
        let lr = config.learning_rate;
        let shown = |accuracy: &Accuracy| format!("top-1 {}  top-5 {}", percent(accuracy.top1), percent(accuracy.top5));
        match last {
            Some(last) => say!("lr {lr:<6}  {}  after the last epoch", shown(last)),
            None => say!("lr {lr:<6}  diverged"),
        }
        if let Some((epoch, best)) = best {
            say!("           {}  after epoch {epoch}, the best on the test images", shown(best));
        }
    }
}
