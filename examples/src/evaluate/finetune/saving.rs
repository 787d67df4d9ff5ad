//! The folder of a fine-tuning: its state on the way, and the fine-tuned models.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use patchmix::checkpoint::Checkpoint;
use patchmix::files::printable;
use serde_json::Value;
use tch::nn::VarStore;
use tch::{Kind, Tensor};

use super::super::subject::Subject;
use super::FinetuneArguments;
use super::learner::Learner;
use super::measure::Measurement;
use super::options::{self, OPTIONS};
use super::recipe::Recipe;
use crate::Result;
use crate::run::{Beginning, Lock, claim, remove_partials};
use crate::terminal::{log, resume_command, shown};

const STATE: &str = "state.safetensors";
/// The encoder that the fine-tuning began with. Its run may go on and remove the checkpoint.
const START: &str = "encoder.safetensors";
/// The fine-tuned classifiers, of averaged and of the last weights, and their accuracies.
const AVERAGED: &str = "averaged.safetensors";
const LAST: &str = "last.safetensors";
const RESULTS: &str = "results.json";
const OWN_FILES: [&str; 6] = [OPTIONS, STATE, START, AVERAGED, LAST, RESULTS];

const BEGINNING: Beginning = Beginning { marker: OPTIONS, what: "a fine-tuning" };

/// Names in the metadata of the state.
const RECIPE: &str = "recipe";
const IMAGES: &str = "training images";
const ENCODER: &str = "encoder";

/// The next batch, and what is known of the training so far.
#[derive(Debug, Default)]
pub(super) struct Position {
    pub(super) epoch: u64,
    pub(super) batch: u64,
    pub(super) measurements: Vec<Measurement>,
    /// Sum of the losses of the epoch, a scalar on the device, and their number.
    losses: Option<Tensor>,
    steps: u64,
}

impl Position {
    /// Counts a batch and its loss, which a batch of broken images does not have.
    pub(super) fn pass(&mut self, loss: Option<Tensor>) -> Result<()> {
        self.batch += 1;
        if let Some(loss) = loss {
            self.steps += 1;
            self.losses = Some(match self.losses.take() {
                Some(losses) => losses.f_add(&loss)?,
                None => loss,
            });
        }
        Ok(())
    }

    pub(super) fn begin(&mut self, epoch: u64) {
        *self = Position { epoch, measurements: std::mem::take(&mut self.measurements), ..Position::default() };
    }

    /// The mean loss of the epoch so far, unless all images were broken; an error unless it is finite. Waits for the
    /// device.
    pub(super) fn mean_loss(&self) -> Result<Option<f64>> {
        let Some(losses) = &self.losses else { return Ok(None) };
        let loss = losses.f_double_value(&[])? / self.steps as f64;
        if loss.is_finite() {
            return Ok(Some(loss));
        }
        Err(format!("epoch {}: the loss is not finite; a lower --lr may help", self.epoch + 1).into())
    }
}

/// The folder of a fine-tuning, and what decides its results.
pub(super) struct Folder {
    path: PathBuf,
    recipe: Value,
    /// A fingerprint of the training images; the batches depend on it.
    images: String,
    encoder: String,
    _lock: Lock,
}

impl Folder {
    /// The folder to begin or to resume in, for this process alone; an error if something else would be overwritten.
    pub(super) fn choose(arguments: &FinetuneArguments, subject: &Subject, recipe: &Recipe<'_>) -> Result<Folder> {
        let name = format!("finetune-{}", subject.images.name());
        let recipe = serde_json::to_value(recipe)?;
        let images = format!("{}, {}", subject.images.name(), subject.images.identity()?);
        let (path, lock) = claim(arguments.out.as_deref(), arguments.resume, &name, BEGINNING)?;
        remove_partials(&path, &lock, |name| OWN_FILES.contains(&name));
        Ok(Folder { path, recipe, images, encoder: subject.encoder.description.clone(), _lock: lock })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The file of results.
    pub(super) fn results(&self) -> PathBuf {
        self.path.join(RESULTS)
    }

    /// Writes the encoder and the options: the words of the command line, and what they leave open.
    pub(super) fn create(&self, words: &[OsString], subject: &Subject) -> Result<()> {
        let start = self.path.join(START);
        subject.encoder.to_file().save(&start)?;
        options::save(&self.path, words, &start, subject)
    }

    pub(super) fn print_resume_command(&self) {
        log!("saved; resume with{}", resume_command("evaluate", "finetune ", &self.path));
    }

    /// Saves everything that the rest of the training depends on. An interruption leaves the old state or the new one.
    pub(super) fn save(&self, learner: &Learner, position: &Position) -> Result<()> {
        let mut state = Checkpoint::default();
        state.insert_all("model", learner.store.variables());
        state.insert_all("average", learner.average_store.variables());
        state.insert_all("optimizer", learner.optimizer.state());
        let measurements: Vec<f64> = position.measurements.iter().flat_map(|measured| measured.to_numbers()).collect();
        state.tensors.insert("measurements".to_owned(), Tensor::f_from_slice(&measurements)?);
        if let Some(losses) = &position.losses {
            state.tensors.insert("losses".to_owned(), losses.shallow_clone());
        }
        for (name, number) in [
            ("epoch", position.epoch),
            ("batch", position.batch),
            ("steps", position.steps),
            ("optimizer_steps", learner.optimizer.steps()),
        ] {
            state.metadata.insert(name.to_owned(), number.to_string());
        }
        for (name, text) in [(RECIPE, self.recipe.to_string()), (IMAGES, self.images.clone())] {
            state.metadata.insert(name.to_owned(), text);
        }
        state.metadata.insert(ENCODER.to_owned(), self.encoder.clone());
        Ok(state.save(&self.path.join(STATE))?)
    }

    /// Restores the saved state, if there is one yet.
    pub(super) fn restore(&mut self, learner: &mut Learner, position: &mut Position) -> Result<()> {
        let path = self.path.join(STATE);
        if !path.exists() {
            log!("no state in {}: starting from the beginning\n", shown(&self.path));
            return Ok(());
        }
        let state = Checkpoint::load(&path)?;
        let text = |name: &str| -> Result<&String> {
            let missing = || format!("{}: has no {name}; it is not the state of a fine-tuning", shown(&path));
            Ok(state.metadata.get(name).ok_or_else(missing)?)
        };
        let number = |name: &str| -> Result<u64> {
            text(name)?.parse().map_err(|_| format!("{}: its {name} is not a number", shown(&path)).into())
        };
        self.check_recipe(&serde_json::from_str(text(RECIPE)?)?)?;
        if *text(IMAGES)? != self.images {
            let (saved, now) = (printable(text(IMAGES)?), printable(&self.images));
            return Err(format!("the fine-tuning was on {saved}, and there are {now} now; restore the files").into());
        }
        self.encoder.clone_from(text(ENCODER)?);
        state.restore("model", learner.store.variables(), &path)?;
        state.restore("average", learner.average_store.variables(), &path)?;
        learner.optimizer.load_state(&state.part("optimizer"), number("optimizer_steps")?)?;
        (position.epoch, position.batch, position.steps) = (number("epoch")?, number("batch")?, number("steps")?);
        position.losses = match state.tensors.get("losses") {
            Some(losses) => Some(losses.f_to_device(learner.store.device())?),
            None => None,
        };
        if let Some(numbers) = state.tensors.get("measurements") {
            let numbers = Vec::<f64>::try_from(numbers.f_to_kind(Kind::Double)?)?;
            let (rows, _) = numbers.as_chunks();
            position.measurements = rows.iter().map(Measurement::from_numbers).collect();
        }
        log!("resuming from {}\n", shown(&path));
        Ok(())
    }

    /// What the saved state says of the encoder that it began with, or of the one of a new fine-tuning.
    pub(super) fn encoder(&self) -> &str {
        &self.encoder
    }

    /// An error naming the first option that was another one when the state was saved.
    fn check_recipe(&self, saved: &Value) -> Result<()> {
        for (name, value) in self.recipe.as_object().into_iter().flatten() {
            if saved[name] != *value {
                let before = printable(&saved[name]);
                let option = name.replace('_', "-");
                return Err(format!(
                    "--{option} {value} differs from the fine-tuning's {before}; leave it out to resume, or start \
                     anew in another folder"
                )
                .into());
            }
        }
        Ok(())
    }

    /// Writes both classifiers under timm's names.
    pub(super) fn save_models(&self, subject: &Subject, learner: &Learner) -> Result<()> {
        let save = |name: &str, store: &VarStore| -> Result<()> {
            let encoder = subject.encoder.to_file();
            let classes = subject.images.class_names();
            let timm = encoder.timm().replace("num_classes=0", &format!("num_classes={}", classes.len()));
            let channels = |numbers: [f64; 3]| numbers.map(|number| number.to_string()).join(" ");
            let metadata = [
                ("format", "patchmix-classifier 1".to_owned()),
                ("timm", timm),
                ("classes", serde_json::to_string(&classes)?),
                ("mean", channels(encoder.mean)),
                ("std", channels(encoder.std)),
            ];
            let metadata = metadata.map(|(name, text)| (name.to_owned(), text)).into();
            Ok(Checkpoint { tensors: store.variables(), metadata }.save(&self.path.join(name))?)
        };
        save(AVERAGED, &learner.average_store)?;
        save(LAST, &learner.store)
    }
}
