//! The help texts: every option with its default in each of the recipes.

use std::ffi::OsString;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{CommandFactory, FromArgMatches, ValueEnum};

use super::Settings;
use super::command_line::{Arguments, OF_ONE_PROGRAM, with_name};
use super::file::show;
use super::recipes::{DatasetName, Program, Recipe};
use crate::Result;

/// Settings that `-h` shows; `--help` shows all.
pub(super) const IN_SHORT_HELP: [&str; 12] = [
    "dataset",
    "data",
    "arch",
    "momentum_encoder",
    "init",
    "groups",
    "batch_size",
    "accumulate",
    "epochs",
    "lr",
    "device",
    "precision",
];

/// The command line of a program, with the default of every setting read off its recipes.
pub(super) fn command(program: Program) -> Result<clap::Command> {
    let (usual, first) = (Recipe::published(program), program.datasets()[0]);
    let default = recipe_settings(usual, program, first)?.fields()?;
    let mut others = Vec::new();
    for other in Recipe::value_variants().iter().filter(|recipe| **recipe != usual) {
        let name = other.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default();
        others.push((name, recipe_settings(*other, program, first)?.fields()?));
    }
    for dataset in program.datasets() {
        let mut fields = recipe_settings(usual, program, *dataset)?.fields()?;
        fields.remove("dataset");
        others.push((dataset.name(), fields));
    }
    let datasets: Vec<_> = program.datasets().iter().filter_map(ValueEnum::to_possible_value).collect();
    let hidden = |name: &str| OF_ONE_PROGRAM.contains(&(name, program != Program::Imagenet));
    let command = Arguments::command().name(program.name()).about(program.about()).long_about(program.long_about());
    Ok(command.mut_args(|argument| {
        let name = argument.get_id().to_string();
        let argument = argument.hide(hidden(&name));
        let argument = match name.as_str() {
            "dataset" => argument.value_parser(
                PossibleValuesParser::new(datasets.clone()).try_map(|name| DatasetName::from_str(&name, false)),
            ),
            _ => argument,
        };
        let Some(value) = default.get(&name) else { return argument };
        let argument = argument.hide_short_help(!IN_SHORT_HELP.contains(&name.as_str()));
        if value.is_null() {
            return argument; // without a default
        }
        let mut text = format!("[default: {}", show(&name, value));
        for (recipe, fields) in &others {
            match fields.get(&name) {
                Some(other) if other != value => text += &format!("; {recipe}: {}", show(&name, other)),
                _ => {}
            }
        }
        let help = argument.get_long_help().or(argument.get_help()).map(ToString::to_string).unwrap_or_default();
        argument.long_help(format!("{help} {text}]")).hide_default_value(true)
    }))
}

/// The settings of a recipe for a data set, nothing changed.
pub(super) fn recipe_settings(recipe: Recipe, program: Program, dataset: DatasetName) -> Result<Settings> {
    let words = recipe.options(program, dataset).map(OsString::from).collect::<Vec<_>>();
    let matches = Arguments::command().try_get_matches_from(with_name(program, &words))?;
    let mut settings = Arguments::from_arg_matches(&matches)?.settings;
    if let Some(shape) = settings.arch.shape() {
        (settings.width, settings.depth, settings.heads) = shape;
    }
    Ok(settings)
}
