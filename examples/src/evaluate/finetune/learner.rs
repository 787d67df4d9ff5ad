//! The classifier, the average of its weights and the optimizer, and one training step.

use patchmix::augment::{crop_padded, erase, mix_pairs, normalize, pair_targets, rand_augment, resize};
use patchmix::finetune::{Classifier, update_rule};
use patchmix::optim::{AdamW, average_weights, schedule};
use patchmix::vit::{EncoderFile, Vit, VitConfig};
use tch::nn::VarStore;
use tch::{Kind, Reduction, Tensor};

use super::super::subject::Subject;
use super::recipe::{FIRST_RATE, LAST_RATE, Recipe};
use crate::Result;
use crate::images::{Batch, BatchImages};
use crate::seeds::{Purpose, seed_for};

/// The place of a step in the training.
#[derive(Debug, Clone, Copy)]
pub(super) struct Step {
    pub(super) epoch: u64,
    /// Number of the batch in its epoch.
    pub(super) index: u64,
    /// Steps before this one.
    pub(super) done: u64,
}

/// The classifier, the average of its weights, and the optimizer.
pub(super) struct Learner {
    pub(super) store: VarStore,
    pub(super) classifier: Classifier,
    pub(super) average_store: VarStore,
    pub(super) averaged: Classifier,
    pub(super) optimizer: AdamW,
}

impl Learner {
    /// A new head on the encoder, or on one with random weights.
    pub(super) fn new(subject: &Subject, recipe: &Recipe<'_>) -> Result<Learner> {
        tch::manual_seed(seed_for(recipe.options.seed, 0, 0, Purpose::Weights));
        let loaded = &subject.encoder;
        let config = VitConfig { drop_path: recipe.options.drop_path, ..loaded.encoder.config().clone() };
        let (depth, classes) = (config.depth, subject.images.classes());
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
        let optimizer = AdamW::with_rules(&store, |name, weight| update_rule(name, weight, depth, recipe.layer_decay))?;
        Ok(Learner { store, classifier, average_store, averaged, optimizer })
    }

    /// An error unless all weights are finite: a broken state must not replace a good one. Waits for the device.
    pub(super) fn check_finite(&self) -> Result<()> {
        let weights = [&self.store, &self.average_store].into_iter().flat_map(VarStore::variables);
        let sums = weights.map(|(_, weight)| weight.f_detach()?.f_sum(Kind::Double));
        let sums = sums.collect::<std::result::Result<Vec<_>, _>>()?;
        // One number for all, because reading waits for a GPU.
        let sum = Tensor::f_stack(&sums, 0)?.f_sum(Kind::Double)?.f_double_value(&[])?;
        if sum.is_finite() { Ok(()) } else { Err("the weights are not finite; a lower --lr may help".into()) }
    }

    /// One step on a batch, without waiting for the device; returns its loss, or `None` if all images are broken.
    ///
    /// Everything random here is seeded by the place in the training.
    pub(super) fn step(
        &mut self,
        subject: &Subject,
        recipe: &Recipe<'_>,
        batch: &Batch,
        step: Step,
    ) -> Result<Option<Tensor>> {
        let options = recipe.options;
        let seed = |purpose| seed_for(options.seed, step.epoch, step.index, purpose);
        let labels = batch.labels()?;
        let batch_size = labels.size()[0];
        if batch_size == 0 {
            return Ok(None);
        }

        // Crop, flip, RandAugment and RandomErasing, each image with its own parameters.
        tch::manual_seed(seed(Purpose::FirstView));
        let originals = match &batch.images {
            BatchImages::Whole(images) => images,
            BatchImages::Cut(crops) => &crops[0],
        };
        let (mean, std) = (subject.encoder.mean, subject.encoder.std);
        let mut images = crop_padded(originals, &recipe.crop().draw(batch_size)?)?;
        if let Some(recipe) = options.rand_augment() {
            let fill = mean.map(|mean| (255.0 * mean).round() as u8);
            images = rand_augment(&images, &recipe.draw(batch_size)?, fill)?;
        }
        let images = normalize(&images, mean, std)?;
        let images = resize(&images, subject.encoder.encoder.config().image_size)?;
        let (height, width) = (images.size()[2], images.size()[3]);
        let images = erase(&images, &options.erasing().draw(batch_size, height, width)?)?;

        // Mixup or CutMix, and the labels of the mixed images.
        tch::manual_seed(seed(Purpose::Mix));
        let mixes = options.pairs().draw(batch_size, height, width)?;
        let images = mix_pairs(&images, &mixes)?;
        let classes = subject.images.classes();
        let targets = pair_targets(labels, &mixes, (height, width), classes, options.smoothing)?;

        tch::manual_seed(seed(Purpose::Model));
        let logits = self.classifier.forward(&images, true)?;
        // libtorch's cross-entropy takes class probabilities as well as class indices; it ignores no index then.
        let loss = logits.f_cross_entropy_loss(&targets, None::<Tensor>, Reduction::Mean, -100, 0.0)?;
        self.optimizer.zero_grad()?;
        loss.f_backward()?;

        let base = recipe.scaled_lr();
        let (first, last) = (FIRST_RATE.min(base), LAST_RATE.min(base));
        let rate = schedule::warmup_over_cosine(step.epoch, options.epochs, recipe.warmup_epochs, base, first, last);
        self.optimizer.step(rate, options.weight_decay)?;
        let decay = schedule::average_decay(step.done, options.average_decay);
        average_weights(&self.average_store, &self.store, decay)?;
        Ok(Some(loss.f_detach()?))
    }
}
