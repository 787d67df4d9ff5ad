//! The ranks of a run: this process, and the others that train the same model.

use std::cell::Cell;

use patchmix::Ranks;
use sha2::{Digest, Sha256};
use tch::{Device, Tensor};

use crate::Result;
use crate::machine::choose_device;
use crate::settings::{Arguments, Settings, deciding};

/// All ranks of a run. A process that was not launched as one of several is alone.
pub(super) struct World {
    pub(super) rank: i64,
    pub(super) size: i64,
    ranks: Option<Box<dyn Ranks>>,
    /// Whether the ranks' calls are taken on trust after the next step.
    trusts: Cell<bool>,
}

impl World {
    /// Joins the ranks that the launcher has started, if there are any, on the device of the settings: every rank of a
    /// machine takes its own of several GPUs.
    pub(super) fn join(arguments: &Arguments) -> Result<(World, Device)> {
        let settings = &arguments.settings;
        let (world, device) = joined(arguments)?;
        let (batch, size) = (settings.batch_size, world.size);
        if batch % size != 0 || batch / size < 2 {
            return Err(format!(
                "--batch-size {batch}: must be a multiple of the {size} ranks, with two images or more each"
            )
            .into());
        }
        settings
            .check_can_mix(batch / size)
            .map_err(|error| format!("--batch-size {batch} on {size} ranks: {error}"))?;
        Ok((world, device))
    }

    /// A process that trains alone.
    pub(super) fn alone(settings: &Settings) -> Result<(World, Device)> {
        let device = choose_device(&settings.device)?;
        settings.precision.set_up(settings.deterministic, device)?;
        Ok((World { rank: 0, size: 1, ranks: None, trusts: Cell::new(false) }, device))
    }

    /// Whether this rank writes the files and speaks.
    pub(super) fn leads(&self) -> bool {
        self.rank == 0
    }

    /// For the losses.
    pub(super) fn ranks(&self) -> Option<&dyn Ranks> {
        self.ranks.as_deref()
    }

    /// Replaces gradients, or other tensors, by their means over all ranks.
    pub(super) fn average(&self, tensors: &[Tensor]) -> Result<()> {
        Ok(self.ranks.as_ref().map_or(Ok(()), |ranks| ranks.average(tensors))?)
    }

    /// Gives every rank the tensors of the first.
    pub(super) fn share(&self, tensors: impl IntoIterator<Item = Tensor>) -> Result<()> {
        let Some(ranks) = &self.ranks else { return Ok(()) };
        let _no_grad = tch::no_grad_guard();
        for mut tensor in tensors {
            ranks.broadcast(&mut tensor, 0)?;
        }
        Ok(())
    }

    /// Gives every rank the number of the first.
    pub(super) fn share_number(&self, number: u64) -> Result<u64> {
        Ok(match &self.ranks {
            Some(ranks) => ranks.numbers(number as i64)?.first().map_or(number, |first| *first as u64),
            None => number,
        })
    }

    /// Called after each step. From the first one on, takes the ranks' calls on trust if that is asked for: by then,
    /// all kinds of calls were made.
    pub(super) fn step_done(&self) -> Result<()> {
        match &self.ranks {
            Some(ranks) if self.trusts.replace(false) => Ok(ranks.trust_ranks()?),
            _ => Ok(()),
        }
    }

    /// Whether any rank says so.
    pub(super) fn any(&self, said: bool) -> Result<bool> {
        Ok(self.numbers(said.into())?.contains(&1))
    }

    /// Whether all ranks say so.
    pub(super) fn all(&self, said: bool) -> Result<bool> {
        Ok(self.least(said.into())? == 1)
    }

    /// The least of the ranks' numbers.
    pub(super) fn least(&self, number: i64) -> Result<i64> {
        Ok(self.numbers(number)?.into_iter().min().unwrap_or(number))
    }

    /// The sum of the ranks' numbers.
    pub(super) fn sum(&self, number: u64) -> Result<u64> {
        Ok(self.numbers(number as i64)?.into_iter().sum::<i64>() as u64)
    }

    fn numbers(&self, number: i64) -> Result<Vec<i64>> {
        Ok(self.ranks.as_ref().map_or(Ok(vec![number]), |ranks| ranks.numbers(number))?)
    }

    /// An error on all ranks unless they have the same settings and images: otherwise they would train different
    /// models, and see some images twice and others never.
    pub(super) fn agree(&self, settings: &Settings, images: &str) -> Result<()> {
        let digest = Sha256::digest(deciding(settings, images)?);
        let number = digest.iter().take(8).fold(0, |number, byte| number << 8 | i64::from(*byte));
        match self.numbers(number)?.iter().position(|other| *other != number) {
            None => Ok(()),
            Some(rank) => Err(format!(
                "rank {rank} has other settings or training images than rank {}, which has {images}; start all ranks \
                 by the same command, with the same files in --data",
                self.rank
            )
            .into()),
        }
    }

    /// Waits for all ranks.
    pub(super) fn meet(&self) -> Result<()> {
        Ok(self.ranks.as_ref().map_or(Ok(()), |ranks| ranks.barrier())?)
    }
}

#[cfg(not(feature = "distributed"))]
fn joined(arguments: &Arguments) -> Result<(World, Device)> {
    let ranks = std::env::var("WORLD_SIZE").unwrap_or_else(|_| "1".to_owned());
    if ranks != "1" {
        return Err(format!(
            "WORLD_SIZE is {ranks}, and this program was built for one rank; build it with --features distributed"
        )
        .into());
    }
    World::alone(&arguments.settings)
}

#[cfg(feature = "distributed")]
fn joined(arguments: &Arguments) -> Result<(World, Device)> {
    use patchmix::distributed::{Backend, Group, Launch};
    use std::time::Duration;

    let settings = &arguments.settings;
    let Some(launch) = Launch::from_env()? else { return World::alone(settings) };
    let gpus = if tch::Cuda::is_available() { tch::Cuda::device_count() } else { 0 };
    let device = match (settings.device.as_str(), gpus) {
        ("cuda", _) | ("auto", 1..) => choose_device(&format!("cuda:{}", gpu_of(launch.local_rank, gpus)))?,
        (device, _) => choose_device(device)?,
    };
    settings.precision.set_up(settings.deterministic, device)?; // NCCL's first call is work on the GPU
    let backend = if device.is_cuda() { Backend::Nccl } else { Backend::Gloo };
    let group = Group::join(&launch, backend, Duration::from_secs(arguments.timeout), device)?;
    let (ranks, trusts) = (Some(Box::new(group) as Box<dyn Ranks>), Cell::new(arguments.trust_ranks));
    Ok((World { rank: launch.rank, size: launch.world_size, ranks, trusts }, device))
}

/// The index of a rank's GPU among those that it sees. Some launchers, such as Slurm, show each rank only its own GPU,
/// which has the index 0.
#[cfg(feature = "distributed")]
fn gpu_of(local_rank: i64, gpus: i64) -> i64 {
    if gpus == 0 { local_rank } else { local_rank % gpus }
}

#[cfg(all(test, feature = "distributed"))]
mod tests {
    use super::*;

    /// Ranks that exchange these numbers, and do nothing else.
    struct Said(Vec<i64>);

    impl Ranks for Said {
        fn rank(&self) -> i64 {
            0
        }

        fn world_size(&self) -> i64 {
            self.0.len() as i64
        }

        fn gather(&self, _: &Tensor) -> patchmix::Result<Tensor> {
            panic!("nobody asks for it here")
        }

        fn sum(&self, _: &Tensor) -> patchmix::Result<Tensor> {
            panic!("nobody asks for it here")
        }

        fn numbers(&self, number: i64) -> patchmix::Result<Vec<i64>> {
            assert_eq!(number, self.0[0], "this is rank 0");
            Ok(self.0.clone())
        }
    }

    #[test]
    fn what_one_rank_lacks_not_all_have() {
        for (said, all) in [(vec![1, 1, 1], true), (vec![1, 0, 1], false), (vec![0, 1], false), (vec![0], false)] {
            let own = said[0] == 1;
            let (rank, size, ranks) = (0, said.len() as i64, Some(Box::new(Said(said)) as Box<dyn Ranks>));
            let world = World { rank, size, ranks, trusts: Cell::new(false) };
            assert_eq!(world.all(own).unwrap(), all);
        }
    }

    #[test]
    fn ranks_take_their_own_gpu_of_those_they_see() {
        let taken = |gpus| [0, 1, 2, 3].map(|local_rank| gpu_of(local_rank, gpus));
        assert_eq!(taken(8), [0, 1, 2, 3]);
        assert_eq!(taken(4), [0, 1, 2, 3]);
        assert_eq!(taken(1), [0; 4], "each sees its own alone");
        assert_eq!(taken(2), [0, 1, 0, 1]);
        assert_eq!(gpu_of(3, 0), 3, "without a GPU, the error names the one that is missing");
    }
}
