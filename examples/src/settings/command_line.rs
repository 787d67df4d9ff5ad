//! The command line of the pre-training programs: options laid over a recipe, a settings file or the run's settings.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::parser::ValueSource;
use clap::{ArgMatches, FromArgMatches, Parser};

use super::file::SettingsFile;
use super::help::{command, recipe_settings};
use super::recipes::{Architecture, DatasetName, Program, Recipe};
use super::{CONFIG, Settings};
use crate::Result;
use crate::terminal::shown;

/// What the command line says.
#[derive(Debug, Parser)]
#[command(version, args_override_self = true, after_help = "--help lists all options with their defaults.")]
#[command(after_long_help = "A config.json, a recipe and the command line are the same options; later ones win.")]
pub(crate) struct Arguments {
    #[arg(skip = Program::Cifar)]
    pub(crate) program: Program,
    /// The settings so far of a run that resumes.
    #[arg(skip)]
    pub(crate) before: Option<Settings>,

    /// Preset of all settings
    ///
    /// Options that are given win over it [default: the paper's for --arch; quick for the built-in
    /// images]
    #[arg(long, value_enum, conflicts_with_all = ["resume", "config"])]
    recipe: Option<Recipe>,

    /// Settings from a config.json; the command line wins
    #[arg(long, value_name = "FILE", conflicts_with = "resume")]
    config: Option<PathBuf>,

    /// Folder of the run, for checkpoints, metrics and pictures
    ///
    /// [default: runs/DATASET or runs/DATASET-ARCH, numbered if taken]
    #[arg(long, value_name = "DIR")]
    pub(crate) out: Option<PathBuf>,

    /// Resume the run in --out with its settings; those given here change from there on
    #[arg(long, requires = "out")]
    pub(crate) resume: bool,

    /// Resume the run in --out if it has begun, else begin it: for launchers that start a command again
    #[arg(long, requires = "out", conflicts_with = "resume", hide_short_help = true)]
    resume_if_begun: bool,

    /// Save and stop after so many steps, to resume later
    #[arg(long, value_name = "STEPS", hide_short_help = true, value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) stop_after: Option<u64>,

    /// Fetch the data set into --data first
    ///
    /// The official archive; its checksum is verified, and a broken download resumes
    #[arg(long)]
    pub(crate) download: bool,

    /// Fetch the archive from here instead of the authors' page; its checksum is verified all the same
    #[arg(long, value_name = "URL", requires = "download", hide_short_help = true)]
    pub(crate) mirror: Option<String>,

    /// Seconds that the ranks of a run wait for one another before they give up, evaluation by the first rank included
    #[arg(long, value_name = "SECONDS", default_value_t = 1800, hide_short_help = true,
        value_parser = clap::value_parser!(u64).range(1..=31_536_000))]
    #[cfg(feature = "distributed")]
    pub(crate) timeout: u64,

    /// Ranks tell each other what they are about to do, so that a disagreement is an error. Skip this after the first
    /// step; use it above about ten ranks, where it takes long
    #[arg(long, hide_short_help = true)]
    #[cfg(feature = "distributed")]
    pub(crate) trust_ranks: bool,

    #[command(flatten)]
    pub(crate) settings: Settings,
}

/// Options that only one of the programs has a use for, and whether that is the one for image folders.
pub(super) const OF_ONE_PROGRAM: [(&str, bool); 5] =
    [("download", false), ("mirror", false), ("val", true), ("workers", true), ("max_broken_images", true)];

impl Arguments {
    /// Reads the command line; ends the program for `--help` and for options that do not parse.
    pub(crate) fn read(program: Program) -> Result<Arguments> {
        let words: Vec<OsString> = std::env::args_os().skip(1).collect();
        let command = command(program)?;
        let said = command.clone().get_matches_from(with_name(program, &words));
        Arguments::layered(program, command, &words, &said)
    }

    /// The words of a command line, parsed alone as `said`, laid over the recipe, a file or the run's settings.
    fn layered(program: Program, command: clap::Command, words: &[OsString], said: &ArgMatches) -> Result<Arguments> {
        let alone = Arguments::from_arg_matches(said)?;
        let begun = alone.out.as_ref().is_some_and(|folder| folder.join(CONFIG).exists());
        let saved = match &alone.out {
            Some(folder) if alone.resume || (alone.resume_if_begun && begun) => {
                Some(Settings::read(&folder.join(CONFIG))?)
            }
            _ => None,
        };

        let mut layers: Vec<OsString> = match &saved {
            Some(settings) => {
                check_program(program, settings)?;
                settings.options()?.into_iter().map(Into::into).collect()
            }
            None => layers_of_new_run(program, &command, &alone, words)?,
        };
        let below = Arguments::from_arg_matches(&command.clone().try_get_matches_from(with_name(program, &layers))?)?;
        layers.extend_from_slice(words);
        let layered = command.try_get_matches_from(with_name(program, &layers))?;
        let mut arguments = Arguments::from_arg_matches(&layered)?;
        arguments.program = program;
        arguments.settings.take_shape_of_arch(said, below.settings.arch)?;
        let weights = said.get_raw("loss_weights").and_then(|mut texts| texts.next_back());
        if let Some(text) = weights.filter(|_| is_said(said, "loss_weights")) {
            arguments.settings.loss_weights = below.settings.loss_weights.laid_under(&text.to_string_lossy())?;
        }
        if let Some(saved) = saved {
            arguments.resume = true;
            arguments.settings.check_resumes(&saved, arguments.out.as_deref())?;
            arguments.before = Some(saved);
        }
        arguments.check_said(&below.settings, said)?;
        arguments.settings.check()?;
        Ok(arguments)
    }

    /// An error if something that was said has no effect. `below` are the settings without what was said.
    fn check_said(&self, below: &Settings, said: &ArgMatches) -> Result<()> {
        let is_folder = self.settings.dataset.is_folder();
        for (name, for_folder) in OF_ONE_PROGRAM {
            if is_said(said, name) && for_folder != is_folder {
                let images = if for_folder { "images in files" } else { "cifar10, cifar100 and stl10" };
                return Err(format!("--{} applies to {images} only; leave it out", name.replace('_', "-")).into());
            }
        }
        self.settings.check_unused(below, |name| is_said(said, name))
    }
}

impl Settings {
    /// Sets width, depth and heads by the architecture. Those given on the command line must agree with it. A custom
    /// architecture needs them all, unless the layers `below` the command line have one.
    fn take_shape_of_arch(&mut self, said: &ArgMatches, below: Architecture) -> Result<()> {
        let Some(shape) = self.arch.shape() else {
            if below != Architecture::Custom && !["width", "depth", "heads"].iter().all(|name| is_said(said, name)) {
                return Err("--arch custom needs --width, --depth and --heads".into());
            }
            return Ok(());
        };
        let mine = [("width", &mut self.width, shape.0), ("depth", &mut self.depth, shape.1)];
        for (name, value, of_arch) in mine.into_iter().chain([("heads", &mut self.heads, shape.2)]) {
            if is_said(said, name) && *value != of_arch {
                return Err("--width, --depth and --heads go with --arch custom".into());
            }
            *value = of_arch;
        }
        Ok(())
    }
}

/// The options of the recipe, and over them those of the `--config` file.
fn layers_of_new_run(
    program: Program,
    command: &clap::Command,
    alone: &Arguments,
    words: &[OsString],
) -> Result<Vec<OsString>> {
    let mut file_options: Vec<OsString> = Vec::new();
    let mut weights_of_file = None;
    if let Some(path) = &alone.config {
        let file = SettingsFile::read(path)?;
        check_program(program, &file.settings).map_err(|error| format!("{}: {error}", shown(path)))?;
        weights_of_file =
            file.options.iter().find_map(|option| option.strip_prefix("--loss-weights=").map(str::to_owned));
        file_options.extend(file.options.into_iter().map(OsString::from));
    }
    let given: Vec<OsString> = file_options.iter().chain(words).cloned().collect();
    let given = command.clone().try_get_matches_from(with_name(program, &given))?;
    let arguments = Arguments::from_arg_matches(&given)?;
    let dataset = dataset(program, &arguments, &given);
    let recipe = recipe(program, dataset, &arguments, &given);
    if let Some(text) = weights_of_file {
        let weights = recipe_settings(recipe, program, dataset)?.loss_weights.laid_under(&text)?;
        file_options.push(format!("--loss-weights={weights}").into());
    }
    Ok(recipe.options(program, dataset).map(OsString::from).chain(file_options).collect())
}

/// An error if the other program takes the images of these settings.
fn check_program(program: Program, settings: &Settings) -> Result<()> {
    // A file without a data set has the default, which both programs take.
    if program.datasets().contains(&settings.dataset) {
        return Ok(());
    }
    let other = if program == Program::Cifar { Program::Imagenet } else { Program::Cifar };
    Err(format!("the images are {}, which is for {}; run that program", settings.dataset.name(), other.name()).into())
}

/// The images that are asked for, by default the program's first.
fn dataset(program: Program, alone: &Arguments, said: &ArgMatches) -> DatasetName {
    if is_said(said, "dataset") { alone.settings.dataset } else { program.datasets()[0] }
}

fn recipe(program: Program, dataset: DatasetName, alone: &Arguments, said: &ArgMatches) -> Recipe {
    let architecture = is_said(said, "arch").then_some(alone.settings.arch);
    alone.recipe.unwrap_or(Recipe::default_for(program, dataset, architecture))
}

pub(super) fn with_name(program: Program, words: &[OsString]) -> impl Iterator<Item = OsString> {
    std::iter::once(OsString::from(program.name())).chain(words.iter().cloned())
}

/// Whether an option was given, and is not there by its default.
fn is_said(said: &ArgMatches, name: &str) -> bool {
    said.value_source(name) == Some(ValueSource::CommandLine)
}

#[cfg(test)]
impl Arguments {
    /// Reads the words of a command line.
    pub(super) fn parse(program: Program, words: &[OsString]) -> Result<Arguments> {
        let command = command(program)?;
        let said = command.clone().try_get_matches_from(with_name(program, words))?;
        Arguments::layered(program, command, words, &said)
    }
}

#[cfg(test)]
impl Settings {
    /// The quick recipe of `pretrain_cifar`.
    pub(crate) fn quick() -> Settings {
        recipe_settings(Recipe::Quick, Program::Cifar, DatasetName::Builtin).unwrap()
    }
}
