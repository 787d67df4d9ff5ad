//! Where a run is: its folder, its checkpoints, and the way back into them.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use patchmix::checkpoint::{Checkpoint, write_whole};
use patchmix::contrast::MomentumNetwork;
use tch::Device;

use super::args::Arguments;
use super::meter::Meter;
use super::run_folder::{CONFIG, Manifest, checkpoint_folder};
use super::settings::Settings;
use super::views::Batch;
use super::world::World;
use super::{Learner, Result};

/// In the metadata of a checkpoint, how many ranks the run had.
const RANKS: &str = "ranks";
const IMAGES: &str = "training images";

/// The folder of a run.
pub(crate) struct RunFolder {
    pub(crate) path: PathBuf,
    /// Which images the run trains on: in another order it would not go on as itself.
    images: String,
}

/// The next batch of a run, and what is known of the epoch so far.
#[derive(Debug)]
pub(crate) struct Position {
    pub(crate) epoch: u64,
    pub(crate) batch: u64,
    pub(crate) meter: Meter,
    /// How many of the images so far are not there, as their files are broken.
    pub(crate) broken_images: u64,
}

impl Position {
    pub(crate) fn start_of_epoch(epoch: u64, device: Device) -> Result<Position> {
        Ok(Position { epoch, batch: 0, meter: Meter::new(device)?, broken_images: 0 })
    }

    /// Counts a batch.
    pub(crate) fn pass_over(&mut self, batch: &Batch) {
        self.batch += 1;
        self.broken_images += batch.broken;
    }

    /// Gives every rank what the first has: the place in the run, and all that was learned.
    pub(crate) fn share(&mut self, learner: &mut Learner, world: &World) -> Result<()> {
        if world.size == 1 {
            return Ok(());
        }
        for number in [&mut self.epoch, &mut self.batch, &mut self.broken_images] {
            *number = world.share_number(*number)?;
        }
        let meter = self.meter.to_tensor()?;
        let state = learner.optimizer.state();
        let stores = std::iter::once(&learner.store).chain(learner.momentum.as_ref().map(MomentumNetwork::store));
        // In the order of their names, which is the same everywhere.
        let networks = stores.flat_map(|store| store.variables().into_iter().collect::<BTreeMap<_, _>>().into_values());
        let moments = state.iter().map(|(name, tensor)| (name, tensor.shallow_clone())).collect::<BTreeMap<_, _>>();
        world.share(networks.chain(moments.into_values()).chain([meter.shallow_clone()]))?;
        let steps = world.share_number(learner.optimizer.steps())?;
        learner.optimizer.load_state(&state.into_iter().collect(), steps)?;
        self.meter = Meter::from_tensor(&meter, learner.store.device())?.ok_or("the first rank sent no meter")?;
        Ok(())
    }
}

impl RunFolder {
    /// The folder of the run that begins or goes on; an error if another run would be written over. Only the first of
    /// several ranks looks, and the others hear of it if there is an error.
    pub(crate) fn open(arguments: &Arguments, settings: &Settings, world: &World) -> Result<RunFolder> {
        let path = match &arguments.out {
            Some(path) if arguments.resume || !world.leads() => path.clone(),
            Some(path) if path.join(CONFIG).exists() => {
                return Err(format!(
                    "{} holds a run already; add --resume to go on with it, or name another folder",
                    path.display()
                )
                .into());
            }
            Some(path) if fs::read_dir(path).is_ok_and(|mut entries| entries.next().is_some()) => {
                return Err(format!("{} is not empty; name another folder with --out", path.display()).into());
            }
            Some(path) => path.clone(),
            None => free_folder(settings)?,
        };
        world.meet()?;
        Ok(RunFolder { path, images: String::new() })
    }

    /// The same for a run on these training images, see [`Images::identity`](super::images::Images::identity).
    pub(crate) fn of_images(self, images: String) -> RunFolder {
        RunFolder { images, ..self }
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
        checkpoint_folder(&self.path)
    }

    /// Puts the newest whole checkpoint back, and says which one it was and which were skipped. A run that died before
    /// its first checkpoint begins at its beginning; one whose checkpoints are all damaged is left as it is.
    pub(crate) fn restore(&self, learner: &mut Learner, world: &World) -> Result<Position> {
        let (folder, manifest) = (self.checkpoints(), Manifest::read(&self.path)?);
        for path in unlisted(&self.path, &manifest)? {
            eprintln!("skipped: {}: not in the manifest; the run died while it was saved", path.display());
        }
        for entry in &manifest.checkpoints {
            let path = folder.join(&entry.file);
            match entry.read(&folder) {
                Ok(checkpoint) => {
                    let position = self.restore_from(&checkpoint, &path, learner, world)?;
                    eprintln!("going on from {}\n", path.display());
                    return Ok(position);
                }
                Err(error) => eprintln!("skipped: {error}"),
            }
        }
        if !manifest.checkpoints.is_empty() {
            return Err(
                format!("{}: no checkpoint is whole; start a new run in another folder", folder.display()).into()
            );
        }
        eprintln!("no checkpoint in {}: beginning at the beginning\n", folder.display());
        Position::start_of_epoch(0, learner.store.device())
    }

    /// What a checkpoint holds of a run; the tensors share their memory with it.
    pub(crate) fn checkpoint_of(&self, learner: &Learner, position: &Position, world: &World) -> Result<Checkpoint> {
        let mut checkpoint = Checkpoint::default();
        checkpoint.insert_all("model", learner.store.variables());
        if let Some(momentum) = &learner.momentum {
            checkpoint.insert_all("momentum", momentum.store().variables());
        }
        checkpoint.insert_all("optimizer", learner.optimizer.state());
        checkpoint.insert_all("epoch", [("meter".to_owned(), position.meter.to_tensor()?)]);
        for (name, number) in [
            ("epoch", position.epoch),
            ("batch", position.batch),
            ("broken_images", position.broken_images),
            ("optimizer_steps", learner.optimizer.steps()),
            (RANKS, world.size as u64),
        ] {
            checkpoint.metadata.insert(name.to_owned(), number.to_string());
        }
        checkpoint.metadata.insert(IMAGES.to_owned(), self.images.clone());
        Ok(checkpoint)
    }

    fn restore_from(
        &self,
        checkpoint: &Checkpoint,
        path: &Path,
        learner: &mut Learner,
        world: &World,
    ) -> Result<Position> {
        let number = |name: &str| -> Result<u64> {
            let text = checkpoint.metadata.get(name);
            let number = text.and_then(|text| text.parse().ok());
            number.ok_or_else(|| {
                format!("checkpoint {}: says no {name}; it is not one of this program's", path.display()).into()
            })
        };
        match checkpoint.metadata.get(IMAGES) {
            Some(images) if *images != self.images => {
                return Err(format!(
                    "the run was on {images}, and there are {} now: its order would be another one; put back what was \
                     there, or start a new run",
                    self.images
                )
                .into());
            }
            _ => {}
        }
        let (epoch, batch, broken_images) = (number("epoch")?, number("batch")?, number("broken_images")?);
        let saved = checkpoint.tensors.get("epoch.meter");
        let meter = saved.map(|saved| Meter::from_tensor(saved, learner.store.device())).transpose()?.flatten();
        let meter = meter.ok_or_else(|| format!("checkpoint {}: has no meter", path.display()))?;
        checkpoint.restore("model", learner.store.variables(), path)?;
        if let Some(momentum) = &learner.momentum {
            checkpoint.restore("momentum", momentum.store().variables(), path)?;
        }
        learner.optimizer.load_state(&checkpoint.part("optimizer"), number("optimizer_steps")?)?;
        let ranks = number(RANKS)?;
        if ranks != world.size as u64 {
            eprintln!(
                "note: the run was on {ranks} ranks and goes on with {}: images are mixed among other ones and views \
                 drawn anew, so it does not end as it would have",
                world.size
            );
        }
        Ok(Position { epoch, batch, meter, broken_images })
    }
}

/// Files of checkpoints in the folder of a run that are not in the manifest.
pub(crate) fn unlisted(run: &Path, manifest: &Manifest) -> Result<Vec<PathBuf>> {
    let folder = checkpoint_folder(run);
    let entries = match fs::read_dir(&folder) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(|error| format!("{}: {error}", folder.display()))?,
    };
    let names = entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()));
    let names: Vec<String> = names.collect::<std::io::Result<_>>()?;
    let listed = |name: &String| manifest.checkpoints.iter().chain(&manifest.best).any(|entry| entry.file == *name);
    let unlisted = names.into_iter().filter(|name| name.ends_with(".safetensors") && !listed(name));
    Ok(unlisted.map(|name| folder.join(name)).collect())
}

/// The settings of the run in `folder`.
pub(crate) fn read_config(folder: &Path) -> Result<Settings> {
    let path = &folder.join(CONFIG);
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
