//! Options that other settings leave without effect.

use super::Settings;
use super::loss_weights::option_name;
use crate::Result;

/// Options that only images mixed of several have a use for.
const SHAPES_OF_A_MIX: [&str; 4] = ["mix_stride", "mix_patch_size", "mix_plans", "mix_blocks"];

impl Settings {
    /// An error if one of the options that were given (`is_said`) has no effect on this run. `below` are the settings
    /// without them.
    pub(super) fn check_unused(&self, below: &Settings, is_said: impl Fn(&str) -> bool) -> Result<()> {
        let refuse = |names: &[&str], why: &str| match names.iter().find(|name| is_said(name)) {
            Some(name) => Err(format!("--{}: {why}; leave it out", name.replace('_', "-"))),
            None => Ok(()),
        };
        if self.momentum_encoder == 0.0 {
            refuse(&["momentum_end"], "there is no momentum encoder; give --momentum-encoder too, or")?;
        }
        if self.jitter_probability == 0.0 {
            refuse(&["jitter_strength"], "--jitter-probability 0 leaves no view to jitter")?;
        }
        if !self.negatives {
            let why = "--negatives no has no use for it";
            refuse(&["temperature", "temperature_start", "temperature_warmup_epochs"], why)?;
            refuse(&["smoothing", "origin_smoothing"], why)?;
        }
        if !self.mixes() {
            let why = "no mixed term has a weight in --loss-weights";
            refuse(&["groups", "mix_probability", "smoothing"], why)?;
            refuse(&SHAPES_OF_A_MIX, why)?;
        }
        if self.groups.iter().all(|groups| *groups == 1) {
            let why = "with --groups 1, a mixed image is the plain one";
            refuse(&["mix_probability"], why)?;
            refuse(&SHAPES_OF_A_MIX, why)?;
        }
        if self.mix_probability == 0.0 {
            let why = "with --mix-probability 0, a mixed image is the plain one";
            refuse(&["groups"], why)?;
            refuse(&SHAPES_OF_A_MIX, why)?;
        }
        if !self.has_local_views() {
            refuse(&["local_size", "local_max_scale"], "the run has no local views (--local-crops)")?;
        }
        if !self.terms().any(|term| ["origin_to_origin", "local_to_origin"].contains(&term.name)) {
            refuse(&["origin_smoothing"], "no plain term has a weight in --loss-weights")?;
        }
        if self.terms().all(|term| term.local) {
            refuse(&["symmetric"], "no term of global views has a weight in --loss-weights")?;
        }
        if !self.has_local_views()
            && let Some(term) = self.loss_weights.changed_local_term(below.loss_weights)
        {
            let name = option_name(&term);
            return Err(format!("--loss-weights {name}: the run has no local views (--local-crops)").into());
        }
        Ok(())
    }
}
