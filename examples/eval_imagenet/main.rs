//! What a pre-trained encoder is worth on images in folders by class, such as ImageNet: nearest neighbours and a linear
//! probe, which are in `examples/evaluate` and which `eval_cifar` shares.

mod folders;

#[path = "../evaluate/mod.rs"]
mod evaluate;
#[path = "../common/image_files.rs"]
mod image_files;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use evaluate::args::{LinearArguments, SubjectArguments};
use evaluate::{Result, dataset_name, encoder, knn, linear};
use folders::FolderOptions;

/// Measures an encoder that `pretrain_imagenet` trained, or one in a file of its own, on images in folders by class:
/// DIR/val/CLASS/*.jpg, after learning the classes from DIR/train/CLASS/*.jpg. The shorter side of an image is resized to
/// 256 / 224 of the encoder's size, and its centre is cut out. CIFAR is for `eval_cifar`.
#[derive(Debug, Parser)]
#[command(name = "eval_imagenet", version)]
struct Arguments {
    #[command(subcommand)]
    evaluation: Evaluation,
}

#[derive(Debug, Subcommand)]
enum Evaluation {
    /// Nearest neighbours among the features: no training
    Knn(SubjectArguments<FolderOptions>),
    /// A linear classifier on the frozen features
    Linear(LinearArguments<FolderOptions>),
}

fn main() -> ExitCode {
    let outcome = match Arguments::parse().evaluation {
        Evaluation::Knn(arguments) => knn::run(&arguments),
        Evaluation::Linear(arguments) => linear::run(&arguments),
    };
    evaluate::exit(outcome.map(|()| ExitCode::SUCCESS))
}
