//! Everything that decides what a run computes, with the published values.

use std::path::PathBuf;

use clap::ValueEnum;
use patchmix::contrast::{HeadConfig, LossConfig};
use patchmix::vit::{Precision, VitConfig};
use serde::{Deserialize, Serialize};

use crate::Result;
use crate::dataset_name::DatasetName;
use crate::run_folder::MLP_RATIO;

/// Shape of the encoder.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Architecture {
    /// Width 192, 12 blocks, 3 heads.
    VitTiny,
    /// Width 384, 12 blocks, 12 heads.
    VitSmall,
    /// Width 768, 12 blocks, 12 heads.
    VitBase,
    /// What --width, --depth and --heads say.
    Custom,
}

/// A set of values for everything.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Recipe {
    /// A small model that learns in minutes on two CPU cores.
    Quick,
    /// The paper's ViT-T on CIFAR: 800 epochs, no momentum encoder.
    VitTiny,
    /// The paper's ViT-S on CIFAR: 800 epochs, momentum encoder.
    VitSmall,
    /// The paper's ViT-B on CIFAR: 800 epochs, momentum encoder.
    VitBase,
}

/// In what the matrix products are computed; weights, norms, softmax and losses stay float32.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum PrecisionName {
    F32,
    Bf16,
}

/// All settings of a run; `config.json` holds them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Settings {
    pub(crate) dataset: DatasetName,
    pub(crate) data: PathBuf,
    /// Number of training images used; 0 for all.
    pub(crate) limit: i64,
    pub(crate) image_size: i64,
    pub(crate) arch: Architecture,
    pub(crate) width: i64,
    pub(crate) depth: i64,
    pub(crate) heads: i64,
    pub(crate) patch_size: i64,
    pub(crate) drop_path: f64,
    pub(crate) hidden: i64,
    pub(crate) out_dim: i64,
    pub(crate) batch_size: i64,
    pub(crate) epochs: u64,
    pub(crate) warmup_epochs: u64,
    pub(crate) lr: f64,
    pub(crate) weight_decay: f64,
    pub(crate) weight_decay_end: f64,
    pub(crate) crop_min_scale: f64,
    pub(crate) groups: Vec<i64>,
    pub(crate) mix_stride: i64,
    pub(crate) mix_probability: f64,
    pub(crate) temperature: f64,
    pub(crate) smoothing: f64,
    pub(crate) origin_smoothing: f64,
    /// Momentum at the start of the run; 0 for no momentum encoder.
    pub(crate) momentum_encoder: f64,
    pub(crate) precision: PrecisionName,
    pub(crate) seed: u64,
    pub(crate) knn_every: u64,
    /// 0 for the ends of epochs only.
    pub(crate) save_every: u64,
    pub(crate) keep: usize,
    pub(crate) max_skipped_steps: u64,
    pub(crate) device: String,
    /// 0 leaves it to libtorch.
    pub(crate) threads: u16,
}

impl Architecture {
    /// Width, depth and heads.
    pub(crate) fn shape(self) -> Option<(i64, i64, i64)> {
        match self {
            Architecture::VitTiny => Some((192, 12, 3)),
            Architecture::VitSmall => Some((384, 12, 12)),
            Architecture::VitBase => Some((768, 12, 12)),
            Architecture::Custom => None,
        }
    }
}

impl Recipe {
    /// The published recipe of an architecture.
    pub(crate) fn published(architecture: Architecture) -> Recipe {
        match architecture {
            Architecture::VitTiny | Architecture::Custom => Recipe::VitTiny,
            Architecture::VitSmall => Recipe::VitSmall,
            Architecture::VitBase => Recipe::VitBase,
        }
    }

    pub(crate) fn settings(self) -> Settings {
        let vit_tiny = Settings {
            dataset: DatasetName::Builtin,
            data: PathBuf::from("data"),
            limit: 0,
            image_size: 32,
            arch: Architecture::VitTiny,
            width: 192,
            depth: 12,
            heads: 3,
            patch_size: 2,
            drop_path: 0.1,
            hidden: 4096,
            out_dim: 256,
            batch_size: 512,
            epochs: 800,
            warmup_epochs: 100,
            lr: 2e-3,
            weight_decay: 0.02,
            weight_decay_end: 0.2,
            crop_min_scale: 0.1,
            groups: vec![2],
            mix_stride: 1,
            mix_probability: 1.0,
            temperature: 0.2,
            smoothing: 0.0,
            origin_smoothing: 0.1,
            momentum_encoder: 0.0,
            precision: PrecisionName::F32,
            seed: 0,
            knn_every: 10,
            save_every: 0,
            keep: 2,
            max_skipped_steps: 0,
            device: "auto".to_owned(),
            threads: 0,
        };
        let with_momentum = |arch: Architecture, lr| {
            let (width, depth, heads) = arch.shape().unwrap_or((vit_tiny.width, vit_tiny.depth, vit_tiny.heads));
            Settings {
                arch,
                width,
                depth,
                heads,
                lr,
                weight_decay: 0.04,
                weight_decay_end: 0.4,
                momentum_encoder: 0.996,
                ..vit_tiny.clone()
            }
        };
        match self {
            Recipe::VitTiny => vit_tiny,
            Recipe::VitSmall => with_momentum(Architecture::VitSmall, 5e-4),
            Recipe::VitBase => with_momentum(Architecture::VitBase, 7.5e-4),
            Recipe::Quick => Settings {
                arch: Architecture::Custom,
                width: 64,
                depth: 3,
                heads: 2,
                patch_size: 4,
                drop_path: 0.0,
                hidden: 512,
                out_dim: 128,
                batch_size: 64,
                epochs: 12,
                warmup_epochs: 1,
                lr: 4e-3,
                crop_min_scale: 0.4,
                knn_every: 2,
                ..vit_tiny
            },
        }
    }
}

/// Attention over more patches has no use and no memory.
const MOST_PATCHES: i64 = 1 << 16;
const MOST_EPOCHS: u64 = 1_000_000;

impl Settings {
    pub(crate) fn vit(&self) -> VitConfig {
        VitConfig {
            image_size: self.image_size,
            patch_size: self.patch_size,
            width: self.width,
            depth: self.depth,
            heads: self.heads,
            mlp_ratio: MLP_RATIO,
            drop_path: self.drop_path,
            precision: match self.precision {
                PrecisionName::F32 => Precision::Full,
                PrecisionName::Bf16 => Precision::BFloat16,
            },
        }
    }

    pub(crate) fn head(&self) -> HeadConfig {
        HeadConfig { hidden: self.hidden, output: self.out_dim }
    }

    pub(crate) fn loss(&self) -> LossConfig {
        LossConfig {
            temperature: self.temperature,
            origin_smoothing: self.origin_smoothing,
            mix_smoothing: self.smoothing,
        }
    }

    /// The learning rate after warm-up: the base rate is for 256 images.
    pub(crate) fn scaled_lr(&self) -> f64 {
        self.lr * self.batch_size as f64 / 256.0
    }

    /// Everything that can be wrong before a file is opened, said as the user would say it.
    pub(crate) fn check(&self) -> Result<()> {
        self.vit().check().map_err(|error| match error {
            patchmix::Error::Value { name: "parameters", expected, actual } => {
                format!("a model of {actual} parameters: must be {expected}; choose a smaller --image-size or --width")
            }
            patchmix::Error::Value { name, expected, actual } => {
                format!("--{} {actual}: must be {expected}", name.replace('_', "-"))
            }
            other => format!("--image-size, --patch-size: {other}"),
        })?;
        let patches = self.vit().patches();
        if patches > MOST_PATCHES {
            return Err(format!("--image-size, --patch-size: {patches} patches; {MOST_PATCHES} are the most").into());
        }
        for &groups in &self.groups {
            if !(1..=patches).contains(&groups) {
                let (side, patch) = (self.image_size, self.patch_size);
                return Err(format!(
                    "--groups {groups}: images of {side} pixels in patches of {patch} have {patches} patches; \
                     choose between 1 and {patches} groups"
                )
                .into());
            }
            // The mix itself says which batch it needs.
            patchmix::MixPlan::from_permutation(&(0..patches).collect::<Vec<_>>(), groups, self.mix_stride)?
                .targets(self.batch_size, tch::Kind::Float, tch::Device::Cpu)
                .map_err(|error| format!("--batch-size {}: {error}", self.batch_size))?;
        }
        let at_least = [
            ("--limit", self.limit as f64, 0.0),
            ("--batch-size", self.batch_size as f64, 2.0),
            ("--epochs", self.epochs as f64, 1.0),
            ("--knn-every", self.knn_every as f64, 1.0),
            ("--keep", self.keep as f64, 1.0),
            ("--hidden", self.hidden as f64, 1.0),
            ("--out-dim", self.out_dim as f64, 1.0),
            ("--groups, how many values", self.groups.len() as f64, 1.0),
            ("--lr", self.lr, 0.0),
            ("--weight-decay", self.weight_decay, 0.0),
            ("--weight-decay-end", self.weight_decay_end, 0.0),
        ];
        for (name, value, least) in at_least {
            if !(value >= least && value.is_finite()) {
                return Err(format!("{name} {value}: must be at least {least}").into());
            }
        }
        let shares = [
            ("--mix-probability", self.mix_probability),
            ("--smoothing", self.smoothing),
            ("--origin-smoothing", self.origin_smoothing),
            ("--momentum-encoder", self.momentum_encoder),
        ];
        for (name, value) in shares {
            if !(0.0..=1.0).contains(&value) {
                return Err(format!("{name} {value}: must lie between 0 and 1").into());
            }
        }
        if !(self.crop_min_scale > 0.0 && self.crop_min_scale <= 1.0) {
            return Err(format!("--crop-min-scale {}: must be above 0 and at most 1", self.crop_min_scale).into());
        }
        if !(self.temperature > 0.0 && self.temperature.is_finite()) {
            return Err(format!("--temperature {}: must be above 0", self.temperature).into());
        }
        if self.epochs > MOST_EPOCHS {
            return Err(format!("--epochs {}: {MOST_EPOCHS} are the most", self.epochs).into());
        }
        if self.warmup_epochs > self.epochs {
            let (warmup, epochs) = (self.warmup_epochs, self.epochs);
            return Err(format!("--warmup-epochs {warmup}: must not exceed --epochs {epochs}").into());
        }
        Ok(())
    }
}
