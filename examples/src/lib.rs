//! Shared code of the example programs, which begin in [`pretrain`], [`evaluate`], [`pictures`] and [`export`].
// Lines are printed by the macros of `terminal`, which no closed pipe makes panic.
#![warn(clippy::print_stdout, clippy::print_stderr)]

mod download;
mod encoder;
mod images;
mod machine;
mod parsers;
mod run;
mod seeds;
mod settings;
mod tensorboard;
mod terminal;

pub mod evaluate;
pub mod export;
pub mod pictures;
pub mod pretrain;

use std::process::ExitCode;

use terminal::log;

/// A result whose error is one line for the person at the terminal.
pub(crate) type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// The exit code of a program; prints its error, if there is one.
pub(crate) fn exit(outcome: Result<ExitCode>) -> ExitCode {
    outcome.unwrap_or_else(|error| {
        log!("error: {}", typed(error));
        ExitCode::FAILURE
    })
}

/// The error, as one of patchmix if it comes from tch: those end in a C++ call stack of dozens of lines.
pub(crate) fn typed(error: Box<dyn std::error::Error>) -> Box<dyn std::error::Error> {
    match error.downcast::<tch::TchError>() {
        Ok(error) => Box::new(patchmix::Error::from(*error)),
        Err(error) => error,
    }
}
