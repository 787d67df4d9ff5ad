//! Writes the encoder of a run into one file that this crate and timm load.

#[path = "../common/dataset_name.rs"]
mod dataset_name;
#[path = "../common/encoder.rs"]
mod encoder;
#[path = "../common/pooling.rs"]
mod pooling;
#[path = "../common/run_folder.rs"]
mod run_folder;

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use indicatif::{HumanBytes, HumanCount};
use patchmix::vit::EncoderFile;
use tch::{Device, Tensor};

use encoder::{LoadedEncoder, Weights, load_encoder};
use pooling::PoolingName;

/// A result whose error is one line for the person at the terminal.
type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// Writes the encoder of a run into one safetensors file, with the parameter names of timm and all that is needed to use
/// it. Projector, predictor and the optimizer's state stay behind.
#[derive(Debug, Parser)]
#[command(name = "export_encoder", version)]
struct Arguments {
    /// Folder of a run (its best checkpoint, else its newest), a checkpoint in it, or an encoder file
    #[arg(value_name = "CHECKPOINT")]
    checkpoint: PathBuf,

    /// The file to write
    #[arg(long, value_name = "FILE")]
    out: PathBuf,

    /// Which of the run's encoders
    #[arg(long, value_enum, default_value = "trained")]
    weights: Weights,

    /// How features are read [default: as the checkpoint says, which for a run is class-token]
    #[arg(long, value_enum)]
    pooling: Option<PoolingName>,
}

fn main() -> ExitCode {
    match export(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn export(arguments: &Arguments) -> Result<()> {
    let out = &arguments.out;
    if out.exists() {
        return Err(format!("{}: is there already; name another file with --out", out.display()).into());
    }
    let LoadedEncoder { store, encoder, mean, std, pooling, description, .. } =
        load_encoder(&arguments.checkpoint, arguments.weights, Device::Cpu)?;
    let file = EncoderFile {
        config: encoder.config().clone(),
        mean,
        std,
        pooling: arguments.pooling.map_or(pooling, Into::into),
        tensors: store.variables(),
    };
    file.save(out)?;
    let parameters: usize = file.tensors.values().map(Tensor::numel).sum();
    println!("encoder  {description}");
    println!(
        "written  {}: {} tensors, {} parameters, {}",
        out.display(),
        file.tensors.len(),
        HumanCount(parameters as u64),
        HumanBytes(fs::metadata(out)?.len())
    );
    println!("in timm  model = timm.models.vision_transformer.{}", file.timm());
    println!("         model.load_state_dict(safetensors.torch.load_file({:?}))", out.display().to_string());
    Ok(())
}
