//! The contents of a checkpoint: everything that the rest of a run depends on.

use std::path::Path;

use patchmix::checkpoint::Checkpoint;
use patchmix::files::printable;

use super::super::folder::Run;
use super::super::learner::Learner;
use super::super::meter::Meter;
use super::super::position::Position;
use crate::Result;
use crate::run::{Manifest, checkpoint_folder, none_is_complete};
use crate::terminal::{log, shown};

/// In the metadata of a checkpoint, the number of ranks of the run.
const RANKS: &str = "ranks";
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
        (RANKS, run.world.size as u64),
    ] {
        checkpoint.metadata.insert(name.to_owned(), number.to_string());
    }
    checkpoint.metadata.insert(IMAGES.to_owned(), run.folder.images.clone());
    Ok(checkpoint)
}

/// Restores the newest complete checkpoint, and says which one it was and which were skipped. A run that died before
/// its first checkpoint starts from the beginning; one whose checkpoints are all damaged is left as it is.
pub(in super::super) fn restore(run: Run<'_>, learner: &mut Learner) -> Result<Position> {
    let (folder, mut manifest) = (checkpoint_folder(&run.folder.path), Manifest::read(&run.folder.path)?);
    for name in manifest.unlisted(&run.folder.path)? {
        let path = shown(&folder.join(name));
        log!("skipped: {path}: not in the manifest; the run died while it was saved");
    }
    if manifest.checkpoints.is_empty() && manifest.best.is_none() {
        log!("no checkpoint in {}: starting from the beginning\n", shown(&folder));
        return Position::start_of_epoch(0, learner.store.device());
    }
    if let Some(position) = restore_newest(run, &manifest, learner)? {
        return Ok(position);
    }
    if !manifest.is_rebuilt {
        manifest = Manifest::rebuilt(&folder, "no checkpoint is as it says")?;
        if let Some(position) = restore_newest(run, &manifest, learner)? {
            return Ok(position);
        }
    }
    Err(none_is_complete(&folder).into())
}

/// Restores the newest checkpoint that is as the manifest says, if there is one. Writes a manifest that was rebuilt.
fn restore_newest(run: Run<'_>, manifest: &Manifest, learner: &mut Learner) -> Result<Option<Position>> {
    let folder = checkpoint_folder(&run.folder.path);
    if manifest.is_rebuilt {
        manifest.write(&run.folder.path)?;
    }
    // The best one is the last resort.
    for entry in manifest.checkpoints.iter().chain(&manifest.best) {
        let path = folder.join(&entry.file);
        match entry.read(&folder) {
            Ok(checkpoint) => {
                let position = restore_from(run, &checkpoint, &path, learner)?;
                log!("resuming from {}\n", shown(&path));
                return Ok(Some(position));
            }
            Err(error) => log!("skipped: {}", printable(error)),
        }
    }
    Ok(None)
}

fn restore_from(run: Run<'_>, checkpoint: &Checkpoint, path: &Path, learner: &mut Learner) -> Result<Position> {
    let number = |name: &str| -> Result<u64> {
        let text = checkpoint.metadata.get(name);
        let number = text.and_then(|text| text.parse().ok());
        number.ok_or_else(|| {
            format!("checkpoint {}: has no {name}; it was not saved by this program", shown(path)).into()
        })
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
    let (before, now) = (number(RANKS)?, run.world.size);
    if before != now as u64 {
        log!(
            "note: the run was on {before} ranks and resumes on {now}: images are mixed with other ones and views \
             drawn anew, so results differ from an uninterrupted run"
        );
    }
    Ok(Position { epoch, batch, meter, broken_images })
}
