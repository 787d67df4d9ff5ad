//! The program `export_encoder`: the encoder of a run in one file, for this crate and for timm.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Parser;
use indicatif::{HumanBytes, HumanCount};
use patchmix::augment::normalize;
use patchmix::checkpoint::Checkpoint;
use patchmix::data::procedural;
use patchmix::files::printable;
use tch::{Device, Tensor};

use crate::Result;
use crate::encoder::{EncoderOptions, LoadedEncoder, PoolingName};
use crate::terminal::say;

/// Number of images in a reference file, and the seed they are drawn with.
const REFERENCE_IMAGES: i64 = 4;
const REFERENCE_SEED: u64 = 3;

/// Writes the encoder of a run into one safetensors file, with timm's parameter names and all that is needed to use it.
///
/// Projector, predictor and the state of the optimizer are left out.
#[derive(Debug, Parser)]
#[command(name = "export_encoder", version)]
struct Arguments {
    #[command(flatten)]
    encoder: EncoderOptions,
    /// The file to write; its name ends in .safetensors
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Tokens that make the features [default: as the checkpoint says; class-token for a run]
    #[arg(long, value_enum)]
    pooling: Option<PoolingName>,
    /// Also write a few images and the encoder's outputs on them, for scripts/check_timm.py
    #[arg(long, value_name = "FILE")]
    reference: Option<PathBuf>,
}

/// Runs the program.
pub fn main() -> ExitCode {
    crate::exit(export(&Arguments::parse()).map(|()| ExitCode::SUCCESS))
}

fn export(arguments: &Arguments) -> Result<()> {
    let out = &arguments.out;
    let shown = printable(out.display());
    if out.extension().is_none_or(|end| end != "safetensors") {
        return Err(format!("--out {shown}: must end in .safetensors, by which timm knows the format").into());
    }
    if arguments.reference.as_ref() == Some(out) {
        return Err(format!("--reference {shown}: is --out too; name another file").into());
    }
    if let Some(taken) = [Some(out), arguments.reference.as_ref()].into_iter().flatten().find(|path| path.exists()) {
        return Err(format!("{}: exists already; name another file", printable(taken.display())).into());
    }
    let mut loaded = arguments.encoder.load(Device::Cpu)?;
    if let Some(pooling) = arguments.pooling {
        loaded.pooling = pooling.into();
    }
    let file = loaded.to_file();
    file.save(out)?;
    arguments.reference.as_ref().map_or(Ok(()), |path| write_reference(path, &loaded))?;
    let parameters: usize = file.tensors.values().map(Tensor::numel).sum();
    say!("encoder    {}", loaded.description);
    say!(
        "written    {}: {} tensors, {} parameters, {}",
        out.display(),
        file.tensors.len(),
        HumanCount(parameters as u64),
        HumanBytes(fs::metadata(out)?.len())
    );
    if let Some(path) = &arguments.reference {
        say!("reference  {}", path.display());
    }
    say!("in timm    model = timm.models.vision_transformer.{}", file.timm());
    say!("           model.load_state_dict(safetensors.torch.load_file({:?}))", out.display().to_string());
    Ok(())
}

/// Writes normalized images and, for these, the features, the tokens after the last norm, and the tokens after every
/// block with and without that norm.
fn write_reference(path: &Path, loaded: &LoadedEncoder) -> Result<()> {
    let _no_grad = tch::no_grad_guard();
    let LoadedEncoder { encoder, mean, std, pooling, .. } = loaded;
    let config = encoder.config();
    let drawn = procedural(REFERENCE_IMAGES, config.image_size, REFERENCE_SEED)?;
    let images = normalize(&drawn.images, *mean, *std)?; // [4, 3, side, side]
    let blocks: Vec<i64> = (0..config.depth).collect();
    let mut reference = Checkpoint::default();
    for (name, normed) in [("blocks", false), ("normed_blocks", true)] {
        let tokens = encoder.intermediate(&images, &blocks, normed)?;
        let numbered = tokens.into_iter().enumerate().map(|(block, tokens)| (block.to_string(), tokens));
        reference.insert_all(name, numbered);
    }
    reference.tensors.extend(HashMap::from([
        ("tokens".to_owned(), encoder.tokens(&images, false)?),
        ("features".to_owned(), encoder.features(&images, *pooling, false)?),
        ("images".to_owned(), images),
    ]));
    Ok(reference.save(path)?)
}
