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
        self.fields()?; // what a config.json cannot hold
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
        if self.online_probe && !self.terms().any(|term| term.name == "origin_to_origin") {
            return Err("--online-probe: learns from the plain queries, so origin-to-origin needs a weight".into());
        }
        self.check_views()?;
        self.check_temperature()?;
        let (momentum, end) = (self.momentum_encoder, self.momentum_end);
        if end < momentum {
            return Err(format!("--momentum-end {end}: must be at least --momentum-encoder {momentum}").into());
        }
        check_warmup(self.warmup_epochs, self.epochs)
    }

    fn check_views(&self) -> Result<()> {
        for (option, odds) in
            [("blur-probability", &self.blur_probability), ("solarize-probability", &self.solarize_probability)]
        {
            if odds.len() != 2 {
                let count = odds.len();
                return Err(format!(
                    "--{option}: got {count} numbers; must be two, for the first and the second view, as in 1,0.1"
                )
                .into());
            }
        }
        Ok(())
    }

    fn check_temperature(&self) -> Result<()> {
        let (start, warmup) = (self.temperature_start, self.temperature_warmup_epochs);
        if warmup > self.epochs {
            let epochs = self.epochs;
            return Err(format!("--temperature-warmup-epochs {warmup}: must not exceed --epochs {epochs}").into());
        }
        match (start > 0.0, warmup > 0) {
            (true, false) => Err(format!(
                "--temperature-start {start}: needs --temperature-warmup-epochs, the epochs to reach --temperature"
            )
            .into()),
            (false, true) => Err(format!(
                "--temperature-warmup-epochs {warmup}: needs --temperature-start, the temperature to begin with"
            )
            .into()),
            _ => Ok(()),
        }
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

    /// Checks that a batch of `images` can be mixed by every number of groups that may be drawn. A run that mixes
    /// nothing takes any batch.
    pub(crate) fn check_can_mix(&self, images: i64) -> patchmix::Result<()> {
        if !self.mixes() || self.mix_probability == 0.0 {
            return Ok(());
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Broken files make a batch smaller; only one that is mixed must fit the groups.
    #[test]
    fn a_batch_that_is_not_mixed_may_have_any_size() {
        let groups = vec![4];
        let mixed = Settings { groups, ..Settings::quick() };
        let unmixed = "mix-to-origin=0,mix-to-mix=0".parse().unwrap();
        assert!(mixed.check_can_mix(3).is_err() && mixed.check_can_mix(4).is_ok());
        assert!(Settings { loss_weights: unmixed, ..mixed.clone() }.check_can_mix(3).is_ok());
        assert!(Settings { mix_probability: 0.0, ..mixed }.check_can_mix(3).is_ok());
    }
}
