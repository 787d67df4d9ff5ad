//! The command line: settings laid over a recipe, or over those of the run that goes on.

use std::path::PathBuf;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{CommandFactory, FromArgMatches, Parser, ValueEnum};
use serde::Serialize;
use serde_json::{Map, Value};

use super::Result;
use super::dataset_name::DatasetName;
use super::options::Overrides;
use super::precision::PrecisionName;
use super::program::Program;
use super::recipes::Recipe;
use super::run_folder::CONFIG;
use super::settings::Settings;
use super::state::read_config;

/// What the command line says.
#[derive(Debug, Parser)]
#[command(version)]
pub(crate) struct Arguments {
    #[arg(skip = Program::Cifar)]
    pub(crate) program: Program,

    /// Values for everything that is not given [default: the paper's for --arch; of pretrain_cifar, quick for the
    /// built-in images]
    #[arg(long, value_enum, conflicts_with = "resume")]
    pub(crate) recipe: Option<Recipe>,

    /// Folder for checkpoints, metrics and pictures [default: runs/DATASET or runs/DATASET-ARCH, numbered if taken]
    #[arg(long, value_name = "DIR")]
    pub(crate) out: Option<PathBuf>,

    /// Go on with the run in --out; its settings are taken from there
    #[arg(long, requires = "out")]
    pub(crate) resume: bool,

    /// Go on with the run in --out if it has begun, and begin it if not: for launchers that start a command again
    #[arg(long, requires = "out", conflicts_with = "resume")]
    pub(crate) resume_if_begun: bool,

    /// Save and stop after so many steps, to go on later
    #[arg(long, value_name = "STEPS")]
    pub(crate) stop_after: Option<u64>,

    /// Fetch the data set into --data first (official archive, checksum verified, goes on where it was cut off)
    #[arg(long)]
    pub(crate) download: bool,

    /// Fetch the archive from here instead of the authors' page; its checksum is verified all the same
    #[arg(long, value_name = "URL", requires = "download")]
    pub(crate) mirror: Option<String>,

    /// Seconds that the ranks of a run wait for one another before they give up, evaluation by the first rank included
    #[arg(long, value_name = "SECONDS", default_value_t = 1800, value_parser = clap::value_parser!(u64).range(1..=31_536_000))]
    #[cfg(feature = "distributed")]
    pub(crate) timeout: u64,

    /// Ranks tell each other what they are about to do, so that a disagreement is an error. Take it on trust after the
    /// first step: for runs of more than some ten ranks, where it takes long
    #[arg(long)]
    #[cfg(feature = "distributed")]
    pub(crate) trust_ranks: bool,

    #[command(flatten)]
    pub(crate) overrides: Overrides,
}

/// Settings that may change when a run goes on, and differ between its ranks: they decide where and how it is computed,
/// not what.
const CHANGEABLE: [&str; 11] = [
    "data",
    "device",
    "threads",
    "workers",
    "knn_every",
    "knn_images",
    "save_every",
    "save_epochs",
    "keep",
    "max_skipped_steps",
    "max_broken_images",
];

impl Arguments {
    /// Reads the command line; ends the program for `--help` and for options that do not parse.
    pub(crate) fn read(program: Program) -> Result<Arguments> {
        Arguments::of(program, &command(program)?.get_matches())
    }

    fn of(program: Program, matches: &clap::ArgMatches) -> Result<Arguments> {
        let parsed = Arguments::from_arg_matches(matches)?;
        let begun = parsed.out.as_ref().is_some_and(|folder| folder.join(CONFIG).exists());
        Ok(Arguments { program, resume: parsed.resume || (parsed.resume_if_begun && begun), ..parsed })
    }

    /// The settings of the run that begins or goes on.
    pub(crate) fn settings_of_run(&self) -> Result<Settings> {
        match &self.out {
            Some(folder) if self.resume => self.resumed_settings(&read_config(folder)?),
            _ => self.settings(),
        }
    }

    /// The settings of a new run.
    pub(crate) fn settings(&self) -> Result<Settings> {
        let overrides = &self.overrides;
        let dataset = overrides.dataset.unwrap_or(self.program.datasets()[0]);
        let recipe = self.recipe.unwrap_or(self.program.recipe(dataset, overrides.arch));
        let mut settings = recipe.settings(self.program);
        if let Some(architecture) = overrides.arch {
            if let Some((width, depth, heads)) = architecture.shape() {
                (settings.width, settings.depth, settings.heads) = (width, depth, heads);
            } else if overrides.width.is_none() || overrides.depth.is_none() || overrides.heads.is_none() {
                return Err("--arch custom needs --width, --depth and --heads".into());
            }
        }
        let settings = overrides.laid_over(&settings)?;
        let of_folders = settings.dataset == DatasetName::ImageFolder;
        for (option, given, fits) in [
            ("--download", self.download, !of_folders),
            ("--workers", overrides.workers.is_some(), of_folders),
            ("--max-broken-images", overrides.max_broken_images.is_some(), of_folders),
        ] {
            if given && !fits {
                let images = if of_folders { "images in folders" } else { "images that are not in folders" };
                return Err(format!("{option} means nothing for {images}; leave it out").into());
            }
        }
        settings.check_shape_is_of_arch()?;
        settings.check()?;
        Ok(settings)
    }

    /// The settings of a run that goes on: its own, and what of the command line may differ. `--precision auto` is the
    /// run's own.
    pub(crate) fn resumed_settings(&self, saved: &Settings) -> Result<Settings> {
        let settings = self.overrides.laid_over(saved)?;
        let settings = match settings.precision {
            PrecisionName::Auto => Settings { precision: saved.precision, ..settings },
            _ => settings,
        };
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

/// All that decides what a run on these images computes, in text.
pub(crate) fn what_decides(settings: &Settings, images: &str) -> Result<String> {
    let mut deciding = fields(settings)?;
    deciding.retain(|name, _| !CHANGEABLE.contains(&name.as_str()));
    Ok(format!("{}\n{images}", Value::Object(deciding)))
}

fn fields(value: &impl Serialize) -> Result<Map<String, Value>> {
    match serde_json::to_value(value)? {
        Value::Object(fields) => Ok(fields),
        other => Err(format!("settings must be an object, got {other}").into()),
    }
}

/// The command line of a program, with the default of every setting read off its recipes.
fn command(program: Program) -> Result<clap::Command> {
    let (usual, name) = match program {
        Program::Cifar => (Recipe::VitTiny, "vit-tiny"),
        Program::Imagenet => (Recipe::VitSmall, "vit-small"),
    };
    let default = fields(&usual.settings(program))?;
    let mut others = Vec::new();
    for recipe in Recipe::value_variants() {
        let value = recipe.to_possible_value();
        let recipe_name = value.as_ref().map_or("", |value| value.get_name()).to_owned();
        if recipe_name != name {
            others.push((recipe_name, fields(&recipe.settings(program))?));
        }
    }
    let mut command = Arguments::command().name(program.name()).about(program.about());
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
    let datasets = program.datasets().iter().filter_map(ValueEnum::to_possible_value);
    let named = PossibleValuesParser::new(datasets).try_map(|name| DatasetName::from_str(&name, false));
    command = command.mut_arg("dataset", |argument| argument.value_parser(named));
    let fetches = program == Program::Cifar;
    let of_one_program =
        [("download", fetches), ("mirror", fetches), ("workers", !fetches), ("max_broken_images", !fetches)];
    Ok(of_one_program
        .into_iter()
        .fold(command, |command, (name, shown)| command.mut_arg(name, |argument| argument.hide(!shown))))
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
