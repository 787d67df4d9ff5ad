//! The program `evaluate`: how good a pre-trained encoder is.

mod features;
mod finetune;
mod knn;
mod linear;
mod report;
mod subject;

use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};

use features::FeaturesArguments;
use finetune::FinetuneArguments;
use linear::LinearArguments;
use subject::SubjectOptions;

use crate::Result;

/// Measures a pre-trained encoder.
///
/// The encoder comes from a run of `pretrain_cifar` or `pretrain_imagenet`, or from a file of its own. The images are
/// those of its run, unless options name others. Images in folders are DIR/train/CLASS/*.jpg to learn from and
/// DIR/val/CLASS/*.jpg to measure on, shards DIR/train-*.tar and DIR/val-*.tar. For a frozen encoder, the shorter side
/// of an image is resized to 256/224 of the encoder's image size, and the center is cut out.
#[derive(Debug, Parser)]
#[command(name = "evaluate", version)]
struct Arguments {
    #[command(subcommand)]
    evaluation: Evaluation,
}

#[derive(Debug, Subcommand)]
enum Evaluation {
    /// Nearest neighbors among the features: no training
    Knn(SubjectOptions),
    /// A linear classifier on the frozen features
    Linear(LinearArguments),
    /// The whole encoder trained further with labels, or from scratch for comparison
    #[command(args_override_self = true)]
    Finetune(Box<FinetuneArguments>),
    /// Features of all images, written to files
    Features(FeaturesArguments),
}

/// Runs the program.
pub fn main() -> ExitCode {
    crate::exit(run())
}

fn run() -> Result<ExitCode> {
    let words = finetune::with_saved_options(std::env::args_os().collect(), Arguments::command())?;
    match Arguments::parse_from(&words).evaluation {
        Evaluation::Knn(options) => knn::run(&options).map(|()| ExitCode::SUCCESS),
        Evaluation::Linear(arguments) => linear::run(&arguments).map(|()| ExitCode::SUCCESS),
        Evaluation::Finetune(arguments) => finetune::run(&arguments, &words[2..]),
        Evaluation::Features(arguments) => features::run(&arguments),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        Arguments::command().debug_assert();
    }
}
