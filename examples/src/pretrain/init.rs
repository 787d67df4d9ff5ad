//! The weights that a run begins with, where they are not drawn at random: those of a run or of an encoder file.

use std::collections::HashMap;
use std::path::Path;

use patchmix::Error;
use patchmix::augment::{IMAGENET_MEAN, IMAGENET_STD};
use patchmix::checkpoint::Checkpoint;
use patchmix::contrast::MomentumNetwork;
use patchmix::vit::{EncoderFile, Pooling, VitConfig};
use tch::Tensor;
use tch::nn::VarStore;

use super::learner::Learner;
use crate::Result;
use crate::encoder::{SavedRun, Weights};
use crate::settings::{MLP_RATIO, Settings};
use crate::terminal::shown;

/// What was taken and what was not, in words.
#[derive(Default)]
struct Taken {
    from: String,
    parts: Vec<String>,
    not: Vec<String>,
}

/// Gives a new learner the weights of the run, the checkpoint or the encoder file at `path`, as far as they fit. The
/// encoder must fit, except for the size and the normalization of its images. Returns lines of what was taken and what
/// was not.
pub(super) fn begin_from(path: &Path, settings: &Settings, learner: &Learner) -> Result<Vec<String>> {
    let mut taken = Taken { from: shown(path), ..Taken::default() };
    let weights = Weights::open(path, false).map_err(|error| {
        let is_other_file = matches!(error.downcast_ref(), Some(Error::Checkpoint { .. })) && path.is_file();
        let advice = "; scripts/import_checkpoint.py makes an encoder file of a checkpoint of PyTorch";
        format!("--init: {error}{}", if is_other_file { advice } else { "" })
    })?;
    let done = match &weights {
        Weights::File(file) => taken.take_file(file, settings, learner),
        Weights::Run(saved) => taken.take_run(saved, settings, learner),
    };
    done.map_err(|error| format!("--init {}: {error}", shown(path)))?;
    let Taken { from, parts, not } = taken;
    Ok(vec![
        format!("weights  from {from}"),
        format!("         taken: {}", parts.join(", ")),
        format!("         not taken: {}", not.join("; ")),
    ])
}

impl Taken {
    fn take_file(&mut self, file: &EncoderFile, settings: &Settings, learner: &Learner) -> Result<()> {
        self.take_encoder(file, settings, learner)?;
        self.not.push("projector and predictor, which the file lacks".to_owned());
        if let Some(momentum) = &learner.momentum {
            copy_of_model(learner, momentum)?;
            self.not.push("momentum network, which the file lacks: it begins as a copy".to_owned());
        }
        if file.pooling != Pooling::ClassToken {
            self.not.push("pooling: training is on the class token, not on the mean of the patches".to_owned());
        }
        Ok(())
    }

    fn take_run(&mut self, saved: &SavedRun, settings: &Settings, learner: &Learner) -> Result<()> {
        self.from = shown(&saved.path);
        self.take_encoder(&saved.trained_encoder()?, settings, learner)?;
        let (theirs, ours) = (saved.settings.head(), settings.head());
        let has_heads = theirs == ours;
        if has_heads {
            for part in ["projector", "predictor"] {
                put(saved.checkpoint.part(&format!("model.{part}")), &learner.store, part)?;
                self.parts.push(part.to_owned());
            }
        } else {
            self.not.push(format!(
                "projector and predictor: --hidden {} --out-dim {} there, {} and {} here",
                theirs.hidden, theirs.output, ours.hidden, ours.output
            ));
        }
        match (&learner.momentum, saved.momentum_encoder()) {
            (None, None) => {}
            (None, Some(_)) => self.not.push("momentum network, as --momentum-encoder is off".to_owned()),
            (Some(momentum), Some(encoder)) if has_heads => {
                let encoder = fitting(&encoder, settings)?;
                put(encoder.tensors, momentum.store(), "encoder")?;
                put(saved.checkpoint.part("momentum.projector"), momentum.store(), "projector")?;
                self.parts.push("momentum network".to_owned());
            }
            (Some(momentum), encoder) => {
                copy_of_model(learner, momentum)?;
                let why = if encoder.is_some() { "whose projector does not fit" } else { "which that run lacks" };
                self.not.push(format!("momentum network, {why}: it begins as a copy"));
            }
        }
        self.not.push("optimizer and epoch: this run begins with its own".to_owned());
        Ok(())
    }

    fn take_encoder(&mut self, file: &EncoderFile, settings: &Settings, learner: &Learner) -> Result<()> {
        check_fits(&file.config, settings)?;
        let fitting = fitting(file, settings)?;
        self.parts.push("encoder".to_owned());
        let [before, now] = [&file.config, &fitting.config].map(|config| config.image_size / config.patch_size);
        if before != now {
            self.parts.push(format!("positions interpolated from {before} x {before} to {now} x {now}"));
        }
        if (file.mean, file.std) != (fitting.mean, fitting.std) {
            self.parts.push("normalization of its images adapted".to_owned());
        }
        put(fitting.tensors, &learner.store, "encoder")
    }
}

/// An error that names the first option in which the encoder has another shape than the run's.
fn check_fits(config: &VitConfig, settings: &Settings) -> Result<()> {
    for (what, option, theirs, ours) in [
        ("patches of", "--patch-size", config.patch_size, settings.patch_size),
        ("a width of", "--width", config.width, settings.width),
        ("a depth of", "--depth", config.depth, settings.depth),
        ("attention heads:", "--heads", config.heads, settings.heads),
    ] {
        if theirs != ours {
            let options = match option {
                "--patch-size" => format!("{option} {theirs}"),
                _ => {
                    format!("--arch custom --width {} --depth {} --heads {}", config.width, config.depth, config.heads)
                }
            };
            return Err(format!("its encoder has {what} {theirs}, and this run's {ours}; begin with {options}").into());
        }
    }
    if config.mlp_ratio != MLP_RATIO {
        let ratio = config.mlp_ratio;
        return Err(
            format!("its perceptrons are {ratio} times as wide as a token; only {MLP_RATIO} can be trained").into()
        );
    }
    Ok(())
}

/// The encoder for the run's images, which are normalized as the paper does it.
fn fitting(file: &EncoderFile, settings: &Settings) -> Result<EncoderFile> {
    Ok(file.for_image_size(settings.image_size)?.for_normalization(IMAGENET_MEAN, IMAGENET_STD)?)
}

/// Makes the momentum network a copy of the model, as it begins.
fn copy_of_model(learner: &Learner, momentum: &MomentumNetwork) -> Result<()> {
    put(learner.store.variables(), momentum.store(), "")
}

/// Copies the tensors into the variables below `part` of a store, all of which must be there; all for an empty `part`.
fn put(tensors: HashMap<String, Tensor>, store: &VarStore, part: &str) -> Result<()> {
    let below = |name: &str| Some(name.strip_prefix(part)?.trim_start_matches('.').to_owned());
    let variables = store.variables().into_iter().filter_map(|(name, variable)| Some((below(&name)?, variable)));
    let mut weights = Checkpoint::default();
    weights.insert_all(part, tensors);
    Ok(weights.restore(part, variables.collect(), Path::new("its weights"))?)
}
