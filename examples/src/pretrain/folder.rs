//! The folder of a run, and what stays the same during the run.

use std::fs;
use std::path::PathBuf;

use clap::ValueEnum;

use super::world::World;
use crate::Result;
use crate::run::{check_new_folder, checkpoint_folder, free_folder, write_json};
use crate::settings::{Arguments, CONFIG, Program, Settings};

/// What stays the same during a run.
#[derive(Clone, Copy)]
pub(super) struct Run<'a> {
    pub(super) program: Program,
    pub(super) settings: &'a Settings,
    pub(super) folder: &'a RunFolder,
    pub(super) world: &'a World,
}

/// The folder of a run.
pub(super) struct RunFolder {
    pub(super) path: PathBuf,
    /// A fingerprint of the training images; the batches depend on it.
    pub(super) images: String,
}

impl RunFolder {
    /// The folder of the run that begins or resumes; an error if another run would be overwritten. Only the first of
    /// several ranks looks; the others learn of its error.
    pub(super) fn choose(arguments: &Arguments, world: &World) -> Result<PathBuf> {
        let path = match &arguments.out {
            Some(path) if arguments.resume || !world.leads() => path.clone(),
            Some(path) => {
                check_new_folder(path, CONFIG, "a run")?;
                path.clone()
            }
            None => free_folder(&name_of(&arguments.settings)),
        };
        world.meet()?;
        Ok(path)
    }

    /// Makes the folder and writes `config.json`.
    pub(super) fn create(&self, settings: &Settings) -> Result<()> {
        let checkpoints = checkpoint_folder(&self.path);
        fs::create_dir_all(&checkpoints).map_err(|error| format!("{}: {error}", checkpoints.display()))?;
        write_json(&self.path.join(CONFIG), settings)
    }

    pub(super) fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }
}

/// `DATASET-ARCH`, or the data set alone for a custom architecture.
fn name_of(settings: &Settings) -> String {
    let dataset = settings.dataset.name();
    match settings.arch.to_possible_value().filter(|_| settings.arch.shape().is_some()) {
        Some(arch) => format!("{dataset}-{}", arch.get_name()),
        None => dataset,
    }
}
