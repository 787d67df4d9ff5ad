//! Saving checkpoints in a thread while training continues.

mod checkpoint;
mod files;
mod snapshot;

use std::error::Error;
use std::path::PathBuf;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use patchmix::backend;
use patchmix::files::write_atomic;
use tch::Device;

use super::folder::Run;
use super::learner::Learner;
use super::position::Position;
use crate::Result;
use crate::run::{Entry, Manifest, file_name, sha256};
use crate::terminal::{log, shown};
use files::{add, is_better};
use snapshot::Snapshot;

pub(super) use checkpoint::restore;

/// The outcome of a thread: errors must be able to change threads.
type Written = std::result::Result<(), Box<dyn Error + Send + Sync>>;

/// Saves the checkpoints of a run, one at a time. All ranks have the same state; only the first saves.
///
/// Dropping it waits for the checkpoint that is being written, so that the end of a run never loses one.
pub(super) struct Saver<'a> {
    run: Run<'a>,
    /// How kNN accuracy is measured. Accuracies of another protocol are not compared.
    protocol: String,
    /// The best kNN accuracy that was saved.
    best: Option<f64>,
    /// Whether a checkpoint was due within a row of skipped steps, and so was not saved.
    is_owing: bool,
    writer: Option<JoinHandle<Written>>,
    /// Time that the run has waited for its checkpoints.
    spent: Duration,
}

impl<'a> Saver<'a> {
    /// `protocol` says how the run's accuracies are measured.
    pub(super) fn new(run: Run<'a>, protocol: String) -> Result<Saver<'a>> {
        let manifest = if run.world.leads() { Manifest::read(&run.folder.path)? } else { Manifest::default() };
        let best = manifest.best_by(&protocol);
        if manifest.best.is_some() && best.is_none() {
            log!(
                "note: the best checkpoint so far was chosen by a kNN accuracy that was measured in another way, which \
                 is not compared with new ones; the next epoch that is measured becomes the best"
            );
        }
        Ok(Saver { run, protocol, best, is_owing: false, writer: None, spent: Duration::ZERO })
    }

    /// Whether a checkpoint is due after so many steps of the run.
    pub(super) fn is_due_after(&self, steps: u64) -> bool {
        let every = self.run.settings.save_every;
        self.is_owing || (every > 0 && steps.is_multiple_of(every))
    }

    /// Saves at the end of an epoch, if that is due or its kNN accuracy is the best so far. Returns the error of the
    /// previous checkpoint, as far as that is known by now.
    pub(super) fn end_epoch(&mut self, learner: &Learner, position: &Position, knn_top1: Option<f64>) -> Result<()> {
        if self.writer.as_ref().is_some_and(JoinHandle::is_finished) {
            self.wait()?; // a run whose checkpoints cannot be written ends now, not where the next is due
        }
        let settings = self.run.settings;
        let is_due = is_due(position.epoch, settings.save_epochs, settings.epochs);
        if is_due || self.is_owing || is_better(knn_top1, self.best) {
            self.save(learner, position, knn_top1)?;
        }
        Ok(())
    }

    /// Copies everything that the rest of the run depends on, and lets a thread write it. Waits for the previous
    /// checkpoint.
    ///
    /// Within a row of skipped steps, nothing is saved until it ends: if the run has diverged, good checkpoints must
    /// not make room for ruined ones.
    pub(super) fn save(&mut self, learner: &Learner, position: &Position, knn_top1: Option<f64>) -> Result<()> {
        let started = Instant::now();
        let begun = self.begin(learner, position, knn_top1);
        self.spent += started.elapsed();
        begun
    }

    fn begin(&mut self, learner: &Learner, position: &Position, knn_top1: Option<f64>) -> Result<()> {
        let Run { folder, world, settings, .. } = self.run;
        self.is_owing = position.skipped_in_a_row()? > 0;
        if self.is_owing || !world.leads() {
            return Ok(());
        }
        self.join()?;
        let job = Job {
            snapshot: Snapshot::take(checkpoint::checkpoint_of(self.run, learner, position)?)?,
            device: learner.store.device(),
            run: folder.path.clone(),
            keep: settings.keep as usize,
            epoch: position.epoch,
            batch: position.batch,
            knn_top1,
            protocol: self.protocol.clone(),
        };
        if is_better(knn_top1, self.best) {
            self.best = knn_top1;
        }
        let thread = thread::Builder::new().name("checkpoint-writer".to_owned()).spawn(move || job.write());
        self.writer = Some(thread.map_err(|error| format!("{}: {error}", shown(&folder.path)))?);
        Ok(())
    }

    /// Waits until the last checkpoint is on the disk; returns its error if it could not be written.
    pub(super) fn wait(&mut self) -> Result<()> {
        let started = Instant::now();
        let written = self.join();
        self.spent += started.elapsed();
        written
    }

    /// The time that the run has waited for its checkpoints: to copy what they hold, and for the last one's end.
    pub(super) fn spent(&self) -> Duration {
        self.spent
    }

    fn join(&mut self) -> Result<()> {
        match self.writer.take().map(JoinHandle::join) {
            None => Ok(()),
            Some(Ok(written)) => written.map_err(|error| -> Box<dyn Error> { error }),
            Some(Err(_)) => Err("the thread that saves checkpoints panicked".into()),
        }
    }
}

impl Drop for Saver<'_> {
    fn drop(&mut self) {
        // The run ends with an error of its own.
        if let Err(error) = self.wait() {
            log!("the last checkpoint was not saved: {error}");
        }
    }
}

/// Whether a checkpoint is due where `done` of `epochs` epochs are done.
fn is_due(done: u64, save_epochs: u64, epochs: u64) -> bool {
    done.is_multiple_of(save_epochs) || done == epochs
}

/// A checkpoint to be written.
struct Job {
    snapshot: Snapshot,
    device: Device,
    run: PathBuf,
    keep: usize,
    epoch: u64,
    batch: u64,
    knn_top1: Option<f64>,
    protocol: String,
}

impl Job {
    fn write(self) -> Written {
        backend::use_device(self.device)?; // it is the thread's own setting
        let Job { run, keep, epoch, batch, knn_top1, protocol, .. } = self;
        let mut checkpoint = self.snapshot.into_checkpoint()?;
        if let Some(knn_top1) = knn_top1 {
            Entry::note_accuracy(&mut checkpoint, knn_top1, &protocol);
        }
        let bytes = checkpoint.to_bytes()?;
        let knn_protocol = knn_top1.map(|_| protocol.clone());
        let (file, sha256) = (file_name(epoch, batch), sha256(&bytes));
        let entry = Entry { file, sha256, epoch, batch, knn_top1, knn_protocol };
        // As text, which can change threads.
        Ok(add(&run, (entry, &bytes), &protocol, keep, &mut write_atomic).map_err(|error| error.to_string())?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_so_many_epochs_and_the_last_are_saved() {
        let saved = |save_epochs| (1..=7).filter(|done| is_due(*done, save_epochs, 7)).collect::<Vec<_>>();
        assert_eq!(saved(1), [1, 2, 3, 4, 5, 6, 7]);
        assert_eq!(saved(3), [3, 6, 7]);
        assert_eq!(saved(100), [7]);
    }
}
