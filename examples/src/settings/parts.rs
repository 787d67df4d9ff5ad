//! What the parts of a run make of its settings.

use patchmix::contrast::{HeadConfig, LossConfig, Term};
use patchmix::vit::VitConfig;

use super::Settings;

/// Hidden width of a block's multilayer perceptron, in multiples of the width; not a setting.
pub(crate) const MLP_RATIO: i64 = 4;

impl Settings {
    /// The encoder for global views.
    pub(crate) fn vit(&self) -> VitConfig {
        VitConfig {
            image_size: self.image_size,
            patch_size: self.patch_size,
            width: self.width,
            depth: self.depth,
            heads: self.heads,
            mlp_ratio: MLP_RATIO,
            drop_path: self.drop_path,
            precision: self.precision.of_products(),
        }
    }

    /// The same encoder for local views.
    pub(crate) fn local_vit(&self) -> VitConfig {
        VitConfig { image_size: self.local_size, ..self.vit() }
    }

    pub(crate) fn head(&self) -> HeadConfig {
        HeadConfig { hidden: self.hidden, output: self.out_dim }
    }

    /// The losses of `part` images, this rank's part of a batch.
    pub(crate) fn loss(&self, part: i64) -> LossConfig {
        LossConfig {
            temperature: self.temperature,
            origin_smoothing: self.origin_smoothing,
            mix_smoothing: self.smoothing,
            micro_batch: (self.accumulate > 1).then(|| (part + self.accumulate - 1) / self.accumulate),
            weights: self.loss_weights.weights(),
            symmetric: self.symmetric,
            negatives: self.negatives,
            mix_patch_size: (self.mix_patch_size > 0).then_some(self.mix_patch_size),
        }
    }

    /// The learning rate after warm-up: the base rate is for 256 images.
    pub(crate) fn scaled_lr(&self) -> f64 {
        self.lr * self.batch_size as f64 / 256.0
    }

    /// The terms of the loss that this run computes, with their weights.
    pub(crate) fn terms(&self) -> impl Iterator<Item = Term> {
        self.loss_weights.terms(self.has_local_views())
    }

    /// Whether there are mixed images: without them, no term has a mixed query.
    pub(crate) fn mixes(&self) -> bool {
        self.terms().any(|term| term.name.contains("mix"))
    }

    /// The side in pixels of the blocks that are mixed.
    pub(crate) fn mix_block(&self) -> i64 {
        if self.mix_patch_size > 0 { self.mix_patch_size } else { self.patch_size }
    }

    /// How many global views become queries, plain or mixed, and how many kinds of every local view do.
    pub(crate) fn query_passes(&self) -> (i64, i64) {
        let count = |local: bool, mixed: bool| {
            let is_one = |term: Term| term.local == local && term.name.contains("mix") == mixed;
            i64::from(self.terms().any(is_one))
        };
        let directions = if self.symmetric { 2 } else { 1 };
        (directions * (count(false, false) + count(false, true)), count(true, false) + count(true, true))
    }

    pub(crate) fn has_local_views(&self) -> bool {
        self.local_crops > 0
    }
}
