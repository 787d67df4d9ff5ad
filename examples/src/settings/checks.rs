//! Checks that concern several settings.

use patchmix::vit::VitConfig;
use patchmix::{Error, MixPlan};

use super::Settings;
use crate::Result;

/// Attention over more patches does not fit in memory.
const MAX_PATCHES: i64 = 1 << 16;

impl Settings {
    /// Checks everything that can be wrong before a file is opened. Errors name the options.
    pub(super) fn check(&self) -> Result<()> {
        self.check_model()?;
        self.check_mix(&self.vit(), "--image-size")?;
        if self.has_local_views() {
            self.check_mix(&self.local_vit(), "--local-size")?;
            let (least, split) = (self.crop_min_scale, self.local_max_scale);
            if !(least..=1.0).contains(&split) {
                return Err(
                    format!("--local-max-scale {split}: must lie between --crop-min-scale {least} and 1").into()
                );
            }
        }
        if self.terms().next().is_none() {
            return Err("--loss-weights: no loss of global views has a weight, and there are no local views".into());
        }
        if self.accumulate > self.batch_size {
            let (accumulate, batch_size) = (self.accumulate, self.batch_size);
            return Err(format!("--accumulate {accumulate}: must not exceed --batch-size {batch_size}").into());
        }
        check_warmup(self.warmup_epochs, self.epochs)
    }

    fn check_model(&self) -> Result<()> {
        self.vit().check().map_err(|error| match error {
            Error::Value { name: "parameters", expected, actual } => {
                format!("a model of {actual} parameters: must be {expected}; choose a smaller --image-size or --width")
            }
            Error::Value { name, expected, actual } => {
                format!("--{} {actual}: must be {expected}", name.replace('_', "-"))
            }
            other => format!("--image-size, --patch-size: {other}"),
        })?;
        Ok(())
    }

    /// Checks that views of the encoder's size, which `option` sets, can be cut into patches and mixed.
    fn check_mix(&self, vit: &VitConfig, option: &str) -> Result<()> {
        vit.check().map_err(|error| format!("{option}, --patch-size: {error}"))?;
        let patches = vit.patches();
        if patches > MAX_PATCHES {
            return Err(format!("{option}, --patch-size: {patches} patches; {MAX_PATCHES} are the most").into());
        }
        let (side, patch) = (vit.image_size, self.mix_block());
        if side % patch != 0 {
            return Err(format!("--mix-patch-size {patch}: must divide {option} {side}").into());
        }
        let patches = (side / patch) * (side / patch);
        for &groups in &self.groups {
            if !(1..=patches).contains(&groups) {
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

    /// Checks that a batch of `images` can be mixed by every number of groups that may be drawn.
    pub(crate) fn check_can_mix(&self, images: i64) -> patchmix::Result<()> {
        self.groups.iter().try_for_each(|&groups| MixPlan::check_batch_size(images, groups, self.mix_stride))
    }
}

/// Checks that warm-up ends with the run at the latest.
pub(crate) fn check_warmup(warmup_epochs: u64, epochs: u64) -> Result<()> {
    if warmup_epochs <= epochs {
        return Ok(());
    }
    Err(format!("--warmup-epochs {warmup_epochs}: must not exceed --epochs {epochs}").into())
}
