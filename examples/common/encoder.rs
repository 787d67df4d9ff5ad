//! An encoder to look at or to measure: from a run, from one of its checkpoints, or from a file of its own.

use std::fs;
use std::path::{Path, PathBuf};

use clap::ValueEnum;
use patchmix::augment::{IMAGENET_MEAN, IMAGENET_STD};
use patchmix::checkpoint::Checkpoint;
use patchmix::vit::{EncoderFile, Pooling, Precision, Vit, VitConfig};
use serde::Deserialize;
use tch::Device;
use tch::nn::VarStore;

use super::Result;
use super::dataset_name::DatasetName;
use super::run_folder::{CONFIG, MLP_RATIO, Manifest, checkpoint_folder};

/// Which of a run's two encoders.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Weights {
    /// The one that gradients train.
    Trained,
    /// The one that follows it slowly and makes the keys.
    Momentum,
}

/// What other programs need of a run's settings.
#[derive(Debug, Clone, Deserialize)]
#[allow(dead_code)] // every program uses its own part
pub(crate) struct RunConfig {
    pub(crate) dataset: DatasetName,
    pub(crate) data: PathBuf,
    pub(crate) limit: i64,
    pub(crate) image_size: i64,
    pub(crate) patch_size: i64,
    pub(crate) width: i64,
    pub(crate) depth: i64,
    pub(crate) heads: i64,
}

/// An encoder, and how its images are normalised and its features read.
#[derive(Debug)]
#[allow(dead_code)] // every program uses its own part
pub(crate) struct LoadedEncoder {
    /// Holds the weights, under timm's names.
    pub(crate) store: VarStore,
    pub(crate) encoder: Vit,
    pub(crate) mean: [f64; 3],
    pub(crate) std: [f64; 3],
    pub(crate) pooling: Pooling,
    /// What it is and where it comes from, in a line.
    pub(crate) description: String,
    /// The settings of the run that it is from, unless it comes from a file of its own.
    pub(crate) run: Option<RunConfig>,
}

/// The encoder of `checkpoint`: the folder of a run, whose best checkpoint is taken, or the newest if none is the best; a
/// checkpoint in such a folder; or an encoder in a file of its own.
pub(crate) fn load_encoder(checkpoint: &Path, weights: Weights, device: Device) -> Result<LoadedEncoder> {
    let (file, origin, run) = if checkpoint.is_dir() {
        let run = read_config(checkpoint)?;
        let (saved, path) = best_of(checkpoint)?;
        let (file, origin) = from_run(&run, &saved, &path, weights)?;
        (file, origin, Some(run))
    } else if let Some(run) = run_of(checkpoint) {
        let run = read_config(&run)?;
        let (file, origin) = from_run(&run, &Checkpoint::load(checkpoint)?, checkpoint, weights)?;
        (file, origin, Some(run))
    } else {
        let path = checkpoint.display();
        if weights == Weights::Momentum {
            return Err(format!("{path}: holds one encoder; the momentum encoder is in the folder of a run").into());
        }
        (EncoderFile::load(checkpoint)?, path.to_string(), None)
    };
    let store = VarStore::new(device);
    let encoder = file.to_vit(&store.root())?;
    let VitConfig { image_size, patch_size, width, depth, heads, .. } = file.config;
    let description =
        format!("ViT width {width}, {depth} blocks, {heads} heads, patch {patch_size}, {image_size} px, {origin}");
    Ok(LoadedEncoder { store, encoder, mean: file.mean, std: file.std, pooling: file.pooling, description, run })
}

/// The best checkpoint of a run by nearest neighbours, or the newest before these were first measured.
fn best_of(run: &Path) -> Result<(Checkpoint, PathBuf)> {
    let Manifest { best, checkpoints } = Manifest::read(run)?;
    let Some(entry) = best.or(checkpoints.into_iter().next()) else {
        return Err(format!("{}: has no checkpoint yet; let the run save one", run.display()).into());
    };
    let folder = checkpoint_folder(run);
    Ok((entry.read(&folder)?, folder.join(&entry.file)))
}

/// An encoder that a run saved at `path`, and what it is.
fn from_run(run: &RunConfig, saved: &Checkpoint, path: &Path, weights: Weights) -> Result<(EncoderFile, String)> {
    let (part, prefix) = match weights {
        Weights::Trained => ("model.encoder", ""),
        Weights::Momentum => ("momentum.encoder", "momentum encoder, "),
    };
    let tensors = saved.part(part);
    if tensors.is_empty() {
        let lacks = match weights {
            Weights::Trained => "has no encoder; it is no checkpoint of a run",
            Weights::Momentum => "has no momentum encoder, because its run had none; leave out --weights momentum",
        };
        return Err(format!("{}: {lacks}", path.display()).into());
    }
    let config = VitConfig {
        image_size: run.image_size,
        patch_size: run.patch_size,
        width: run.width,
        depth: run.depth,
        heads: run.heads,
        mlp_ratio: MLP_RATIO,
        drop_path: 0.0,
        precision: Precision::Full,
    };
    let epoch = saved.metadata.get("epoch").map_or("unknown", String::as_str);
    let origin = format!("{prefix}epoch {epoch} of {}", path.display());
    Ok((EncoderFile { config, mean: IMAGENET_MEAN, std: IMAGENET_STD, pooling: Pooling::ClassToken, tensors }, origin))
}

/// The folder of the run that a checkpoint lies in, if it does.
fn run_of(checkpoint: &Path) -> Option<PathBuf> {
    let path = checkpoint.canonicalize().ok()?;
    let run = path.parent()?.parent()?;
    (path.parent()? == checkpoint_folder(run) && run.join(CONFIG).is_file()).then(|| run.to_owned())
}

fn read_config(run: &Path) -> Result<RunConfig> {
    let path = run.join(CONFIG);
    let text = fs::read_to_string(&path)
        .map_err(|error| format!("{}: {error}; name the folder of a run, or a .safetensors file", path.display()))?;
    serde_json::from_str(&text).map_err(|error| format!("{}: {error}", path.display()).into())
}
