//! Where a run is: its folder, its checkpoints, and the way back into them.

use std::fs;
use std::path::{Path, PathBuf};

use patchmix::checkpoint::{Checkpoint, write_whole};
use tch::{Device, Kind, Tensor};

use crate::args::Arguments;
use crate::settings::Settings;
use crate::{Learner, Result};

/// Checkpoints kept, so that a damaged newest one does not cost the run.
const KEPT: usize = 2;
const CONFIG: &str = "config.json";

/// The folder of a run.
pub(crate) struct RunFolder {
    pub(crate) path: PathBuf,
}

/// The next batch of a run, and the losses of the epoch so far.
#[derive(Debug)]
pub(crate) struct Position {
    pub(crate) epoch: u64,
    pub(crate) batch: u64,
    /// Sums over the epoch's batches of total, origin-to-origin, mix-to-origin and mix-to-mix loss; on the device.
    pub(crate) loss_sums: Tensor,
}

impl Position {
    pub(crate) fn start_of_epoch(epoch: u64, device: Device) -> Position {
        Position { epoch, batch: 0, loss_sums: Tensor::zeros([4], (Kind::Double, device)) }
    }

    /// The mean losses of the epoch so far: the one place where a run waits for the device.
    pub(crate) fn mean_losses(&self) -> Result<[f64; 4]> {
        let means = Vec::<f64>::try_from(self.loss_sums.f_div_scalar(self.batch.max(1) as f64)?)?;
        <[f64; 4]>::try_from(means).map_err(|means| format!("four losses, not {}", means.len()).into())
    }
}

impl RunFolder {
    /// The folder of a new run, made and given its `config.json`; or that of the run that goes on.
    pub(crate) fn open(arguments: &Arguments) -> Result<(RunFolder, Settings)> {
        if let (true, Some(path)) = (arguments.resume, &arguments.out) {
            let saved: Settings = read_config(&path.join(CONFIG))?;
            return Ok((RunFolder { path: path.clone() }, arguments.resumed_settings(&saved)?));
        }
        let settings = arguments.settings()?;
        let path = match &arguments.out {
            Some(path) if path.join(CONFIG).exists() => {
                return Err(format!(
                    "{} holds a run already; add --resume to go on with it, or name another folder",
                    path.display()
                )
                .into());
            }
            Some(path) => path.clone(),
            None => free_folder(&settings)?,
        };
        Ok((RunFolder { path }, settings))
    }

    /// Makes the folder and writes `config.json`.
    pub(crate) fn create(&self, settings: &Settings) -> Result<()> {
        let checkpoints = self.checkpoints();
        fs::create_dir_all(&checkpoints).map_err(|error| format!("{}: {error}", checkpoints.display()))?;
        let text = serde_json::to_string_pretty(settings)? + "\n";
        Ok(write_whole(&self.path.join(CONFIG), text.as_bytes())?)
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    fn checkpoints(&self) -> PathBuf {
        self.path.join("checkpoints")
    }

    /// Saves everything that the rest of the run depends on.
    pub(crate) fn save(&self, learner: &Learner, position: &Position) -> Result<()> {
        let mut checkpoint = Checkpoint::default();
        checkpoint.insert_all("model", learner.store.variables());
        if let Some(momentum) = &learner.momentum {
            checkpoint.insert_all("momentum", momentum.store().variables());
        }
        checkpoint.insert_all("optimizer", learner.optimizer.state());
        checkpoint.insert_all("epoch", [("loss_sums".to_owned(), position.loss_sums.shallow_clone())]);
        for (name, number) in
            [("epoch", position.epoch), ("batch", position.batch), ("optimizer_steps", learner.optimizer.steps())]
        {
            checkpoint.metadata.insert(name.to_owned(), number.to_string());
        }
        let name = format!("epoch-{:05}-batch-{:06}.safetensors", position.epoch, position.batch);
        checkpoint.save(&self.checkpoints().join(name))?;
        for old in self.saved()?.into_iter().skip(KEPT) {
            fs::remove_file(&old).map_err(|error| format!("{}: {error}", old.display()))?;
        }
        Ok(())
    }

    /// Puts the newest whole checkpoint back, and says which one it was and which were skipped. A run that died before
    /// its first checkpoint begins at its beginning; one whose checkpoints are all damaged is left as it is.
    pub(crate) fn restore(&self, learner: &mut Learner) -> Result<Position> {
        let saved = self.saved()?;
        for path in &saved {
            match Checkpoint::load(path) {
                Ok(checkpoint) => {
                    let position = restore_from(&checkpoint, path, learner)?;
                    eprintln!("going on from {}\n", path.display());
                    return Ok(position);
                }
                Err(error) => eprintln!("skipped: {error}"),
            }
        }
        let folder = self.checkpoints();
        if !saved.is_empty() {
            return Err(
                format!("{}: no checkpoint is whole; start a new run in another folder", folder.display()).into()
            );
        }
        eprintln!("no checkpoint in {}: beginning at the beginning\n", folder.display());
        Ok(Position::start_of_epoch(0, learner.store.device()))
    }

    /// The checkpoints, newest first.
    fn saved(&self) -> Result<Vec<PathBuf>> {
        let folder = self.checkpoints();
        let entries = fs::read_dir(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
        let mut paths: Vec<PathBuf> = entries
            .map(|entry| entry.map(|entry| entry.path()))
            .filter(|path| path.as_ref().is_ok_and(|path| path.extension().is_some_and(|end| end == "safetensors")))
            .collect::<std::io::Result<_>>()?;
        paths.sort(); // names hold the position with leading zeros
        paths.reverse();
        Ok(paths)
    }
}

fn restore_from(checkpoint: &Checkpoint, path: &Path, learner: &mut Learner) -> Result<Position> {
    let number = |name: &str| -> Result<u64> {
        let text = checkpoint.metadata.get(name);
        let number = text.and_then(|text| text.parse().ok());
        number.ok_or_else(|| {
            format!("checkpoint {}: says no {name}; it is not one of this program's", path.display()).into()
        })
    };
    let (epoch, batch, steps) = (number("epoch")?, number("batch")?, number("optimizer_steps")?);
    let loss_sums = checkpoint.tensors.get("epoch.loss_sums").filter(|sums| sums.size() == [4]);
    let loss_sums = loss_sums.ok_or_else(|| format!("checkpoint {}: has no loss sums", path.display()))?;
    checkpoint.restore("model", learner.store.variables(), path)?;
    if let Some(momentum) = &learner.momentum {
        checkpoint.restore("momentum", momentum.store().variables(), path)?;
    }
    learner.optimizer.load_state(&checkpoint.part("optimizer"), steps)?;
    Ok(Position { epoch, batch, loss_sums: loss_sums.f_to_device(learner.store.device())? })
}

fn read_config(path: &Path) -> Result<Settings> {
    let text = fs::read_to_string(path)
        .map_err(|error| format!("{}: {error}; --out must name the folder of a run", path.display()))?;
    serde_json::from_str(&text).map_err(|error| format!("{}: {error}", path.display()).into())
}

/// `runs/DATASET-ARCH`, or with the first number behind it that is free.
fn free_folder(settings: &Settings) -> Result<PathBuf> {
    let word = |value: serde_json::Result<serde_json::Value>| -> Result<String> {
        Ok(value?.as_str().unwrap_or_default().to_owned())
    };
    let dataset = word(serde_json::to_value(settings.dataset))?;
    let name = match settings.arch.shape() {
        Some(_) => format!("{dataset}-{}", word(serde_json::to_value(settings.arch))?),
        None => dataset,
    };
    let mut folders = std::iter::once(name.clone()).chain((2..).map(|number| format!("{name}-{number}")));
    let free = folders.find(|name| !Path::new("runs").join(name).exists());
    Ok(Path::new("runs").join(free.unwrap_or(name)))
}
