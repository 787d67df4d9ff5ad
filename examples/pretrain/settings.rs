//! Everything that decides what a run computes, with the published values.

use std::path::PathBuf;

use patchmix::MixPlan;
use patchmix::contrast::{HeadConfig, LossConfig};
use patchmix::vit::VitConfig;
use serde::{Deserialize, Serialize};
use tch::{Device, Kind};

use super::Result;
use super::dataset_name::DatasetName;
use super::precision::PrecisionName;
use super::recipes::Architecture;
use super::run_folder::MLP_RATIO;

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
    pub(crate) freeze_patch_embedding: bool,
    pub(crate) hidden: i64,
    pub(crate) out_dim: i64,
    pub(crate) batch_size: i64,
    /// In how many parts the encoder works through a batch.
    pub(crate) accumulate: i64,
    pub(crate) epochs: u64,
    pub(crate) warmup_epochs: u64,
    pub(crate) lr: f64,
    pub(crate) weight_decay: f64,
    pub(crate) weight_decay_end: f64,
    pub(crate) crop_min_scale: f64,
    /// Local views of an image; 0 for none.
    pub(crate) local_crops: i64,
    pub(crate) local_size: i64,
    /// The share of an image up to which local crops reach, and from which on global ones beside them do.
    pub(crate) local_max_scale: f64,
    pub(crate) groups: Vec<i64>,
    pub(crate) mix_stride: i64,
    pub(crate) mix_probability: f64,
    pub(crate) temperature: f64,
    pub(crate) smoothing: f64,
    pub(crate) origin_smoothing: f64,
    /// Momentum at the start of the run; 0 for no momentum encoder.
    pub(crate) momentum_encoder: f64,
    pub(crate) precision: PrecisionName,
    /// Whether a GPU takes only algorithms that give the same bits every time.
    #[serde(default)] // runs of earlier versions do not say
    pub(crate) deterministic: bool,
    pub(crate) seed: u64,
    pub(crate) knn_every: u64,
    /// 0 for all.
    pub(crate) knn_images: i64,
    /// 0 for the ends of epochs only.
    pub(crate) save_every: u64,
    #[serde(default = "every_epoch")]
    pub(crate) save_epochs: u64,
    pub(crate) keep: usize,
    pub(crate) max_skipped_steps: u64,
    pub(crate) max_broken_images: u64,
    pub(crate) device: String,
    /// 0 leaves it to libtorch.
    pub(crate) threads: u16,
    /// Threads that decode images; 0 for one a core.
    pub(crate) workers: u16,
}

/// Runs of earlier versions saved at the end of every epoch.
fn every_epoch() -> u64 {
    1
}

/// Attention over more patches has no use and no memory.
const MOST_PATCHES: i64 = 1 << 16;
const MOST_EPOCHS: f64 = 1e6;
const MOST_LOCAL_CROPS: f64 = 64.0;

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
            precision: self.precision.of_products(),
        }
    }

    pub(crate) fn head(&self) -> HeadConfig {
        HeadConfig { hidden: self.hidden, output: self.out_dim }
    }

    /// For batches of `part` images, this rank's part of the batch size.
    pub(crate) fn loss(&self, part: i64) -> LossConfig {
        LossConfig {
            temperature: self.temperature,
            origin_smoothing: self.origin_smoothing,
            mix_smoothing: self.smoothing,
            images_at_a_time: (self.accumulate > 1).then(|| (part + self.accumulate - 1) / self.accumulate),
        }
    }

    /// The learning rate after warm-up: the base rate is for 256 images.
    pub(crate) fn scaled_lr(&self) -> f64 {
        self.lr * self.batch_size as f64 / 256.0
    }

    /// The shape of the encoder for local crops.
    pub(crate) fn local_vit(&self) -> VitConfig {
        VitConfig { image_size: self.local_size, ..self.vit() }
    }

    /// Everything that can be wrong before a file is opened, said as the user would say it.
    pub(crate) fn check(&self) -> Result<()> {
        self.check_model()?;
        self.check_mix(&self.vit(), "--image-size")?;
        if self.local_crops > 0 {
            self.check_mix(&self.local_vit(), "--local-size")?;
        }
        self.check_numbers()
    }

    fn check_model(&self) -> Result<()> {
        self.vit().check().map_err(|error| match error {
            patchmix::Error::Value { name: "parameters", expected, actual } => {
                format!("a model of {actual} parameters: must be {expected}; choose a smaller --image-size or --width")
            }
            patchmix::Error::Value { name, expected, actual } => {
                format!("--{} {actual}: must be {expected}", name.replace('_', "-"))
            }
            other => format!("--image-size, --patch-size: {other}"),
        })?;
        Ok(())
    }

    /// An error unless views of the encoder's size, which `option` sets, can be cut into patches and mixed.
    fn check_mix(&self, vit: &VitConfig, option: &str) -> Result<()> {
        vit.check().map_err(|error| format!("{option}, --patch-size: {error}"))?;
        let patches = vit.patches();
        if patches > MOST_PATCHES {
            return Err(format!("{option}, --patch-size: {patches} patches; {MOST_PATCHES} are the most").into());
        }
        for &groups in &self.groups {
            if !(1..=patches).contains(&groups) {
                let (side, patch) = (vit.image_size, vit.patch_size);
                return Err(format!(
                    "--groups {groups}: images of {side} pixels in patches of {patch} have {patches} patches; \
                     choose between 1 and {patches} groups"
                )
                .into());
            }
        }
        let batch = self.batch_size;
        Ok(self.check_can_mix(batch).map_err(|error| format!("--batch-size {batch}: {error}"))?)
    }

    /// An error unless so many images can be mixed, by every number of groups that may be drawn. The mix itself says
    /// which batch it needs.
    pub(crate) fn check_can_mix(&self, images: i64) -> patchmix::Result<()> {
        self.groups.iter().try_for_each(|&groups| {
            let plan = MixPlan::from_permutation(&(0..groups).collect::<Vec<_>>(), groups, self.mix_stride)?;
            plan.targets(images, Kind::Float, Device::Cpu).map(drop)
        })
    }

    fn check_numbers(&self) -> Result<()> {
        let at_least = [
            ("--limit", self.limit as f64, 0.0),
            ("--batch-size", self.batch_size as f64, 2.0),
            ("--accumulate", self.accumulate as f64, 1.0),
            ("--epochs", self.epochs as f64, 1.0),
            ("--local-crops", self.local_crops as f64, 0.0),
            ("--knn-every", self.knn_every as f64, 1.0),
            ("--knn-images", self.knn_images as f64, 0.0),
            ("--save-epochs", self.save_epochs as f64, 1.0),
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
        let at_most = [
            ("--epochs", self.epochs as f64, MOST_EPOCHS),
            ("--accumulate", self.accumulate as f64, self.batch_size as f64),
            ("--local-crops", self.local_crops as f64, MOST_LOCAL_CROPS),
            ("--workers", self.workers.into(), 1024.0),
        ];
        for (name, value, most) in at_most {
            if value > most {
                return Err(format!("{name} {value}: {most} are the most").into());
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
        self.check_scales()?;
        if !(self.temperature > 0.0 && self.temperature.is_finite()) {
            return Err(format!("--temperature {}: must be above 0", self.temperature).into());
        }
        if self.warmup_epochs > self.epochs {
            let (warmup, epochs) = (self.warmup_epochs, self.epochs);
            return Err(format!("--warmup-epochs {warmup}: must not exceed --epochs {epochs}").into());
        }
        Ok(())
    }

    fn check_scales(&self) -> Result<()> {
        let (least, split) = (self.crop_min_scale, self.local_max_scale);
        if !(least > 0.0 && least <= 1.0) {
            return Err(format!("--crop-min-scale {least}: must be above 0 and at most 1").into());
        }
        if self.local_crops > 0 && !(least..=1.0).contains(&split) {
            return Err(format!("--local-max-scale {split}: must lie between --crop-min-scale {least} and 1").into());
        }
        Ok(())
    }
}
