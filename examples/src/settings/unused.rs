//! Options that other settings leave without effect.

use super::Settings;
use super::loss_weights::{WeightsOfTerms, option_name};
use crate::Result;

impl Settings {
    /// An error if one of the options that were given (`is_said`) has no effect on this run.
    pub(super) fn check_unused(&self, is_said: impl Fn(&str) -> bool) -> Result<()> {
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
            refuse(&["temperature", "smoothing", "origin_smoothing"], "--negatives no has no use for it")?;
        }
        if !self.mixes() {
            let why = "no mixed term has a weight in --loss-weights";
            refuse(&["groups", "mix_stride", "mix_probability", "smoothing"], why)?;
            refuse(&["mix_patch_size", "mix_plans", "mix_blocks"], why)?;
        }
        if self.groups == [1] {
            refuse(&["mix_patch_size", "mix_plans", "mix_blocks"], "with --groups 1, a mixed image is the plain one")?;
        }
        if !self.terms().any(|term| ["origin_to_origin", "local_to_origin"].contains(&term.name)) {
            refuse(&["origin_smoothing"], "no plain term has a weight in --loss-weights")?;
        }
        if self.terms().all(|term| term.local) {
            refuse(&["symmetric"], "no term of global views has a weight in --loss-weights")?;
        }
        if !self.has_local_views() && is_said("loss_weights") {
            let published = WeightsOfTerms::default().terms(true).filter(|term| term.local);
            let given: Vec<_> = self.loss_weights.terms(true).filter(|term| term.local).collect();
            if let Some(term) = published.into_iter().find(|term| !given.contains(term)) {
                let name = option_name(&term);
                return Err(format!("--loss-weights {name}: the run has no local views (--local-crops)").into());
            }
        }
        Ok(())
    }
}
