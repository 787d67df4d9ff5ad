//! The place of a run: its next batch, and what is known of the current epoch.

use std::collections::BTreeMap;

use super::folder::RunFolder;
use super::init;
use super::learner::Learner;
use super::meter::Meter;
use super::world::World;
use crate::Result;
use crate::images::Batch;
use crate::settings::{History, Settings};

/// The next batch of a run, and what is known of the epoch so far.
#[derive(Debug)]
pub(super) struct Position {
    pub(super) epoch: u64,
    /// Batches of the epoch that are done.
    pub(super) batch: u64,
    /// Steps of the run that are done.
    pub(super) step: u64,
    pub(super) meter: Meter,
    /// Images of the epoch so far that are missing, as their files are broken.
    pub(super) broken_images: u64,
}

/// Where a run begins or goes on.
pub(super) struct Start {
    pub(super) position: Position,
    pub(super) history: History,
    /// What the announcement says of it: which weights were taken, or which settings change.
    pub(super) notes: Vec<String>,
}

impl Start {
    /// The beginning of a run. The learner of its first rank takes the weights of `--init` if there are any; the other
    /// ranks will get those of the first.
    pub(super) fn at_beginning(settings: &Settings, learner: &Learner, world: &World) -> Result<Start> {
        let path = settings.init.as_deref().filter(|_| world.leads());
        let taken = path.map(|path| init::begin_from(path, settings, learner)).transpose()?;
        let meter = Meter::new(learner.store.device())?;
        let position = Position { epoch: 0, batch: 0, step: 0, meter, broken_images: 0 };
        Ok(Start { position, history: History::default(), notes: taken.unwrap_or_default() })
    }
}

impl Position {
    /// The start of the next epoch.
    pub(super) fn next_epoch(&self) -> Result<Position> {
        let meter = self.meter.next_epoch()?;
        Ok(Position { epoch: self.epoch + 1, batch: 0, step: self.step, meter, broken_images: 0 })
    }

    /// Counts a batch.
    pub(super) fn pass(&mut self, batch: &Batch) {
        self.batch += 1;
        self.step += 1;
        self.broken_images += batch.broken;
    }

    /// Gives every rank the place and the learner of the first.
    pub(super) fn share(&mut self, learner: &mut Learner, world: &World) -> Result<()> {
        if world.size == 1 {
            return Ok(());
        }
        for number in [&mut self.epoch, &mut self.batch, &mut self.step, &mut self.broken_images] {
            *number = world.share_number(*number)?;
        }
        let meter = self.meter.to_tensor()?;
        let state = learner.optimizer.state();
        // In the order of their names, which is the same on every rank.
        let variables = learner.stores().map(|store| store.variables().into_iter().collect::<BTreeMap<_, _>>());
        let networks = variables.flat_map(BTreeMap::into_values);
        let moments = state.iter().map(|(name, tensor)| (name, tensor.shallow_clone())).collect::<BTreeMap<_, _>>();
        let probe = learner.probe.iter().map(|probe| probe.state().into_iter().collect::<BTreeMap<_, _>>());
        let optimizers = moments.into_values().chain(probe.flat_map(BTreeMap::into_values));
        world.share(networks.chain(optimizers).chain([meter.shallow_clone()]))?;
        let steps = world.share_number(learner.optimizer.steps())?;
        learner.optimizer.load_state(&state.into_iter().collect(), steps)?;
        learner.probe.as_mut().map_or(Ok(()), |probe| probe.set_steps(steps))?;
        self.meter = Meter::from_tensor(&meter, learner.store.device())?.ok_or("the first rank sent no meter")?;
        Ok(())
    }

    /// An error if more than `max_skipped` steps in a row had a loss or gradient that was not finite. Nothing is saved
    /// then: the last checkpoint of the run, if it has one, is a good one.
    pub(super) fn check_health(&self, max_skipped: u64, folder: &RunFolder) -> Result<()> {
        let reading = self.meter.read()?;
        match reading.first_skipped {
            Some((step, name)) if reading.longest_skipped > max_skipped => Err(format!(
                "step {step}: {name} is not finite; stopped after {} such steps in a row. {}; a lower --lr may help, \
                 or another --precision",
                reading.longest_skipped,
                folder.last_checkpoint()
            )
            .into()),
            _ => Ok(()),
        }
    }

    /// How many steps in a row, up to the last one, had a loss or gradient that was not finite. Waits for the device.
    pub(super) fn skipped_in_a_row(&self) -> Result<u64> {
        Ok(self.meter.read()?.skipped_in_a_row)
    }

    /// An error if the run is over and its last steps were skipped, which is not saved.
    pub(super) fn check_end(&self, folder: &RunFolder) -> Result<()> {
        match self.skipped_in_a_row()? {
            0 => Ok(()),
            skipped => Err(format!(
                "the run ends with {skipped} skipped steps, whose loss or gradient is not finite, and its end is not \
                 saved. {}; a lower --lr may help, or another --precision",
                folder.last_checkpoint()
            )
            .into()),
        }
    }

    /// An error if an epoch is over and none of its batches had enough images.
    pub(super) fn check_has_trained(&self) -> Result<()> {
        if self.meter.read()?.steps > 0 {
            return Ok(());
        }
        let broken = self.broken_images;
        Err(format!("{broken} broken images have left no batch that can be mixed; fix the files named above").into())
    }
}
