//! What the parts of a run make of its settings.

use patchmix::contrast::{HeadConfig, LossConfig};
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
        }
    }

    /// The learning rate after warm-up: the base rate is for 256 images.
    pub(crate) fn scaled_lr(&self) -> f64 {
        self.lr * self.batch_size as f64 / 256.0
    }

    pub(crate) fn has_local_views(&self) -> bool {
        self.local_crops > 0
    }
}
