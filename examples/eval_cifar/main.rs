//! What a pre-trained encoder is worth: nearest neighbours, a linear probe, fine-tuning.

mod args;
mod finetune;
mod knn;
mod linear;
mod recipe;
mod report;
mod subject;

#[path = "../common/dataset_name.rs"]
mod dataset_name;
#[path = "../common/datasets.rs"]
mod datasets;
#[path = "../common/device.rs"]
mod device;
#[path = "../common/download/mod.rs"]
mod download;
#[path = "../common/encoder.rs"]
mod encoder;
#[path = "../common/interruption.rs"]
mod interruption;
#[path = "../common/run_folder.rs"]
mod run_folder;

use std::process::ExitCode;

use clap::Parser;

use args::{Arguments, Evaluation};

/// A result whose error is one line for the person at the terminal.
type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

fn main() -> ExitCode {
    let outcome = match Arguments::parse().evaluation {
        Evaluation::Knn(arguments) => knn::run(&arguments),
        Evaluation::Linear(arguments) => linear::run(&arguments),
        Evaluation::Finetune(arguments) => finetune::run(&arguments),
    };
    match outcome {
        Ok(Outcome::Finished) => ExitCode::SUCCESS,
        Ok(Outcome::Interrupted) => ExitCode::from(130), // as shells report an interrupted program
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

enum Outcome {
    Finished,
    Interrupted,
}
