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
        let path = shown(&self.checkpoint);
        match Weights::open(&self.checkpoint, self.best)? {
            Weights::Run(saved) => {
                let (file, origin) = saved.encoder(self.encoder)?;
                Ok((file, origin, Some(saved.settings)))
            }
            Weights::File(_) if self.encoder == Some(WhichEncoder::Momentum) => {
                Err(format!("{path}: holds one encoder; the momentum encoder is in the folder of a run").into())
            }
            Weights::File(file) => Ok((file, path, None)),
        }
    }
}

/// What a path names: a checkpoint of a run, or a file with an encoder alone.
pub(crate) enum Weights {
    Run(Box<SavedRun>),
    File(EncoderFile),
}

/// A checkpoint of a run, with the run's settings.
pub(crate) struct SavedRun {
    pub(crate) settings: Settings,
    pub(crate) checkpoint: Checkpoint,
    pub(crate) path: PathBuf,
    /// Which of the run's checkpoints it is, in words.
    which: &'static str,
}

impl Weights {
    /// Reads the last checkpoint of a run's folder, or the `best` one; or a file.
    pub(crate) fn open(path: &Path, best: bool) -> Result<Weights> {
        if path.is_dir() {
            let settings = Settings::read(&path.join(CONFIG))?;
            let (checkpoint, path) = saved_in(path, best)?;
            let which = if best { BEST_IS } else { "last checkpoint, " };
            return Ok(Weights::Run(Box::new(SavedRun { settings, checkpoint, path, which })));
        }
        if best {
            let path = shown(path);
            return Err(format!("{path}: is one checkpoint; --best chooses among those of a run's folder").into());
        }
        let Some(run) = run_of(path) else { return Ok(Weights::File(EncoderFile::load(path)?)) };
        let is_best = path.file_name().is_some_and(|name| name == BEST);
        Ok(Weights::Run(Box::new(SavedRun {
            settings: Settings::read(&run.join(CONFIG))?,
            checkpoint: Checkpoint::load(path)?,
            path: path.to_owned(),
            which: if is_best { BEST_IS } else { "" },
        })))
    }
}

impl SavedRun {
    /// An encoder, by default the one that evaluations take, and its origin in words.
    fn encoder(&self, which: Option<WhichEncoder>) -> Result<(EncoderFile, String)> {
        let momentum = self.momentum_encoder();
        let default = if momentum.is_some() { WhichEncoder::Momentum } else { WhichEncoder::Trained };
        let (name, file) = match which.unwrap_or(default) {
            WhichEncoder::Momentum => ("momentum", momentum),
            WhichEncoder::Trained => ("trained", Some(self.trained_encoder()?)),
        };
        let path = shown(&self.path);
        let file = file
            .ok_or_else(|| format!("{path}: --encoder momentum: has no momentum encoder, because its run had none"))?;
        let epoch = self.checkpoint.metadata.get("epoch").map_or_else(|| "unknown".to_owned(), printable);
        Ok((file, format!("{name} encoder, {}epoch {epoch} of {path}", self.which)))
    }

    /// The encoder that gradients train.
    pub(crate) fn trained_encoder(&self) -> Result<EncoderFile> {
        let file = self.part("model.encoder");
        Ok(file.ok_or_else(|| format!("{}: has no encoder; it is not a checkpoint of a run", shown(&self.path)))?)
    }

    /// The momentum encoder, if the run has one.
    pub(crate) fn momentum_encoder(&self) -> Option<EncoderFile> {
        self.part("momentum.encoder")
    }

    fn part(&self, prefix: &str) -> Option<EncoderFile> {
        let tensors = self.checkpoint.part(prefix);
        // Measured in full precision and without drop path, however it was trained.
        let config = VitConfig { drop_path: 0.0, precision: Precision::Full, ..self.settings.vit() };
        let (mean, std, pooling) = (IMAGENET_MEAN, IMAGENET_STD, Pooling::ClassToken);
        (!tensors.is_empty()).then_some(EncoderFile { config, mean, std, pooling, tensors })
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

/// The folder of the run that a checkpoint lies in, if it does.
fn run_of(checkpoint: &Path) -> Option<PathBuf> {
    let path = checkpoint.canonicalize().ok()?;
    let run = path.parent()?.parent()?;
    (path.parent()? == checkpoint_folder(run) && run.join(CONFIG).is_file()).then(|| run.to_owned())
}
