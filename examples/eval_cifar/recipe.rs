//! Everything that decides what fine-tuning computes.

use patchmix::augment::{ErasingRecipe, PaddedCropRecipe, PairMixRecipe};
use serde::Serialize;

use crate::Result;
use crate::args::FinetuneArguments;

/// The settings of a fine-tuning, with the defaults that depend on others filled in.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Recipe {
    pub(crate) from_scratch: bool,
    pub(crate) epochs: u64,
    pub(crate) warmup_epochs: u64,
    pub(crate) batch_size: i64,
    pub(crate) lr: f64,
    pub(crate) layer_decay: f64,
    pub(crate) weight_decay: f64,
    pub(crate) drop_path: f64,
    pub(crate) smoothing: f64,
    pub(crate) mixup: f64,
    pub(crate) cutmix: f64,
    pub(crate) cutmix_share: f64,
    pub(crate) erasing: f64,
    pub(crate) padding: i64,
    pub(crate) average_decay: f64,
    pub(crate) seed: u64,
}

/// The width of ViT-T, up to which the higher of the two published rates is the default.
const TINY_WIDTH: i64 = 192;

impl Recipe {
    /// The published values where the options leave it open, for an encoder of `width`.
    pub(crate) fn new(arguments: &FinetuneArguments, width: i64) -> Recipe {
        let published_rate = if width <= TINY_WIDTH { 1e-3 } else { 5e-4 };
        // Low layers are to be kept where they are good, which random ones are not.
        let layer_decay = if arguments.from_scratch { 1.0 } else { 0.75 };
        Recipe {
            from_scratch: arguments.from_scratch,
            epochs: arguments.epochs,
            warmup_epochs: arguments.warmup_epochs.unwrap_or((arguments.epochs / 5).min(5)),
            batch_size: arguments.batch_size,
            lr: arguments.lr.unwrap_or(published_rate),
            layer_decay: arguments.layer_decay.unwrap_or(layer_decay),
            weight_decay: arguments.weight_decay,
            drop_path: arguments.drop_path,
            smoothing: arguments.smoothing,
            mixup: arguments.mixup,
            cutmix: arguments.cutmix,
            cutmix_share: arguments.cutmix_share,
            erasing: arguments.erasing,
            padding: arguments.padding,
            average_decay: arguments.average_decay,
            seed: arguments.seed,
        }
    }

    /// Everything that can be wrong with the options, said as the user would say it.
    pub(crate) fn check(&self) -> Result<()> {
        let between = [
            ("--lr", self.lr, f64::MIN_POSITIVE, 1e6),
            ("--layer-decay", self.layer_decay, f64::MIN_POSITIVE, 1.0),
            ("--weight-decay", self.weight_decay, 0.0, 1e6),
            ("--drop-path", self.drop_path, 0.0, 0.99),
            ("--smoothing", self.smoothing, 0.0, 1.0),
            ("--cutmix-share", self.cutmix_share, 0.0, 1.0),
            ("--erasing", self.erasing, 0.0, 1.0),
            ("--padding", self.padding as f64, 0.0, 1024.0),
            ("--average-decay", self.average_decay, 0.0, 1.0),
        ];
        for (name, value, least, most) in between {
            if !(least..=most).contains(&value) {
                let least = if least == f64::MIN_POSITIVE { "above 0".to_owned() } else { format!("at least {least}") };
                return Err(format!("{name} {value}: must be {least} and at most {most}").into());
            }
        }
        for (name, alpha) in [("--mixup", self.mixup), ("--cutmix", self.cutmix)] {
            if alpha != 0.0 && !(0.01..=100.0).contains(&alpha) {
                return Err(format!("{name} {alpha}: must be 0 for none, or between 0.01 and 100").into());
            }
        }
        if self.warmup_epochs > self.epochs {
            let (warmup, epochs) = (self.warmup_epochs, self.epochs);
            return Err(format!("--warmup-epochs {warmup}: must not exceed --epochs {epochs}").into());
        }
        Ok(())
    }

    pub(crate) fn crop(&self) -> PaddedCropRecipe {
        PaddedCropRecipe { padding: self.padding, ..PaddedCropRecipe::default() }
    }

    pub(crate) fn erasing(&self) -> ErasingRecipe {
        ErasingRecipe { probability: self.erasing, ..ErasingRecipe::default() }
    }

    pub(crate) fn pairs(&self) -> PairMixRecipe {
        PairMixRecipe { mixup_alpha: self.mixup, cutmix_alpha: self.cutmix, switch_probability: self.cutmix_share }
    }

    /// The learning rate after warm-up: the base rate is for 256 images.
    pub(crate) fn scaled_lr(&self) -> f64 {
        self.lr * self.batch_size as f64 / 256.0
    }
}
