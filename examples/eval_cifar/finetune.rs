//! Fine-tuning: the whole encoder is trained on with labels, in one loop, [`train`].

use std::process::ExitCode;
use std::sync::atomic::Ordering;

use patchmix::augment::{crop_padded, erase, mix_pairs, normalize, pair_targets, resize};
use patchmix::data::Batches;
use patchmix::eval::{Accuracy, accuracy, features};
use patchmix::finetune::{Classifier, layer_rate};
use patchmix::optim::{AdamW, average_weights, schedule};
use patchmix::random::{Purpose, seed_for};
use patchmix::vit::{EncoderFile, Pooling, Vit, VitConfig};
use serde_json::{Value, json};
use tch::nn::VarStore;
use tch::{Kind, Reduction, Tensor};

use crate::Result;
use crate::args::FinetuneArguments;
use crate::evaluate::report::{accuracy_json, announce, percent, progress, write_json};
use crate::evaluate::subject;
use crate::interruption::interruption;
use crate::memory::{EVALUATION_BATCH, MemoryImages};
use crate::recipe::Recipe;

type Subject = subject::Subject<MemoryImages>;

pub(crate) fn run(arguments: &FinetuneArguments) -> Result<ExitCode> {
    let subject = Subject::load(&arguments.subject)?;
    let recipe = Recipe::new(arguments, subject.encoder.encoder.config().width);
    recipe.check()?;
    subject.check_batch_size(recipe.batch_size)?;
    let Recipe { epochs, batch_size, .. } = recipe;
    let from = if recipe.from_scratch { "from scratch" } else { "fine-tuning" };
    announce(
        &subject,
        &format!("{from}, class token; batch {batch_size}, {epochs} epochs, learning rate {}", recipe.lr),
    );
    let Some(measurements) = train(&subject, &recipe, arguments.measure_every, from)? else {
        return Ok(ExitCode::from(130)); // as shells report an interrupted program
    };
    if let Some(Measurement { averaged_weights, last_weights, .. }) = measurements.last() {
        for (name, accuracy, of) in
            [(from, averaged_weights, "  (averaged weights)"), ("last weights", last_weights, "")]
        {
            println!("{name:<12}  top-1 {}  top-5 {}{of}", percent(accuracy.top1), percent(accuracy.top5));
        }
    }
    let epochs: Vec<Value> = measurements.iter().map(Measurement::to_json).collect();
    let result = measurements.last().map(|measurement| accuracy_json(measurement.averaged_weights));
    let results = json!({ "recipe": recipe, "accuracy": result, "epochs": epochs });
    write_json(arguments.subject.json.as_deref(), "finetune", &subject, results)?;
    Ok(ExitCode::SUCCESS)
}

/// What is known after an epoch.
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

/// The training, from the first batch to the last; nothing if it was interrupted.
fn train(subject: &Subject, recipe: &Recipe, measure_every: u64, name: &str) -> Result<Option<Vec<Measurement>>> {
    let interrupted = interruption("stopping after this step")?;
    let mut learner = Learner::new(subject, recipe)?;
    let (count, epochs) = (subject.images.train.len(), recipe.epochs);
    let steps_per_epoch = count as u64 / recipe.batch_size as u64;
    let bar = progress(epochs * steps_per_epoch, name);
    let mut measurements = Vec::new();
    for epoch in 1..=epochs {
        let batches = Batches::new(count, recipe.batch_size, recipe.seed, epoch - 1)?;
        let mut loss_sum = Tensor::f_zeros([], (Kind::Float, subject.device))?;
        for (index, batch) in (0..).zip(batches.iter()) {
            let step = Step { epoch: epoch - 1, index, steps_per_epoch };
            loss_sum = loss_sum.f_add(&learner.step(subject, recipe, batch, step)?)?;
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
            let averaged_weights = test_accuracy(&learner.averaged, subject)?;
            let last_weights = test_accuracy(&learner.classifier, subject)?;
            let [averaged, last] = [averaged_weights, last_weights].map(|accuracy| percent(accuracy.top1));
            line += &format!("  top-1 {averaged} averaged weights, {last} last weights");
            measurements.push(Measurement { epoch, loss, averaged_weights, last_weights });
        }
        bar.suspend(|| eprintln!("{line}"));
    }
    bar.finish_and_clear();
    Ok(Some(measurements))
}

/// Where a step is in the training.
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

/// What learns: the classifier, the average of its weights, and the optimizer.
struct Learner {
    store: VarStore,
    classifier: Classifier,
    average_store: VarStore,
    averaged: Classifier,
    optimizer: AdamW,
}

impl Learner {
    fn new(subject: &Subject, recipe: &Recipe) -> Result<Learner> {
        tch::manual_seed(seed_for(recipe.seed, 0, 0, Purpose::Weights));
        let loaded = &subject.encoder;
        let config = VitConfig { drop_path: recipe.drop_path, ..loaded.encoder.config().clone() };
        let (depth, classes) = (config.depth, subject.images.train.classes());
        let store = VarStore::new(subject.device);
        let encoder = match recipe.from_scratch {
            true => Vit::new(&store.root(), &config)?,
            false => EncoderFile {
                config: config.clone(),
                mean: loaded.mean,
                std: loaded.std,
                pooling: loaded.pooling,
                tensors: loaded.store.variables(),
            }
            .to_vit(&store.root())?,
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
    fn step(&mut self, subject: &Subject, recipe: &Recipe, batch: &[i64], step: Step) -> Result<Tensor> {
        let seed = |purpose| seed_for(recipe.seed, step.epoch, step.index, purpose);
        let (originals, labels) = subject.images.train.select(batch)?;
        let batch_size = recipe.batch_size;

        tch::manual_seed(seed(Purpose::FirstView));
        let cropped = crop_padded(&originals, &recipe.crop().draw(batch_size)?)?;
        let images = normalize(&cropped, subject.encoder.mean, subject.encoder.std)?;
        let images = resize(&images, subject.encoder.encoder.config().image_size)?;
        let (height, width) = (images.size()[2], images.size()[3]);
        let images = erase(&images, &recipe.erasing().draw(batch_size, height, width)?)?;

        tch::manual_seed(seed(Purpose::Mix));
        let mixes = recipe.pairs().draw(batch_size, height, width)?;
        let images = mix_pairs(&images, &mixes)?;
        let targets = pair_targets(&labels, &mixes, (height, width), subject.images.train.classes(), recipe.smoothing)?;

        tch::manual_seed(seed(Purpose::Model));
        let logits = self.classifier.forward(&images, true)?;
        // libtorch's cross-entropy takes a distribution for every image as well as a class; then it ignores none.
        let loss = logits.f_cross_entropy_loss(&targets, None::<Tensor>, Reduction::Mean, -100, 0.0)?;
        self.optimizer.zero_grad()?;
        loss.f_backward()?;

        let (steps, warmup) = (recipe.epochs * step.steps_per_epoch, recipe.warmup_epochs * step.steps_per_epoch);
        let rate = schedule::warmup_cosine(step.done(), steps, warmup, recipe.scaled_lr(), 0.0);
        self.optimizer.step(rate, recipe.weight_decay)?;
        let decay = schedule::average_decay(step.done(), recipe.average_decay);
        average_weights(&self.average_store, &self.store, decay)?;
        Ok(loss.f_detach()?)
    }
}

/// The accuracy on the test images as they are.
fn test_accuracy(classifier: &Classifier, subject: &Subject) -> Result<Accuracy> {
    let _no_grad = tch::no_grad_guard();
    let (mean, std) = (subject.encoder.mean, subject.encoder.std);
    let features =
        features(&classifier.encoder, Pooling::ClassToken, &subject.images.test, mean, std, EVALUATION_BATCH)?;
    Ok(accuracy(&classifier.logits(&features)?, &subject.images.test.labels)?)
}
