//! The command line: settings laid over a recipe, or over those of the run that goes on.

use std::path::PathBuf;

use clap::{Args, CommandFactory, FromArgMatches, Parser};
use serde::Serialize;
use serde_json::{Map, Value};

use crate::Result;
use crate::dataset_name::DatasetName;
use crate::settings::{Architecture, PrecisionName, Recipe, Settings};

/// Pre-trains a Vision Transformer with PatchMix.
///
/// Without arguments: a small model on images that the program draws itself, in a few minutes. With `--dataset cifar10`
/// or `cifar100`: the paper's recipe for the architecture, every value of which can be changed.
#[derive(Debug, Parser)]
#[command(name = "pretrain_cifar", version)]
pub(crate) struct Arguments {
    /// Values for everything that is not given [default: quick for the built-in images; for CIFAR the paper's for --arch]
    #[arg(long, value_enum, conflicts_with = "resume")]
    pub(crate) recipe: Option<Recipe>,

    /// Folder for checkpoints, metrics and pictures [default: runs/DATASET or runs/DATASET-ARCH, numbered if taken]
    #[arg(long, value_name = "DIR")]
    pub(crate) out: Option<PathBuf>,

    /// Go on with the run in --out; its settings are taken from there
    #[arg(long, requires = "out")]
    pub(crate) resume: bool,

    /// Save and stop after so many steps, to go on later
    #[arg(long, value_name = "STEPS")]
    pub(crate) stop_after: Option<u64>,

    /// Fetch the data set into --data first (official archive, checksum verified, goes on where it was cut off)
    #[arg(long)]
    pub(crate) download: bool,

    /// Fetch the archive from here instead of the authors' page; its checksum is verified all the same
    #[arg(long, value_name = "URL", requires = "download")]
    pub(crate) mirror: Option<String>,

    #[command(flatten)]
    pub(crate) overrides: Overrides,
}

/// One option for every field of [`Settings`], of the same name.
#[derive(Debug, Args, Serialize)]
pub(crate) struct Overrides {
    /// Images to train on
    #[arg(long, value_enum)]
    dataset: Option<DatasetName>,
    /// Folder with the data set's .bin files
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Use the first N training images; 0 for all (of the built-in images 4096, and N may be larger)
    #[arg(long, value_name = "N")]
    limit: Option<i64>,
    /// Side of the views in pixels
    #[arg(long, value_name = "PIXELS")]
    image_size: Option<i64>,
    /// Encoder
    #[arg(long, value_enum)]
    arch: Option<Architecture>,
    /// Width of a token, for --arch custom
    #[arg(long)]
    width: Option<i64>,
    /// Number of blocks, for --arch custom
    #[arg(long)]
    depth: Option<i64>,
    /// Attention heads, for --arch custom
    #[arg(long)]
    heads: Option<i64>,
    /// Side of a patch in pixels
    #[arg(long, value_name = "PIXELS")]
    patch_size: Option<i64>,
    /// Probability that the last block is skipped for an image, earlier ones less
    #[arg(long, value_name = "P", value_parser = finite)]
    drop_path: Option<f64>,
    /// Hidden width of projector and predictor
    #[arg(long)]
    hidden: Option<i64>,
    /// Width of queries and keys
    #[arg(long)]
    out_dim: Option<i64>,
    /// Images in a batch
    #[arg(long, value_name = "N")]
    batch_size: Option<i64>,
    /// Passes over the training images
    #[arg(long, value_name = "N")]
    epochs: Option<u64>,
    /// Epochs of linear warm-up
    #[arg(long, value_name = "N")]
    warmup_epochs: Option<u64>,
    /// Base learning rate, for a batch of 256; falls to 1e-6 along a cosine
    #[arg(long, value_name = "RATE", value_parser = finite)]
    lr: Option<f64>,
    /// Weight decay at the start
    #[arg(long, value_name = "RATE", value_parser = finite)]
    weight_decay: Option<f64>,
    /// Weight decay at the end, along a cosine
    #[arg(long, value_name = "RATE", value_parser = finite)]
    weight_decay_end: Option<f64>,
    /// Smallest share of an image that a random crop keeps
    #[arg(long, value_name = "SHARE", value_parser = finite)]
    crop_min_scale: Option<f64>,
    /// Images that a mixed image is made of; several values (2,4) are drawn from, one per batch
    #[arg(long, value_name = "M", value_delimiter = ',', num_args = 1..)]
    groups: Option<Vec<i64>>,
    /// Distance in the batch between the images that are mixed
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    mix_stride: Option<i64>,
    /// Share of the batches that are mixed
    #[arg(long, value_name = "P", value_parser = finite)]
    mix_probability: Option<f64>,
    /// Temperature of the losses
    #[arg(long, value_parser = finite)]
    temperature: Option<f64>,
    /// Label smoothing of the two mixed targets
    #[arg(long, value_name = "SHARE", value_parser = finite)]
    smoothing: Option<f64>,
    /// Label smoothing of the origin-to-origin target
    #[arg(long, value_name = "SHARE", value_parser = finite)]
    origin_smoothing: Option<f64>,
    /// Momentum that the key encoder starts with (it rises to 1 along a cosine), or off
    #[arg(long, value_name = "MOMENTUM|off", value_parser = momentum)]
    momentum_encoder: Option<f64>,
    /// Kind of number of the matrix products; weights, norms, softmax and losses stay float32
    #[arg(long, value_enum)]
    precision: Option<PrecisionName>,
    /// Decides everything random
    #[arg(long)]
    seed: Option<u64>,
    /// Measure kNN accuracy every N epochs, and at the end
    #[arg(long, value_name = "N")]
    knn_every: Option<u64>,
    /// Save every N steps too, not only at the end of an epoch; 0 for the ends only
    #[arg(long, value_name = "STEPS")]
    save_every: Option<u64>,
    /// Checkpoints to keep, besides the one of the best kNN accuracy
    #[arg(long, value_name = "N")]
    keep: Option<usize>,
    /// Steps in a row with a loss or gradient that is not finite before the run stops; they change no weight
    #[arg(long, value_name = "N")]
    max_skipped_steps: Option<u64>,
    /// auto (a GPU if there is one), cpu, cuda or cuda:N
    #[arg(long)]
    device: Option<String>,
    /// CPU threads; 0 leaves it to libtorch
    #[arg(long, value_name = "N")]
    threads: Option<u16>,
}

fn momentum(text: &str) -> std::result::Result<f64, String> {
    if text == "off" {
        return Ok(0.0);
    }
    finite(text).map_err(|_| "a number between 0 and 1, or off".to_owned())
}

fn finite(text: &str) -> std::result::Result<f64, String> {
    text.parse().ok().filter(|number: &f64| number.is_finite()).ok_or_else(|| "a finite number".to_owned())
}

/// Settings that may change when a run goes on: they decide where and how it is computed, not what.
const CHANGEABLE: [&str; 7] = ["data", "device", "threads", "knn_every", "save_every", "keep", "max_skipped_steps"];

impl Arguments {
    /// Reads the command line; ends the program for `--help` and for options that do not parse.
    pub(crate) fn read() -> Result<Arguments> {
        Ok(Arguments::from_arg_matches(&command()?.get_matches())?)
    }

    /// The settings of a new run.
    pub(crate) fn settings(&self) -> Result<Settings> {
        let overrides = &self.overrides;
        let recipe = self.recipe.unwrap_or(match overrides.dataset {
            None | Some(DatasetName::Builtin) => Recipe::Quick,
            _ => Recipe::published(overrides.arch.unwrap_or(Architecture::VitTiny)),
        });
        let mut settings = recipe.settings();
        if let Some(architecture) = overrides.arch {
            if let Some((width, depth, heads)) = architecture.shape() {
                (settings.width, settings.depth, settings.heads) = (width, depth, heads);
            } else if overrides.width.is_none() || overrides.depth.is_none() || overrides.heads.is_none() {
                return Err("--arch custom needs --width, --depth and --heads".into());
            }
        }
        let settings = overrides.laid_over(&settings)?;
        settings.check_shape_is_of_arch()?;
        settings.check()?;
        Ok(settings)
    }

    /// The settings of a run that goes on: its own, and what of the command line may differ.
    pub(crate) fn resumed_settings(&self, saved: &Settings) -> Result<Settings> {
        let settings = self.overrides.laid_over(saved)?;
        let (now, before) = (fields(&settings)?, fields(saved)?);
        for (name, value) in &now {
            if before.get(name) != Some(value) && !CHANGEABLE.contains(&name.as_str()) {
                let before = before.get(name).map(Value::to_string).unwrap_or_default();
                let option = name.replace('_', "-");
                return Err(format!(
                    "--{option} {value} differs from the run's {before}; leave it out to go on, or start a new run \
                     without --resume"
                )
                .into());
            }
        }
        settings.check()?;
        Ok(settings)
    }
}

impl Overrides {
    fn laid_over(&self, settings: &Settings) -> Result<Settings> {
        let mut laid = fields(settings)?;
        laid.extend(fields(self)?.into_iter().filter(|(_, value)| !value.is_null()));
        Ok(serde_json::from_value(Value::Object(laid))?)
    }
}

impl Settings {
    fn check_shape_is_of_arch(&self) -> Result<()> {
        match self.arch.shape() {
            Some(shape) if shape != (self.width, self.depth, self.heads) => {
                Err("--width, --depth and --heads go with --arch custom".into())
            }
            _ => Ok(()),
        }
    }
}

fn fields(value: &impl Serialize) -> Result<Map<String, Value>> {
    match serde_json::to_value(value)? {
        Value::Object(fields) => Ok(fields),
        other => Err(format!("settings must be an object, got {other}").into()),
    }
}

/// The command line, with the default of every setting read off the recipes.
fn command() -> Result<clap::Command> {
    let recipe = |recipe: Recipe| fields(&recipe.settings());
    let default = recipe(Recipe::VitTiny)?;
    let others = [
        ("quick", recipe(Recipe::Quick)?),
        ("vit-small", recipe(Recipe::VitSmall)?),
        ("vit-base", recipe(Recipe::VitBase)?),
    ];
    let mut command = Arguments::command();
    for (name, value) in &default {
        let mut text = format!("[default: {}", show(name, value));
        for (recipe, fields) in &others {
            match fields.get(name) {
                Some(other) if other != value => text += &format!("; {recipe}: {}", show(name, other)),
                _ => {}
            }
        }
        command = command.mut_arg(name, |argument| {
            let help = argument.get_help().map(ToString::to_string).unwrap_or_default();
            argument.help(format!("{help} {text}]"))
        });
    }
    Ok(command)
}

/// A setting's value as one would type it.
fn show(name: &str, value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(values) => values.iter().map(Value::to_string).collect::<Vec<_>>().join(","),
        Value::Number(number) if name == "momentum_encoder" && number.as_f64() == Some(0.0) => "off".to_owned(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests;
