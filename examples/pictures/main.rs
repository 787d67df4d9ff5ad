//! Pictures of the method and of what an encoder has learned.

mod attention;
mod curves;
mod explain;
mod map;
mod marks;
mod similar;
mod source;

#[path = "../common/chosen_images.rs"]
mod chosen_images;
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
#[path = "../common/image_files.rs"]
mod image_files;
#[path = "../common/metrics.rs"]
mod metrics;
#[path = "../common/pictures/mod.rs"]
mod pictures;
#[path = "../common/pooling.rs"]
mod pooling;
#[path = "../common/run_folder.rs"]
mod run_folder;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// A result whose error is one line for the person at the terminal.
type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// Draws the method, and what an encoder has learned.
#[derive(Debug, Parser)]
#[command(name = "pictures", version)]
struct Arguments {
    #[command(subcommand)]
    picture: Picture,
}

#[derive(Debug, Subcommand)]
enum Picture {
    /// The method, step by step, on four images: an animation
    Explain(explain::Options),
    /// Test images and the training images that an encoder finds most similar
    Similar(similar::Options),
    /// Test images on a map, by what an encoder makes of them
    Map(map::Options),
    /// Where an encoder looks: the attention of its class token
    Attention(attention::Options),
    /// The losses, accuracies and learning rates of one run or several
    Curves(curves::Options),
}

fn main() -> ExitCode {
    match draw(&Arguments::parse().picture) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn draw(picture: &Picture) -> Result<()> {
    match picture {
        Picture::Explain(options) => explain::explain(options),
        Picture::Similar(options) => similar::similar(options),
        Picture::Map(options) => map::map(options),
        Picture::Attention(options) => attention::attention(options),
        Picture::Curves(options) => curves::draw(options),
    }
}
