//! An encoder to look at or to measure: from a run, from one of its checkpoints, or from a file of its own.

use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use patchmix::augment::{IMAGENET_MEAN, IMAGENET_STD};
use patchmix::checkpoint::Checkpoint;
use patchmix::files::printable;
use patchmix::vit::{EncoderFile, Pooling, Precision, Vit, VitConfig};
use tch::Device;
use tch::nn::VarStore;

use crate::Result;
use crate::run::{BEST, Manifest, checkpoint_folder};
use crate::settings::{CONFIG, Settings};
use crate::terminal::shown;

/// Options that name an encoder.
#[derive(Debug, Args)]
pub(crate) struct EncoderOptions {
    /// Folder of a run (its last checkpoint), a checkpoint in it, or an encoder file
    #[arg(long, value_name = "CHECKPOINT")]
    checkpoint: PathBuf,
    /// Which of the run's encoders [default: momentum if the run has one, else trained]
    #[arg(long, value_enum)]
    encoder: Option<WhichEncoder>,
    /// The run's checkpoint with the best kNN accuracy on the test images instead of its last
    #[arg(long)]
    best: bool,
}

/// Which of a run's two encoders.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum WhichEncoder {
    /// The momentum encoder, which makes the keys
    Momentum,
    /// The one that gradients train
    Trained,
}

/// Which tokens make the features of an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum PoolingName {
    /// The class token
    ClassToken,
    /// The mean of the patch tokens
    PatchMean,
}

impl From<PoolingName> for Pooling {
    fn from(name: PoolingName) -> Pooling {
        match name {
            PoolingName::ClassToken => Pooling::ClassToken,
            PoolingName::PatchMean => Pooling::PatchMean,
        }
    }
}

/// An encoder, how its images are normalized, and how its features are read.
#[derive(Debug)]
pub(crate) struct LoadedEncoder {
    /// The weights, under timm's names.
    pub(crate) store: VarStore,
    pub(crate) encoder: Vit,
    pub(crate) mean: [f64; 3],
    pub(crate) std: [f64; 3],
    pub(crate) pooling: Pooling,
    /// Its shape and origin, in a line.
    pub(crate) description: String,
    /// The settings of the run it comes from, unless it comes from a file of its own.
    pub(crate) run: Option<Settings>,
}

/// An encoder whose features are measured, and how its images are normalized.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Frozen<'a> {
    pub(crate) encoder: &'a Vit,
    pub(crate) mean: [f64; 3],
    pub(crate) std: [f64; 3],
}

impl LoadedEncoder {
    /// The encoder as a file; the tensors share their memory with it.
    pub(crate) fn to_file(&self) -> EncoderFile {
        EncoderFile {
            config: self.encoder.config().clone(),
            mean: self.mean,
            std: self.std,
            pooling: self.pooling,
            tensors: self.store.variables(),
        }
    }

    pub(crate) fn frozen(&self) -> Frozen<'_> {
        Frozen { encoder: &self.encoder, mean: self.mean, std: self.std }
    }
}

impl EncoderOptions {
    /// Loads the encoder.
    pub(crate) fn load(&self, device: Device) -> Result<LoadedEncoder> {
        let (file, origin, run) = self.find()?;
        let store = VarStore::new(device);
        let encoder = file.to_vit(&store.root())?;
        let VitConfig { image_size, patch_size, width, depth, heads, .. } = file.config;
        let description =
            format!("ViT width {width}, {depth} blocks, {heads} heads, patch {patch_size}, {image_size} px, {origin}");
        Ok(LoadedEncoder { store, encoder, mean: file.mean, std: file.std, pooling: file.pooling, description, run })
    }

    /// The encoder, its origin in words, and the settings of its run.
    fn find(&self) -> Result<(EncoderFile, String, Option<Settings>)> {
        let checkpoint = &self.checkpoint;
        if checkpoint.is_dir() {
            let run = Settings::read(&checkpoint.join(CONFIG))?;
            let (saved, path) = saved_in(checkpoint, self.best)?;
            let which = if self.best { BEST_IS } else { "last checkpoint, " };
            let (file, origin) = from_run(&run, &saved, &path, self.encoder, which)?;
            return Ok((file, origin, Some(run)));
        }
        let path = shown(checkpoint);
        if self.best {
            return Err(format!("{path}: is one checkpoint; --best chooses among those of a run's folder").into());
        }
        if let Some(run) = run_of(checkpoint) {
            let run = Settings::read(&run.join(CONFIG))?;
            let is_best = checkpoint.file_name().is_some_and(|name| name == BEST);
            let which = if is_best { BEST_IS } else { "" };
            let (file, origin) = from_run(&run, &Checkpoint::load(checkpoint)?, checkpoint, self.encoder, which)?;
            return Ok((file, origin, Some(run)));
        }
        if self.encoder == Some(WhichEncoder::Momentum) {
            return Err(format!("{path}: holds one encoder; the momentum encoder is in the folder of a run").into());
        }
        Ok((EncoderFile::load(checkpoint)?, path, None))
    }
}

/// How a description names the best checkpoint of a run.
const BEST_IS: &str = "best checkpoint by kNN on the test images (selected on them), ";

/// The best or the last checkpoint of a run.
fn saved_in(run: &Path, best: bool) -> Result<(Checkpoint, PathBuf)> {
    let Manifest { best: best_entry, checkpoints, .. } = Manifest::read(run)?;
    let (entry, lacks) = match best {
        true => (best_entry, "has no checkpoint with a kNN accuracy yet; leave out --best"),
        false => (checkpoints.into_iter().next(), "has no checkpoint yet; let the run save one"),
    };
    let entry = entry.ok_or_else(|| format!("{}: {lacks}", shown(run)))?;
    let folder = checkpoint_folder(run);
    Ok((entry.read(&folder)?, folder.join(&entry.file)))
}

/// An encoder that a run saved at `path`, and its origin in words; `which` names the checkpoint.
fn from_run(
    run: &Settings,
    saved: &Checkpoint,
    path: &Path,
    encoder: Option<WhichEncoder>,
    which: &str,
) -> Result<(EncoderFile, String)> {
    let (momentum, trained) = (saved.part("momentum.encoder"), saved.part("model.encoder"));
    let default = if momentum.is_empty() { WhichEncoder::Trained } else { WhichEncoder::Momentum };
    let (name, tensors, lacks) = match encoder.unwrap_or(default) {
        WhichEncoder::Momentum => ("momentum", momentum, "momentum encoder, because its run had none"),
        WhichEncoder::Trained => ("trained", trained, "encoder; it is not a checkpoint of a run"),
    };
    let path = shown(path);
    if tensors.is_empty() {
        return Err(format!("{path}: --encoder {name}: has no {lacks}").into());
    }
    // Measured in full precision and without drop path, however it was trained.
    let config = VitConfig { drop_path: 0.0, precision: Precision::Full, ..run.vit() };
    let epoch = saved.metadata.get("epoch").map_or_else(|| "unknown".to_owned(), printable);
    let origin = format!("{name} encoder, {which}epoch {epoch} of {path}");
    Ok((EncoderFile { config, mean: IMAGENET_MEAN, std: IMAGENET_STD, pooling: Pooling::ClassToken, tensors }, origin))
}

/// The folder of the run that a checkpoint lies in, if it does.
fn run_of(checkpoint: &Path) -> Option<PathBuf> {
    let path = checkpoint.canonicalize().ok()?;
    let run = path.parent()?.parent()?;
    (path.parent()? == checkpoint_folder(run) && run.join(CONFIG).is_file()).then(|| run.to_owned())
}
