//! Process groups: training with several processes, over libtorch's own c10d backends.
//!
//! Every process is a *rank*. A launcher such as `torchrun` starts the ranks and describes the group in environment
//! variables; [`Launch`] reads them. [`Group::join`] waits for the other ranks. After that, ranks call *collectives*:
//! all of them make the same calls in the same order. A [`Group`] implements [`Ranks`](crate::Ranks), which the rest of
//! the crate takes.
//!
//! ```no_run
//! use patchmix::Ranks;
//! use patchmix::distributed::{Backend, Group, Launch};
//! use std::time::Duration;
//! use tch::{Device, Kind, Tensor};
//!
//! # fn main() -> patchmix::Result<()> {
//! let Some(launch) = Launch::from_env()? else { return Ok(()) };
//! let group = Group::join(&launch, Backend::Gloo, Duration::from_secs(60), Device::Cpu)?;
//! let mut count = Tensor::ones([1], (Kind::Float, Device::Cpu));
//! group.all_reduce(&mut count)?; // the world size
//! group.barrier()?;
//! group.leave()
//! # }
//! ```
//!
//! A group may contain ranks of other programs: a Python rank of PyTorch 2.11
//! (`init_process_group("gloo", init_method="env://")`) takes part in collectives over Gloo.
//!
//! # When ranks disagree or disappear
//!
//! Before every collective, the ranks of this crate exchange what they are about to do: which collective, and the shape
//! and kind of the tensor. If they disagree, every rank gets an error that names both calls. If a rank dies, the calls
//! of the others fail at once. If a rank hangs or never joins, they fail after the group's timeout. In a group with a
//! rank of another program, which does not take part in the exchange, the exchange is left out and shapes are not
//! compared.
//!
//! [`Ranks::trust_ranks`](crate::Ranks::trust_ranks) turns the exchange off, for groups so large that it costs too
//! much.
//!
//! After such an error the group cannot be used again. The ranks end, and `torchrun --max-restarts` starts all of them
//! anew. (Ranks of PyTorch do not tell restarts apart, so a group with other programs has to be launched again by
//! hand.)

mod group;
mod launch;
mod native;

pub use group::{Backend, Bytes, Group};
pub use launch::Launch;
