//! The folder of a run, and what stays the same during the run.

use std::fs;
use std::path::PathBuf;

use clap::ValueEnum;

use super::report::{CURVES, MIX};
use super::world::World;
use crate::Result;
use crate::run::metrics::{METRICS, SUMMARY};
use crate::run::{Beginning, Lock, Manifest, check_new_folder, checkpoint_folder, claim, is_own, remove_partials};
use crate::settings::{Arguments, CONFIG, History, Program, Settings};
use crate::terminal::shown;

/// What stays the same during a run.
#[derive(Clone, Copy)]
pub(super) struct Run<'a> {
    pub(super) program: Program,
    pub(super) settings: &'a Settings,
    pub(super) folder: &'a RunFolder,
    pub(super) world: &'a World,
}

/// The files of a run beside its checkpoints; TensorBoard's have names of their own.
const OWN_FILES: [&str; 5] = [CONFIG, METRICS, SUMMARY, MIX, CURVES];

const BEGINNING: Beginning = Beginning { marker: CONFIG, what: "a run" };

/// The folder of a run.
pub(super) struct RunFolder {
    /// On other ranks than the first, which write nothing, that of --out; empty where that was left out.
    pub(super) path: PathBuf,
    /// A fingerprint of the training images; the batches depend on it.
    pub(super) images: String,
    /// Of the first of several ranks; held to the end of the run.
    _lock: Option<Lock>,
}

impl RunFolder {
    /// An error if another run would be overwritten. Only the first of several ranks looks; the others learn of its
    /// error.
    pub(super) fn check(arguments: &Arguments, world: &World) -> Result<()> {
        match &arguments.out {
            Some(path) if world.leads() && !arguments.resume => check_new_folder(path, BEGINNING)?,
            _ => {}
        }
        world.meet()
    }

    /// The folder of the run that begins or resumes, for this run alone: its first rank makes and locks it.
    pub(super) fn claim(arguments: &Arguments, world: &World, images: String) -> Result<RunFolder> {
        let out = arguments.out.as_deref();
        if !world.leads() {
            return Ok(RunFolder { path: out.map(PathBuf::from).unwrap_or_default(), images, _lock: None });
        }
        let (path, lock) = claim(out, arguments.resume, &name_of(&arguments.settings), BEGINNING)?;
        remove_partials(&path, &lock, |name| OWN_FILES.contains(&name));
        remove_partials(&checkpoint_folder(&path), &lock, is_own);
        Ok(RunFolder { path, images, _lock: Some(lock) })
    }

    /// Writes `config.json` if there is a history to be recorded, and makes the folder of checkpoints.
    pub(super) fn create(&self, settings: &Settings, history: Option<History>) -> Result<()> {
        let Some(history) = history else { return Ok(()) };
        settings.write(&self.path.join(CONFIG), &history)?;
        let checkpoints = checkpoint_folder(&self.path);
        Ok(fs::create_dir_all(&checkpoints).map_err(|error| format!("{}: {error}", shown(&checkpoints)))?)
    }

    /// What there is to resume from where the last steps were skipped and are not saved, as a sentence.
    pub(super) fn last_checkpoint(&self) -> &'static str {
        if self.path.as_os_str().is_empty() {
            return "The last checkpoint, if there is one, is from before";
        }
        match Manifest::read(&self.path) {
            Ok(Manifest { checkpoints, best: None, .. }) if checkpoints.is_empty() => "There is no checkpoint yet",
            _ => "The last checkpoint is from before",
        }
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
