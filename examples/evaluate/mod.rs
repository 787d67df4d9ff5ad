//! What a pre-trained encoder is worth: nearest neighbours and a linear probe.
//!
//! The programs `eval_cifar` and `eval_imagenet` are this, each for its own kind of images ([`images::Images`]).

pub(crate) mod args;
pub(crate) mod images;
pub(crate) mod knn;
pub(crate) mod linear;
pub(crate) mod report;
pub(crate) mod subject;

#[path = "../common/dataset_name.rs"]
pub(crate) mod dataset_name;
#[path = "../common/device.rs"]
mod device;
#[path = "../common/encoder.rs"]
pub(crate) mod encoder;
#[path = "../common/run_folder.rs"]
mod run_folder;

use std::process::ExitCode;

/// A result whose error is one line for the person at the terminal.
pub(crate) type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// How the program ends: as the evaluation says, or with its error.
pub(crate) fn exit(outcome: Result<ExitCode>) -> ExitCode {
    outcome.unwrap_or_else(|error| {
        eprintln!("error: {error}");
        ExitCode::FAILURE
    })
}
