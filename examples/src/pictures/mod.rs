//! The program `pictures`: draws the method and what an encoder has learned.

mod attention;
mod comparison;
pub(crate) mod draw;
mod explain;
mod map;
mod similar;
mod subject;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::Result;

/// Draws the method and what an encoder has learned.
#[derive(Debug, Parser)]
#[command(name = "pictures", version)]
struct Arguments {
    #[command(subcommand)]
    picture: Picture,
}

#[derive(Debug, Subcommand)]
enum Picture {
    /// An animation of the method, step by step, on four images
    Explain(explain::Options),
    /// Images and, according to an encoder, the most similar other ones; also of a folder of one's own
    Similar(similar::Options),
    /// A map of test images by an encoder's features
    Map(map::Options),
    /// The attention of an encoder's class token to the patches of test images
    Attention(attention::Options),
    /// Losses, kNN accuracy and learning rate of one run or several
    Curves(comparison::Options),
}

/// Runs the program.
pub fn main() -> ExitCode {
    crate::exit(picture(&Arguments::parse().picture).map(|()| ExitCode::SUCCESS))
}

fn picture(picture: &Picture) -> Result<()> {
    match picture {
        Picture::Explain(options) => explain::explain(options),
        Picture::Similar(options) => similar::similar(options),
        Picture::Map(options) => map::map(options),
        Picture::Attention(options) => attention::attention(options),
        Picture::Curves(options) => comparison::curves(options),
    }
}
