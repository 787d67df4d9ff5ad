//! The folder of a fine-tuning: its options, its state on the way, and the fine-tuned models.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use patchmix::checkpoint::Checkpoint;
use patchmix::files::read_small;
use serde_json::{Value, json};
use tch::nn::VarStore;
use tch::{Kind, Tensor};

use super::super::subject::Subject;
use super::FinetuneArguments;
use super::learner::Learner;
use super::measure::Measurement;
use super::recipe::Recipe;
use crate::Result;
use crate::images::Choice;
use crate::run::{Beginning, Lock, MAX_JSON, claim, remove_partials, write_json};
use crate::terminal::{log, resume_command};

const OPTIONS: &str = "finetune.json";
const STATE: &str = "state.safetensors";
/// The encoder that the fine-tuning began with. Its run may go on and remove the checkpoint.
const START: &str = "encoder.safetensors";
/// The fine-tuned classifiers, of averaged and of the last weights, and their accuracies.
const AVERAGED: &str = "averaged.safetensors";
const LAST: &str = "last.safetensors";
const RESULTS: &str = "results.json";
const OWN_FILES: [&str; 6] = [OPTIONS, STATE, START, AVERAGED, LAST, RESULTS];

const BEGINNING: Beginning = Beginning { marker: OPTIONS, what: "a fine-tuning" };

/// Options that name an encoder, and whether a value follows. One that resumes has its own.
const OF_THE_ENCODER: [(&str, bool); 3] = [("--checkpoint", true), ("--encoder", true), ("--best", false)];

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

    /// Makes the folder and writes the encoder and the options: the words of the command line, and what they leave
    /// open.
    pub(super) fn create(&self, words: &[OsString], subject: &Subject) -> Result<()> {
        let start = self.path.join(START);
        subject.encoder.to_file().save(&start)?;
        let mut options = words.iter().map(|word| utf8(word)).collect::<Result<Vec<_>>>()?;
        for (option, has_value) in OF_THE_ENCODER.into_iter().chain([("--stop-after", true)]) {
            options = without(option, has_value, options);
        }
        let Choice { dataset, data, limit } = &subject.choice;
        // Absolute, so that any working directory will do; a folder that is not needed need not exist.
        let data = data.canonicalize().unwrap_or_else(|_| data.clone());
        for (option, value) in [
            ("--checkpoint", utf8(start.canonicalize()?.as_os_str())?),
            ("--dataset", dataset.name()),
            ("--data", utf8(data.as_os_str())?),
            ("--limit", limit.to_string()),
        ] {
            options.extend([option.to_owned(), value]);
        }
        write_json(&self.path.join(OPTIONS), &json!({ "options": options }))
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
            log!("no state in {}: starting from the beginning\n", self.path.display());
            return Ok(());
        }
        let state = Checkpoint::load(&path)?;
        let text = |name: &str| -> Result<&String> {
            let missing = || format!("{}: has no {name}; it is not the state of a fine-tuning", path.display());
            Ok(state.metadata.get(name).ok_or_else(missing)?)
        };
        let number = |name: &str| -> Result<u64> {
            text(name)?.parse().map_err(|_| format!("{}: its {name} is not a number", path.display()).into())
        };
        self.check_recipe(&serde_json::from_str(text(RECIPE)?)?)?;
        if *text(IMAGES)? != self.images {
            let (saved, now) = (text(IMAGES)?, &self.images);
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
        log!("resuming from {}\n", path.display());
        Ok(())
    }

    /// What the saved state says of the encoder that it began with, or of the one of a new fine-tuning.
    pub(super) fn encoder(&self) -> &str {
        &self.encoder
    }

    /// An error naming the first option that was another one when the state was saved.
    fn check_recipe(&self, saved: &Value) -> Result<()> {
        for (name, value) in self.recipe.as_object().into_iter().flatten() {
            let before = &saved[name];
            if before != value {
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

fn utf8(word: &OsStr) -> Result<String> {
    Ok(word.to_str().ok_or_else(|| format!("{}: must be UTF-8", word.display()))?.to_owned())
}

/// `words` without an option, and without its value if it has one.
fn without(option: &str, has_value: bool, words: Vec<String>) -> Vec<String> {
    let mut kept = Vec::new();
    let mut words = words.into_iter();
    while let Some(word) = words.next() {
        match is_option(&word, option) {
            true if has_value && word == option => drop(words.next()),
            true => {}
            false => kept.push(word),
        }
    }
    kept
}

/// Whether a word is `option` or `option=VALUE`.
fn is_option(word: &str, option: &str) -> bool {
    word.strip_prefix(option).is_some_and(|rest| rest.is_empty() || rest.starts_with('='))
}

/// The words of a command line of `command`; those of `finetune --resume` begin with the options that were saved in the
/// folder of `--out`, so that what is given now wins.
pub(in super::super) fn with_saved_options(words: Vec<OsString>, command: clap::Command) -> Result<Vec<OsString>> {
    let said = command.ignore_errors(true).try_get_matches_from(&words);
    let said = said.ok().and_then(|said| said.subcommand_matches("finetune").cloned());
    // Words that do not parse may leave the flag without its default.
    let resumed = said.filter(|said| said.try_get_one("resume").ok().flatten() == Some(&true));
    let Some(folder) = resumed.and_then(|said| said.get_one::<PathBuf>("out").cloned()) else { return Ok(words) };
    for word in words.iter().filter_map(|word| word.to_str()) {
        if OF_THE_ENCODER.iter().any(|(option, _)| is_option(word, option)) {
            let folder = folder.display();
            return Err(format!("{word}: {folder} has the encoder that it began with; leave it out to resume").into());
        }
    }
    let path = folder.join(OPTIONS);
    let text = read_small(&path, MAX_JSON).map_err(|error| format!("{error}; --out names a fine-tuning"))?;
    let saved: Value = serde_json::from_slice(&text).map_err(|error| format!("{}: {error}", path.display()))?;
    let options = saved["options"].as_array().ok_or_else(|| format!("{}: has no options", path.display()))?;
    let options = options.iter().filter_map(Value::as_str).map(OsString::from);
    let place = words.iter().position(|word| word == "finetune").map_or(words.len(), |place| place + 1);
    let mut words = words;
    words.splice(place..place, options);
    Ok(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_option_is_left_out_with_its_value() {
        let words = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        for given in ["--stop-after 3 --out x", "--out x --stop-after=3", "--out x"] {
            assert_eq!(without("--stop-after", true, words(given)), words("--out x"));
        }
        assert_eq!(without("--best", false, words("--best --out x")), words("--out x"));
    }
}
