//! The ranks of a run: this process, and the others that train the same model with it.

use std::cell::Cell;

use patchmix::Ranks;
use sha2::{Digest, Sha256};
use tch::{Device, Tensor};

use super::Result;
use super::args::{Arguments, what_decides};
use super::device::choose_device;
use super::precision;
use super::settings::Settings;

/// What training needs of a process group, besides what the losses need of it.
trait Peers: Ranks {
    /// Replaces tensors by their mean over all ranks.
    fn average(&self, tensors: &[Tensor]) -> patchmix::Result<()>;

    /// Replaces a tensor by that of rank 0.
    fn take_from_first(&self, tensor: &mut Tensor) -> patchmix::Result<()>;

    /// The numbers of all ranks, in rank order, exchanged without a word to the GPUs.
    fn numbers(&self, number: i64) -> patchmix::Result<Vec<i64>>;

    /// Takes it on trust that all ranks make the same calls from here on.
    fn trust(&self) -> patchmix::Result<()>;

    /// Returns once all ranks have come to it.
    fn meet(&self) -> patchmix::Result<()>;
}

/// All ranks of a run. One that nobody launched as one of several is alone.
pub(crate) struct World {
    pub(crate) rank: i64,
    pub(crate) size: i64,
    peers: Option<Box<dyn Peers>>,
    /// Whether the ranks are to be trusted after a step.
    trusts: Cell<bool>,
}

impl World {
    /// Meets the ranks that the launcher has started, if it has, on the device of the settings: of several GPUs, every
    /// rank of a machine takes its own.
    pub(crate) fn join(settings: &Settings, arguments: &Arguments) -> Result<(World, Device)> {
        let (world, device) = joined(settings, arguments)?;
        let (batch, size) = (settings.batch_size, world.size);
        if batch % size != 0 || batch / size < 2 {
            return Err(
                format!("--batch-size {batch}: {size} ranks must have two images or more each, all as many").into()
            );
        }
        settings
            .check_can_mix(batch / size)
            .map_err(|error| format!("--batch-size {batch} on {size} ranks: {error}"))?;
        Ok((world, device))
    }

    fn alone(settings: &Settings) -> Result<(World, Device)> {
        let device = choose_device(&settings.device)?;
        precision::set_up(settings, device)?;
        Ok((World { rank: 0, size: 1, peers: None, trusts: Cell::new(false) }, device))
    }

    /// Whether this rank writes the files and speaks.
    pub(crate) fn leads(&self) -> bool {
        self.rank == 0
    }

    /// For the losses.
    pub(crate) fn ranks(&self) -> Option<&dyn Ranks> {
        self.peers.as_deref().map(|peers| peers as &dyn Ranks)
    }

    /// Replaces gradients, or other tensors, by their means over all ranks.
    pub(crate) fn average(&self, tensors: &[Tensor]) -> Result<()> {
        Ok(self.peers.as_ref().map_or(Ok(()), |peers| peers.average(tensors))?)
    }

    /// Gives every rank the tensors of the first.
    pub(crate) fn share(&self, tensors: impl IntoIterator<Item = Tensor>) -> Result<()> {
        let Some(peers) = &self.peers else { return Ok(()) };
        let _no_grad = tch::no_grad_guard();
        for mut tensor in tensors {
            peers.take_from_first(&mut tensor)?;
        }
        Ok(())
    }

    /// Gives every rank the number of the first.
    pub(crate) fn share_number(&self, number: u64) -> Result<u64> {
        Ok(match &self.peers {
            Some(peers) => peers.numbers(number as i64)?.first().map_or(number, |first| *first as u64),
            None => number,
        })
    }

    /// From the end of the first step on, takes the ranks' calls on trust if that is asked for: by then, all kinds were
    /// made.
    pub(crate) fn step_done(&self) -> Result<()> {
        match &self.peers {
            Some(peers) if self.trusts.replace(false) => Ok(peers.trust()?),
            _ => Ok(()),
        }
    }

    /// Whether any rank says so.
    pub(crate) fn any(&self, said: bool) -> Result<bool> {
        Ok(self.numbers(said.into())?.contains(&1))
    }

    /// Whether all ranks say so.
    pub(crate) fn all(&self, said: bool) -> Result<bool> {
        Ok(self.least(said.into())? == 1)
    }

    /// The least of the ranks' numbers.
    pub(crate) fn least(&self, number: i64) -> Result<i64> {
        Ok(self.numbers(number)?.into_iter().min().unwrap_or(number))
    }

    /// The sum of the ranks' numbers.
    pub(crate) fn sum(&self, number: u64) -> Result<u64> {
        Ok(self.numbers(number as i64)?.into_iter().sum::<i64>() as u64)
    }

    fn numbers(&self, number: i64) -> Result<Vec<i64>> {
        Ok(self.peers.as_ref().map_or(Ok(vec![number]), |peers| peers.numbers(number))?)
    }

    /// An error on all ranks unless they have the same settings and images: otherwise they would train different
    /// models, and see some images twice and others never.
    pub(crate) fn agree(&self, settings: &Settings, images: &str) -> Result<()> {
        let digest = Sha256::digest(what_decides(settings, images)?);
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
    pub(crate) fn meet(&self) -> Result<()> {
        Ok(self.peers.as_ref().map_or(Ok(()), |peers| peers.meet())?)
    }
}

#[cfg(not(feature = "distributed"))]
fn joined(settings: &Settings, _: &Arguments) -> Result<(World, Device)> {
    let ranks = std::env::var("WORLD_SIZE").unwrap_or_else(|_| "1".to_owned());
    if ranks != "1" {
        return Err(format!(
            "WORLD_SIZE is {ranks}, and this program was built for one rank; build it with --features distributed"
        )
        .into());
    }
    World::alone(settings)
}

#[cfg(feature = "distributed")]
fn joined(settings: &Settings, arguments: &Arguments) -> Result<(World, Device)> {
    use patchmix::dist::{Backend, Group, Launch};
    use std::time::Duration;

    let Some(launch) = Launch::from_env()? else { return World::alone(settings) };
    let gpus = if tch::Cuda::is_available() { tch::Cuda::device_count() } else { 0 };
    let device = match (settings.device.as_str(), gpus) {
        ("cuda", _) | ("auto", 1..) => choose_device(&format!("cuda:{}", gpu_of(launch.local_rank, gpus)))?,
        (device, _) => choose_device(device)?,
    };
    precision::set_up(settings, device)?; // NCCL's first call is work on the GPU
    let backend = if device.is_cuda() { Backend::Nccl } else { Backend::Gloo };
    let group = Group::join(&launch, backend, Duration::from_secs(arguments.timeout), device)?;
    let (peers, trusts) = (Some(Box::new(group) as Box<dyn Peers>), Cell::new(arguments.trust_ranks));
    Ok((World { rank: launch.rank, size: launch.world_size, peers, trusts }, device))
}

/// The index of a rank's GPU among those that it sees. Some launchers, Slurm for one, show each rank one GPU alone,
/// which then has the index 0 for all of them.
#[cfg(feature = "distributed")]
fn gpu_of(local_rank: i64, gpus: i64) -> i64 {
    if gpus == 0 { local_rank } else { local_rank % gpus }
}

#[cfg(feature = "distributed")]
impl Peers for patchmix::dist::Group {
    fn average(&self, tensors: &[Tensor]) -> patchmix::Result<()> {
        patchmix::dist::Group::average(self, tensors)
    }

    fn take_from_first(&self, tensor: &mut Tensor) -> patchmix::Result<()> {
        self.broadcast(tensor, 0)
    }

    fn numbers(&self, number: i64) -> patchmix::Result<Vec<i64>> {
        patchmix::dist::Group::numbers(self, number)
    }

    fn trust(&self) -> patchmix::Result<()> {
        self.trust_ranks()
    }

    fn meet(&self) -> patchmix::Result<()> {
        self.barrier()
    }
}

#[cfg(all(test, feature = "distributed"))]
mod tests {
    use super::*;

    /// Ranks that have said these numbers, and do nothing else.
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
    }

    impl Peers for Said {
        fn average(&self, _: &[Tensor]) -> patchmix::Result<()> {
            panic!("nobody asks for it here")
        }

        fn take_from_first(&self, _: &mut Tensor) -> patchmix::Result<()> {
            panic!("nobody asks for it here")
        }

        fn numbers(&self, number: i64) -> patchmix::Result<Vec<i64>> {
            assert_eq!(number, self.0[0], "this is rank 0");
            Ok(self.0.clone())
        }

        fn trust(&self) -> patchmix::Result<()> {
            panic!("nobody asks for it here")
        }

        fn meet(&self) -> patchmix::Result<()> {
            panic!("nobody asks for it here")
        }
    }

    #[test]
    fn what_one_rank_lacks_not_all_have() {
        for (said, all) in [(vec![1, 1, 1], true), (vec![1, 0, 1], false), (vec![0, 1], false), (vec![0], false)] {
            let own = said[0] == 1;
            let (rank, size, peers) = (0, said.len() as i64, Some(Box::new(Said(said)) as Box<dyn Peers>));
            let world = World { rank, size, peers, trusts: Cell::new(false) };
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
