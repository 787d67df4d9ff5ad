//! Training by several processes, over libtorch's own process groups.
//!
//! Every process is a *rank*. A launcher starts all of them and tells each its place by environment variables, as
//! `torchrun` does; [`Launch`] reads them. [`Group::join`] waits for the others; what ranks then do together are
//! *collectives*: all of them make the same calls in the same order. A [`Group`] is what the rest of the crate asks for
//! as [`Ranks`](crate::Ranks).
//!
//! ```no_run
//! use patchmix::dist::{Backend, Group, Launch};
//! use std::time::Duration;
//! use tch::{Device, Kind, Tensor};
//!
//! # fn main() -> patchmix::Result<()> {
//! let Some(launch) = Launch::from_env()? else { return Ok(()) };
//! let group = Group::join(&launch, Backend::Gloo, Duration::from_secs(60), Device::Cpu)?;
//! let mut ranks = Tensor::ones([1], (Kind::Float, Device::Cpu));
//! group.all_reduce(&mut ranks)?; // as many as there are
//! group.leave()
//! # }
//! ```
//!
//! The ranks of a group may be a mixture of programs: a Rust rank and a Python rank of PyTorch 2.11
//! (`init_process_group("gloo", init_method="env://")`) do collectives together over Gloo.
//!
//! # When ranks disagree or disappear
//!
//! Before every collective, ranks of this crate tell each other what they are about to do: which collective, on what
//! shape and kind. If one of them comes with something else, all get an error that names both. A rank that died makes
//! the others' calls fail at once, one that hangs or never comes, after the time-out of the group. Where a rank of
//! another program is in the group, which does not take part in that exchange, it is left out, and shapes are on trust.
//!
//! [`Group::trust_ranks`] ends that exchange, where there are so many ranks that it takes longer than it is worth.
//!
//! After such an error the group is of no use to any of its ranks: they end, and `torchrun --max-restarts` starts all of
//! them again, which then meet anew. (Ranks of PyTorch itself do not tell their restarts apart, so a mixture of programs
//! is launched again by hand.)

mod group;
mod launch;
mod native;

pub use group::{Backend, Bytes, Group};
pub use launch::Launch;
