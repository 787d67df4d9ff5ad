//! Fine-tuning: the whole encoder is trained further with labels, in one loop, [`train`].

use std::process::ExitCode;
use std::sync::atomic::Ordering;

use clap::Args;
use patchmix::augment::{crop_padded, erase, mix_pairs, normalize, pair_targets, resize};
use patchmix::data::{Batches, Dataset};
use patchmix::eval::{Accuracy, accuracy};
use patchmix::finetune::{Classifier, layer_rate};
use patchmix::optim::{AdamW, average_weights, schedule};
use patchmix::vit::{EncoderFile, Vit, VitConfig};
use serde_json::{Value, json};
use tch::nn::VarStore;
use tch::{Kind, Reduction, Tensor};

use super::recipe::{Recipe, RecipeOptions};
use super::report::{accuracy_json, announce, percent, write_results};
use super::subject::{Subject, SubjectOptions};
use crate::Result;
use crate::seeds::{Purpose, seed_for};
use crate::terminal::{INTERRUPTED, interruption, progress};

/// The options of `evaluate finetune`.
#[derive(Debug, Args)]
pub(super) struct FinetuneArguments {
    #[command(flatten)]
    subject: SubjectOptions,
    #[command(flatten)]
    recipe: RecipeOptions,
    /// Measure accuracy every N epochs, and at the end
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..))]
    measure_every: u64,
}

pub(super) fn run(arguments: &FinetuneArguments) -> Result<ExitCode> {
    let subject = Subject::load(&arguments.subject)?;
    let in_memory = subject.images.in_memory();
    let (train_images, test_images) =
        in_memory.map_err(|error| format!("finetune: {error}; knn and linear take image folders"))?;
    let recipe = &Recipe::new(&arguments.recipe, subject.encoder.encoder.config().width)?;
    let RecipeOptions { from_scratch, epochs, batch_size, .. } = arguments.recipe;
    subject.check_batch_size(batch_size)?;
    let name = if from_scratch { "from scratch" } else { "fine-tuning" };
    let lr = recipe.lr;
    let (own, size) = (test_images.images.size()[3], subject.encoder.encoder.config().image_size);
    let preparation = if own == size { "whole".to_owned() } else { format!("whole, scaled from {own} to {size} px") };
    let method = format!("{name}, class token; batch {batch_size}, {epochs} epochs, learning rate {lr}");
    announce(&subject, &preparation, &method);

    let task = Task { subject: &subject, train_images, test_images, recipe };
    let Some(measurements) = train(task, arguments.measure_every, name)? else {
        return Ok(ExitCode::from(INTERRUPTED));
    };
    if let Some(Measurement { averaged_weights, last_weights, .. }) = measurements.last() {
        for (name, accuracy, note) in
            [(name, averaged_weights, "  (averaged weights)"), ("last weights", last_weights, "")]
        {
            println!("{name:<12}  top-1 {}  top-5 {}{note}", percent(accuracy.top1), percent(accuracy.top5));
        }
    }
    let epochs: Vec<Value> = measurements.iter().map(Measurement::to_json).collect();
    let result = measurements.last().map(|measurement| accuracy_json(measurement.averaged_weights));
    write_results(&subject, "finetune", json!({ "recipe": recipe, "accuracy": result, "epochs": epochs }))?;
    Ok(ExitCode::SUCCESS)
}

/// The encoder to start from, the images, and the recipe.
#[derive(Clone, Copy)]
struct Task<'a> {
    subject: &'a Subject,
    train_images: &'a Dataset,
    test_images: &'a Dataset,
    recipe: &'a Recipe<'a>,
}

/// Loss and accuracy at the end of an epoch.
struct Measurement {
    epoch: u64,
    /// Mean over the epoch.
    loss: f64,
    averaged_weights: Accuracy,
    last_weights: Accuracy,
}

impl Measurement {
    fn to_json(&self) -> Value {
        let (averaged, last) = (accuracy_json(self.averaged_weights), accuracy_json(self.last_weights));
        json!({ "epoch": self.epoch, "loss": self.loss, "averaged_weights": averaged, "last_weights": last })
    }
}

/// Trains from the first batch to the last; `None` if it was interrupted.
fn train(task: Task<'_>, measure_every: u64, name: &str) -> Result<Option<Vec<Measurement>>> {
    let RecipeOptions { epochs, batch_size, seed, .. } = *task.recipe.options;
    let interrupted = interruption("stopping after this step")?;
    let mut learner = Learner::new(task)?;
    let count = task.train_images.len();
    let steps_per_epoch = count as u64 / batch_size as u64;
    let bar = progress(epochs * steps_per_epoch, name);
    let mut measurements = Vec::new();
    for epoch in 1..=epochs {
        let batches = Batches::new(count, batch_size, seed, epoch - 1)?;
        let mut loss_sum = Tensor::f_zeros([], (Kind::Float, task.subject.device))?;
        for (index, batch) in (0..).zip(batches.iter()) {
            let step = Step { epoch: epoch - 1, index, steps_per_epoch };
            loss_sum = loss_sum.f_add(&learner.step(task, batch, step)?)?;
            bar.inc(1);
            if interrupted.load(Ordering::Relaxed) {
                bar.finish_and_clear();
                eprintln!("stopped in epoch {epoch} of {epochs}; nothing was written");
                return Ok(None);
            }
        }
        let loss = f64::try_from(loss_sum)? / steps_per_epoch as f64;
        if !loss.is_finite() {
            bar.finish_and_clear();
            return Err(format!("epoch {epoch}: the loss is not finite; a lower --lr may help").into());
        }
        let mut line = format!("epoch {epoch:>width$}/{epochs}  loss {loss:.3}", width = epochs.to_string().len());
        if epoch.is_multiple_of(measure_every) || epoch == epochs {
            let averaged_weights = test_accuracy(&learner.averaged, task)?;
            let last_weights = test_accuracy(&learner.classifier, task)?;
            let [averaged, last] = [averaged_weights, last_weights].map(|accuracy| percent(accuracy.top1));
            line += &format!("  top-1 {averaged} averaged weights, {last} last weights");
            measurements.push(Measurement { epoch, loss, averaged_weights, last_weights });
        }
        bar.suspend(|| eprintln!("{line}"));
    }
    bar.finish_and_clear();
    Ok(Some(measurements))
}

/// The place of a step in the training.
#[derive(Debug, Clone, Copy)]
struct Step {
    epoch: u64,
    /// Number of the batch in its epoch.
    index: u64,
    steps_per_epoch: u64,
}

impl Step {
    /// Steps before this one.
    fn done(self) -> u64 {
        self.epoch * self.steps_per_epoch + self.index
    }
}

/// The classifier, the average of its weights, and the optimizer.
struct Learner {
    store: VarStore,
    classifier: Classifier,
    average_store: VarStore,
    averaged: Classifier,
    optimizer: AdamW,
}

impl Learner {
    fn new(Task { subject, train_images, recipe, .. }: Task<'_>) -> Result<Learner> {
        tch::manual_seed(seed_for(recipe.options.seed, 0, 0, Purpose::Weights));
        let loaded = &subject.encoder;
        let config = VitConfig { drop_path: recipe.options.drop_path, ..loaded.encoder.config().clone() };
        let (depth, classes) = (config.depth, train_images.classes());
        let store = VarStore::new(subject.device);
        let encoder = match recipe.options.from_scratch {
            true => Vit::new(&store.root(), &config)?,
            false => EncoderFile { config: config.clone(), ..loaded.to_file() }.to_vit(&store.root())?,
        };
        let classifier = Classifier::new(&store.root(), encoder, classes)?;
        let mut average_store = VarStore::new(subject.device);
        let averaged = Classifier::new(&average_store.root(), Vit::new(&average_store.root(), &config)?, classes)?;
        average_store.copy(&store)?;
        average_store.freeze();
        let optimizer = AdamW::with_rates(&store, |name| layer_rate(name, depth, recipe.layer_decay))?;
        Ok(Learner { store, classifier, average_store, averaged, optimizer })
    }

    /// One step on a batch, without waiting for the device; returns its loss.
    ///
    /// Everything random here is seeded by the place in the training.
    fn step(&mut self, task: Task<'_>, batch: &[i64], step: Step) -> Result<Tensor> {
        let Task { subject, train_images, recipe, .. } = task;
        let options = recipe.options;
        let seed = |purpose| seed_for(options.seed, step.epoch, step.index, purpose);
        let (originals, labels) = train_images.select(batch)?;
        let batch_size = options.batch_size;

        tch::manual_seed(seed(Purpose::FirstView));
        let cropped = crop_padded(&originals, &options.crop().draw(batch_size)?)?;
        let images = normalize(&cropped, subject.encoder.mean, subject.encoder.std)?;
        let images = resize(&images, subject.encoder.encoder.config().image_size)?;
        let (height, width) = (images.size()[2], images.size()[3]);
        let images = erase(&images, &options.erasing().draw(batch_size, height, width)?)?;

        tch::manual_seed(seed(Purpose::Mix));
        let mixes = options.pairs().draw(batch_size, height, width)?;
        let images = mix_pairs(&images, &mixes)?;
        let targets = pair_targets(&labels, &mixes, (height, width), train_images.classes(), options.smoothing)?;

        tch::manual_seed(seed(Purpose::Model));
        let logits = self.classifier.forward(&images, true)?;
        // libtorch's cross-entropy takes class probabilities as well as class indices; it ignores no index then.
        let loss = logits.f_cross_entropy_loss(&targets, None::<Tensor>, Reduction::Mean, -100, 0.0)?;
        self.optimizer.zero_grad()?;
        loss.f_backward()?;

        let (steps, warmup) = (options.epochs * step.steps_per_epoch, recipe.warmup_epochs * step.steps_per_epoch);
        let rate = schedule::warmup_cosine(step.done(), steps, warmup, recipe.scaled_lr(), 0.0);
        self.optimizer.step(rate, options.weight_decay)?;
        let decay = schedule::average_decay(step.done(), options.average_decay);
        average_weights(&self.average_store, &self.store, decay)?;
        Ok(loss.f_detach()?)
    }
}

/// The accuracy on the test images, not augmented: whole, not cropped as for frozen features.
fn test_accuracy(classifier: &Classifier, Task { subject, test_images, .. }: Task<'_>) -> Result<Accuracy> {
    let _no_grad = tch::no_grad_guard();
    let (mean, std) = (subject.encoder.mean, subject.encoder.std);
    let (count, batch, size) = (test_images.len(), subject.encoder_batch, classifier.encoder.config().image_size);
    let logits = (0..count).step_by(batch as usize).map(|first| -> Result<Tensor> {
        let images = test_images.images.f_narrow(0, first, batch.min(count - first))?;
        Ok(classifier.forward(&resize(&normalize(&images, mean, std)?, size)?, false)?)
    });
    let logits = Tensor::f_cat(&logits.collect::<Result<Vec<_>>>()?, 0)?;
    Ok(accuracy(&logits, &test_images.labels)?)
}
