//! The contents of a checkpoint: everything that the rest of a run depends on.

use std::path::Path;

use patchmix::checkpoint::Checkpoint;
use patchmix::files::printable;
use serde_json::Value;

use super::super::folder::Run;
use super::super::learner::{Learner, Rates};
use super::super::meter::Meter;
use super::super::position::{Position, Start};
use crate::Result;
use crate::run::{Manifest, checkpoint_folder, none_is_complete};
use crate::settings::{CONFIG, History, Settings};
use crate::terminal::{log, shown};

/// In the metadata of a checkpoint, the number of ranks of the run.
const RANKS: &str = "ranks";
/// In the metadata, steps of the run that are done, and the batch size by which its batches are counted; a checkpoint of
/// an earlier version lacks them.
const STEP: &str = "step";
const BATCH_SIZE: &str = "batch_size";
/// In the metadata, which training images the run is on.
const IMAGES: &str = "training images";

/// The state of a run; the tensors share their memory with it.
pub(super) fn checkpoint_of(run: Run<'_>, learner: &Learner, position: &Position) -> Result<Checkpoint> {
    let mut checkpoint = Checkpoint::default();
    checkpoint.insert_all("model", learner.store.variables());
    if let Some(momentum) = &learner.momentum {
        checkpoint.insert_all("momentum", momentum.store().variables());
    }
    checkpoint.insert_all("optimizer", learner.optimizer.state());
    if let Some(probe) = &learner.probe {
        checkpoint.insert_all("probe", probe.state());
    }
    checkpoint.insert_all("epoch", [("meter".to_owned(), position.meter.to_tensor()?)]);
    for (name, number) in [
        ("epoch", position.epoch),
        ("batch", position.batch),
        ("broken_images", position.broken_images),
        ("optimizer_steps", learner.optimizer.steps()),
        (STEP, position.step),
        (BATCH_SIZE, run.settings.batch_size as u64),
        (RANKS, run.world.size as u64),
    ] {
        checkpoint.metadata.insert(name.to_owned(), number.to_string());
    }
    checkpoint.metadata.insert(IMAGES.to_owned(), run.folder.images.clone());
    Ok(checkpoint)
}

/// Restores the newest complete checkpoint, and says which one it was and which were skipped. A run that died before
/// its first checkpoint starts from the beginning; one whose checkpoints are all damaged is left as it is. Only the
/// first rank reads; the others will get what it has.
///
/// `before` are the run's settings so far; from here on, its present ones hold. There are `images` training images.
pub(in super::super) fn restore(
    run: Run<'_>,
    before: Option<&Settings>,
    images: u64,
    learner: &mut Learner,
) -> Result<Start> {
    let Run { settings, world, folder, .. } = run;
    let saved = if world.leads() { restore_newest_whole(run, learner)? } else { None };
    let Some(saved) = saved else { return Start::at_beginning(settings, learner, world) };
    let before = before.unwrap_or(settings);
    let mut history = History::read(&folder.path.join(CONFIG))?;
    // A checkpoint that does not say its batch size is of a version that cannot change it.
    let first = history.first("batch_size").and_then(Value::as_u64).unwrap_or(before.batch_size as u64);
    let (ranks, mut position) = (saved.ranks, saved.position(first, settings, images)?);
    let changes = history.add((position.step, position.epoch), [before, settings], [ranks, world.size as u64])?;
    let mut notes = Vec::new();
    if let Some(changes) = changes {
        notes.push(format!("changed  from epoch {} on: {changes}", position.epoch + 1));
        let is_within = 0 < position.batch && position.batch < images / settings.batch_size as u64;
        if is_within && measures_otherwise(before, settings) {
            notes.push("         the averages of this epoch begin here".to_owned());
            position.meter = position.meter.next_epoch()?;
        }
        let [was, is] = [before, settings].map(|other| learning_rate(&position, settings, other, images));
        if was != is {
            notes.push(format!("         the learning rate goes on at {is:.1e}, where it would have been {was:.1e}"));
        }
    }
    Ok(Start { position, history, notes })
}

/// Whether other losses are measured by these settings than before.
fn measures_otherwise(before: &Settings, settings: &Settings) -> bool {
    let form = |settings: &Settings| (settings.symmetric, settings.negatives, settings.temperature);
    form(before) != form(settings) || before.terms().ne(settings.terms())
}

/// The learning rate that `other` settings have at a place that is counted in batches of these.
fn learning_rate(place: &Position, settings: &Settings, other: &Settings, images: u64) -> f64 {
    let [size, other_size] = [settings, other].map(|settings| settings.batch_size as u64);
    let (steps_per_epoch, batch) = (images / other_size, place.batch * size / other_size);
    Rates::at(place.epoch * steps_per_epoch + batch, steps_per_epoch, other).learning
}

/// Restores the newest complete checkpoint; `None` where there is none yet.
fn restore_newest_whole(run: Run<'_>, learner: &mut Learner) -> Result<Option<Saved>> {
    let (folder, mut manifest) = (checkpoint_folder(&run.folder.path), Manifest::read(&run.folder.path)?);
    for name in manifest.unlisted(&run.folder.path)? {
        let path = shown(&folder.join(name));
        log!("skipped: {path}: not in the manifest; the run died while it was saved");
    }
    if manifest.checkpoints.is_empty() && manifest.best.is_none() {
        log!("no checkpoint in {}: starting from the beginning\n", shown(&folder));
        return Ok(None);
    }
    if let Some(saved) = restore_newest(run, &manifest, learner)? {
        return Ok(Some(saved));
    }
    if !manifest.is_rebuilt {
        manifest = Manifest::rebuilt(&folder, "no checkpoint is as it says")?;
        if let Some(saved) = restore_newest(run, &manifest, learner)? {
            return Ok(Some(saved));
        }
    }
    Err(none_is_complete(&folder).into())
}

/// Restores the newest checkpoint that is as the manifest says, if there is one. Writes a manifest that was rebuilt.
fn restore_newest(run: Run<'_>, manifest: &Manifest, learner: &mut Learner) -> Result<Option<Saved>> {
    let folder = checkpoint_folder(&run.folder.path);
    if manifest.is_rebuilt {
        manifest.write(&run.folder.path)?;
    }
    // The best one is the last resort.
    for entry in manifest.checkpoints.iter().chain(&manifest.best) {
        let path = folder.join(&entry.file);
        match entry.read(&folder) {
            Ok(checkpoint) => {
                let saved = restore_from(run, &checkpoint, &path, learner)?;
                log!("resuming from {}\n", shown(&path));
                return Ok(Some(saved));
            }
            Err(error) => log!("skipped: {}", printable(error)),
        }
    }
    Ok(None)
}

/// The place that a checkpoint was saved at, by its own numbers.
struct Saved {
    epoch: u64,
    batch: u64,
    step: Option<u64>,
    batch_size: Option<u64>,
    ranks: u64,
    broken_images: u64,
    meter: Meter,
}

impl Saved {
    /// The place among `images` with the settings from here on. A checkpoint of an earlier version counts batches of
    /// the size `first`.
    fn position(self, first: u64, settings: &Settings, images: u64) -> Result<Position> {
        let (before, now) = (self.batch_size.unwrap_or(first).max(1), settings.batch_size as u64);
        let seen = self.batch.saturating_mul(before);
        let batch = seen.div_ceil(now);
        let left_out = batch.saturating_mul(now) - seen;
        if before != now && left_out > 0 {
            log!("note: batches of {now} begin {left_out} images later in this epoch, which leaves these out");
        }
        let (epochs, least) = (settings.epochs, self.epoch.saturating_add(u64::from(batch > 0)));
        if epochs < least {
            return Err(format!("--epochs {epochs}: the run is in epoch {least}, which is the least to give").into());
        }
        let step = self.step.unwrap_or(self.epoch.saturating_mul(images / before).saturating_add(self.batch));
        Ok(Position { epoch: self.epoch, batch, step, meter: self.meter, broken_images: self.broken_images })
    }
}

fn restore_from(run: Run<'_>, checkpoint: &Checkpoint, path: &Path, learner: &mut Learner) -> Result<Saved> {
    let optional = |name: &str| checkpoint.metadata.get(name).and_then(|text| text.parse::<u64>().ok());
    let number = |name: &str| -> Result<u64> {
        let of_others = || format!("checkpoint {}: has no {name}; it was not saved by this program", shown(path));
        Ok(optional(name).ok_or_else(of_others)?)
    };
    let images = &run.folder.images;
    match checkpoint.metadata.get(IMAGES) {
        Some(saved) if saved != images => {
            return Err(format!(
                "the run was on {}, and there are {} now, whose order would be another one; restore the files, or \
                 start a new run",
                printable(saved),
                printable(images)
            )
            .into());
        }
        _ => {}
    }
    let (epoch, batch, broken_images) = (number("epoch")?, number("batch")?, number("broken_images")?);
    let saved = checkpoint.tensors.get("epoch.meter");
    let meter = saved.map(|saved| Meter::from_tensor(saved, learner.store.device())).transpose()?.flatten();
    let meter = match (meter, batch) {
        (Some(meter), _) => meter,
        // Nothing was measured yet: a version that measures other numbers can continue.
        (None, 0) => Meter::new(learner.store.device())?,
        (None, _) => {
            return Err(format!(
                "checkpoint {}: was saved within an epoch by a version that measures other numbers; resume it with \
                 that version up to the end of the epoch",
                shown(path)
            )
            .into());
        }
    };
    checkpoint.restore("model", learner.store.variables(), path)?;
    if let Some(momentum) = &learner.momentum {
        checkpoint.restore("momentum", momentum.store().variables(), path)?;
    }
    let steps = number("optimizer_steps")?;
    learner.optimizer.load_state(&checkpoint.part("optimizer"), steps)?;
    if let Some(probe) = &mut learner.probe {
        checkpoint.restore("probe", probe.state(), path)?;
        probe.set_steps(steps)?;
    }
    let ranks = number(RANKS)?;
    if ranks != run.world.size as u64 {
        log!(
            "note: the run was on {ranks} ranks and resumes on {}: images are mixed with other ones and views drawn \
             anew, so results differ from an uninterrupted run",
            run.world.size
        );
    }
    let (step, batch_size) = (optional(STEP), optional(BATCH_SIZE));
    Ok(Saved { epoch, batch, step, batch_size, ranks, broken_images, meter })
}
