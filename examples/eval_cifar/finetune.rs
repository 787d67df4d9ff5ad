//! Fine-tuning: the whole encoder is trained on with labels, in one loop, [`run`].

use std::sync::atomic::Ordering;

use patchmix::augment::{crop_padded, erase, mix_pairs, normalize, pair_targets, resize};
use patchmix::data::Batches;
use patchmix::eval::{Accuracy, accuracy, features};
use patchmix::finetune::{Classifier, layer_rate};
use patchmix::optim::{AdamW, average_weights, schedule};
use patchmix::random::{Purpose, seed_for};
use patchmix::vit::{EncoderFile, Pooling, Vit, VitConfig};
use serde_json::json;
use tch::nn::VarStore;
use tch::{Kind, Reduction, Tensor};

use crate::args::FinetuneArguments;
use crate::interruption::interruption;
use crate::recipe::Recipe;
use crate::report::{accuracy_json, announce, percent, progress, write_json};
use crate::subject::{EVALUATION_BATCH, Subject};
use crate::{Outcome, Result};

pub(crate) fn run(arguments: &FinetuneArguments) -> Result<Outcome> {
    let subject = Subject::load(&arguments.subject)?;
    let recipe = Recipe::new(arguments, subject.encoder.encoder.config().width);
    recipe.check()?;
    subject.check_batch_size(recipe.batch_size)?;
    let Recipe { epochs, batch_size, seed, .. } = recipe;
    let from = if recipe.from_scratch { "from scratch" } else { "fine-tuning" };
    announce(&subject, &format!("{from}, batch {batch_size}, {epochs} epochs, learning rate {}", recipe.lr));
    let interrupted = interruption("stopping after this step")?;

    let mut learner = Learner::new(&subject, &recipe)?;
    let steps_per_epoch = subject.train.len() as u64 / batch_size as u64;
    let bar = progress(epochs * steps_per_epoch, from);
    let mut measurements = Vec::new();
    for epoch in 0..epochs {
        let batches = Batches::new(subject.train.len(), batch_size, seed, epoch)?;
        let mut loss_sum = Tensor::zeros([], (Kind::Float, subject.device));
        for (index, batch) in (0..).zip(batches.iter()) {
            let step = Step { epoch, index, done: epoch * steps_per_epoch + index, steps_per_epoch };
            loss_sum += learner.step(&subject, &recipe, batch, step)?;
            bar.inc(1);
            if interrupted.load(Ordering::Relaxed) {
                bar.finish_and_clear();
                eprintln!("stopped in epoch {} of {epochs}; nothing was written", epoch + 1);
                return Ok(Outcome::Interrupted);
            }
        }
        let loss = loss_sum.double_value(&[]) / steps_per_epoch as f64;
        if !loss.is_finite() {
            bar.finish_and_clear();
            return Err(format!("epoch {}: the loss is not finite; a lower --lr may help", epoch + 1).into());
        }
        let mut line =
            format!("epoch {:>width$}/{epochs}  loss {loss:.3}", epoch + 1, width = epochs.to_string().len());
        if (epoch + 1).is_multiple_of(arguments.measure_every) || epoch + 1 == epochs {
            let (weights, averaged) = (learner.accuracy(&subject)?, learner.averaged_accuracy(&subject)?);
            line += &format!("  top-1 {}, averaged weights {}", percent(weights.top1), percent(averaged.top1));
            measurements.push((epoch + 1, loss, weights, averaged));
        }
        bar.suspend(|| eprintln!("{line}"));
    }
    bar.finish_and_clear();
    if let Some((_, _, weights, averaged)) = measurements.last() {
        println!("{from:<12}  top-1 {}  top-5 {}  (averaged weights)", percent(averaged.top1), percent(averaged.top5));
        println!("{:<12}  top-1 {}  top-5 {}", "last weights", percent(weights.top1), percent(weights.top5));
    }
    let epochs = measurements.into_iter().map(|(epoch, loss, weights, averaged)| {
        let (weights, averaged) = (accuracy_json(weights), accuracy_json(averaged));
        json!({ "epoch": epoch, "loss": loss, "last_weights": weights, "averaged_weights": averaged })
    });
    let results = json!({ "recipe": recipe, "epochs": epochs.collect::<Vec<_>>() });
    write_json(arguments.subject.json.as_deref(), "finetune", &subject, results)?;
    Ok(Outcome::Finished)
}

/// Where a step is in the training.
#[derive(Debug, Clone, Copy)]
struct Step {
    epoch: u64,
    /// Number of the batch in its epoch.
    index: u64,
    /// Steps before this one.
    done: u64,
    steps_per_epoch: u64,
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
        let (depth, classes) = (config.depth, subject.train.classes());
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
        let (originals, labels) = subject.train.select(batch)?;
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
        let targets = pair_targets(&labels, &mixes, (height, width), subject.train.classes(), recipe.smoothing)?;

        tch::manual_seed(seed(Purpose::Model));
        let logits = self.classifier.forward(&images, true)?;
        // libtorch's cross-entropy takes a distribution for every image as well as a class; then it ignores none.
        let loss = logits.f_cross_entropy_loss(&targets, None::<Tensor>, Reduction::Mean, -100, 0.0)?;
        self.optimizer.zero_grad()?;
        loss.f_backward()?;

        let (steps, warmup) = (recipe.epochs * step.steps_per_epoch, recipe.warmup_epochs * step.steps_per_epoch);
        let rate = schedule::warmup_cosine(step.done, steps, warmup, recipe.scaled_lr(), 0.0);
        self.optimizer.step(rate, recipe.weight_decay)?;
        let decay = schedule::average_decay(step.done, recipe.average_decay);
        average_weights(&self.average_store, &self.store, decay)?;
        Ok(loss.detach())
    }

    fn accuracy(&self, subject: &Subject) -> Result<Accuracy> {
        test_accuracy(&self.classifier, subject)
    }

    fn averaged_accuracy(&self, subject: &Subject) -> Result<Accuracy> {
        test_accuracy(&self.averaged, subject)
    }
}

/// The accuracy on the test images as they are.
fn test_accuracy(classifier: &Classifier, subject: &Subject) -> Result<Accuracy> {
    let _no_grad = tch::no_grad_guard();
    let (mean, std) = (subject.encoder.mean, subject.encoder.std);
    let features = features(&classifier.encoder, Pooling::ClassToken, &subject.test, mean, std, EVALUATION_BATCH)?;
    Ok(accuracy(&classifier.logits(&features)?, &subject.test.labels)?)
}
