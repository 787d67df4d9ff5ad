//! The published recipes, and a quick one.

use std::path::PathBuf;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use super::dataset_name::DatasetName;
use super::precision::PrecisionName;
use super::program::Program;
use super::settings::Settings;

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
    /// The paper's for ViT-T: no momentum encoder.
    VitTiny,
    /// The paper's for ViT-S: momentum encoder.
    VitSmall,
    /// The paper's for ViT-B: momentum encoder.
    VitBase,
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

    /// The values for a program's images.
    pub(crate) fn settings(self, program: Program) -> Settings {
        let base = match program {
            Program::Cifar => cifar(),
            Program::Imagenet => imagenet(),
        };
        let with_momentum = |arch: Architecture, lr| {
            let (width, depth, heads) = arch.shape().unwrap_or((base.width, base.depth, base.heads));
            Settings {
                arch,
                width,
                depth,
                heads,
                lr,
                weight_decay: 0.04,
                weight_decay_end: 0.4,
                momentum_encoder: 0.996,
                ..base.clone()
            }
        };
        match self {
            Recipe::VitTiny => base,
            Recipe::VitSmall => with_momentum(Architecture::VitSmall, 5e-4),
            Recipe::VitBase => with_momentum(Architecture::VitBase, 7.5e-4),
            Recipe::Quick => quick(program, base),
        }
    }
}

/// The paper's ViT-T on CIFAR.
fn cifar() -> Settings {
    Settings {
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
        freeze_patch_embedding: false,
        hidden: 4096,
        out_dim: 256,
        batch_size: 512,
        accumulate: 1,
        epochs: 800,
        warmup_epochs: 100,
        lr: 2e-3,
        weight_decay: 0.02,
        weight_decay_end: 0.2,
        crop_min_scale: 0.1,
        local_crops: 0,
        local_size: 14,
        local_max_scale: 0.35,
        groups: vec![2],
        mix_stride: 1,
        mix_probability: 1.0,
        temperature: 0.2,
        smoothing: 0.0,
        origin_smoothing: 0.1,
        momentum_encoder: 0.0,
        precision: PrecisionName::Auto,
        deterministic: false,
        seed: 0,
        knn_every: 10,
        knn_images: 0,
        save_every: 0,
        save_epochs: 1,
        keep: 2,
        max_skipped_steps: 0,
        max_broken_images: 100,
        device: "auto".to_owned(),
        threads: 0,
        workers: 0,
    }
}

/// What the paper changes for ImageNet.
fn imagenet() -> Settings {
    Settings {
        dataset: DatasetName::ImageFolder,
        image_size: 224,
        patch_size: 16,
        batch_size: 1024,
        epochs: 300,
        warmup_epochs: 10,
        crop_min_scale: 0.05,
        local_crops: 8,
        local_size: 96,
        knn_images: 50_000,
        ..cifar()
    }
}

/// A small model that two CPU cores train while one looks on.
fn quick(program: Program, base: Settings) -> Settings {
    let cifar = Settings {
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
        ..base
    };
    match program {
        Program::Cifar => cifar,
        Program::Imagenet => Settings {
            image_size: 64,
            patch_size: 8,
            crop_min_scale: 0.15,
            local_crops: 2,
            local_size: 32,
            local_max_scale: 0.4,
            knn_images: 5_000,
            ..cifar
        },
    }
}
