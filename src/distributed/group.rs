//! [`Group`]: a rank's membership in a process group, and its collectives.

use std::ffi::CString;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tch::{Cuda, Device, Kind, Tensor, no_grad_guard};

use super::Launch;
use super::native::Handle;
use crate::Ranks;
use crate::error::{Error, Result, check_defined, check_device, check_float, check_in, check_index, check_value};
use crate::native::memory;
use crate::numbers::scalar;

/// The transport of collectives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Backend {
    /// Over TCP, for tensors on the CPU. Between machines, the environment variable `GLOO_SOCKET_IFNAME` selects the
    /// network interface, as in PyTorch. If the ranks meet at a loopback address, Gloo uses the loopback interface.
    Gloo,
    /// NVIDIA's NCCL, for tensors on a GPU: one GPU per rank, and one rank per process, because libtorch's NCCL logging
    /// is not thread-safe. It needs a libtorch with CUDA, and a build of this crate that found the headers of CUDA and
    /// NCCL beside it, where PyTorch's wheels have them.
    Nccl,
}

/// How many bytes of its own tensors a rank has passed to collectives. The exchange that checks whether the ranks agree
/// is not counted; over Gloo it is 96 bytes per collective.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Bytes {
    /// To [`Group::all_reduce`], [`Ranks::average`] and [`Ranks::sum`], backward passes included.
    pub all_reduce: u64,
    /// To [`Ranks::gather`].
    pub all_gather: u64,
    /// To [`Ranks::broadcast`], on the sending rank and on the receiving ones.
    pub broadcast: u64,
}

/// This process's membership in a group of ranks. Dropping it leaves the group.
///
/// The collectives are those of [`Ranks`], and [`Group::all_reduce`]. All ranks make the same calls in the same order,
/// each with a tensor of the same shape and kind; see the [module](super) for what happens otherwise. A call returns
/// when its result is ready, or with NCCL, when the result is ordered before later work on the GPU's stream.
#[derive(Debug)]
pub struct Group {
    handle: Handle,
    rank: i64,
    world_size: i64,
    device: Device,
    /// The buffer in which [`Ranks::average`] concatenates gradients.
    flat: Mutex<Option<Tensor>>,
}

impl Group {
    /// Waits for all ranks of the launch. `timeout` limits every step of joining, and later how long a collective waits
    /// for the slowest rank. The tensors of this rank must be on `device`: the CPU for Gloo, a GPU for NCCL.
    ///
    /// # Errors
    ///
    /// [`Error::Group`] if not all ranks join in time, if `backend` does not support `device` or is not part of this
    /// build, or if the GPU does not exist; [`Error::Value`] if a number of the launch or the timeout is out of range.
    pub fn join(launch: &Launch, backend: Backend, timeout: Duration, device: Device) -> Result<Group> {
        let Launch { rank, world_size, .. } = *launch;
        check_in("world_size", world_size, 1..=i64::from(i32::MAX))?;
        check_in("rank", rank, 0..=world_size - 1)?;
        let timeout = i64::try_from(timeout.as_millis()).unwrap_or(i64::MAX);
        let year = 365 * 24 * 3600 * 1000; // the clocks of c10d overflow beyond a few hundred years
        check_value("timeout", timeout as f64, "between 1 ms and 1 year", (1..=year).contains(&timeout))?;
        let address = CString::new(launch.address.as_str())
            .map_err(|_| join_error(format!("the address {:?} contains a NUL byte", launch.address)))?;
        check_backend(backend, device)?;
        let handle = Handle::join(launch, &address, backend == Backend::Nccl, timeout)?;
        Ok(Group { handle, rank, world_size, device, flat: Mutex::new(None) })
    }

    /// Replaces `tensor` by its sum over all ranks.
    ///
    /// # Errors
    ///
    /// [`Error::Undefined`], [`Error::Kind`] or [`Error::Device`] for a tensor that the backend cannot send;
    /// [`Error::Group`] if another rank is missing, or makes another call or one with another shape or kind.
    pub fn all_reduce(&self, tensor: &mut Tensor) -> Result<()> {
        self.check("tensor", tensor)?;
        self.handle.all_reduce(tensor)
    }

    /// What this rank has passed to collectives so far.
    #[must_use]
    pub fn bytes_sent(&self) -> Bytes {
        self.handle.bytes()
    }

    /// Waits at a barrier, then leaves the group. In a group with ranks of another program, which do not take part in
    /// the barrier, it leaves at once.
    ///
    /// # Errors
    ///
    /// [`Error::Group`] if another rank is missing or makes another call. This rank has left the group anyway.
    pub fn leave(self) -> Result<()> {
        if self.handle.exchanges_requests() { self.barrier() } else { Ok(()) }
    }

    /// An error unless the backend can send `tensor`.
    fn check(&self, name: &'static str, tensor: &Tensor) -> Result<()> {
        check_defined(name, tensor)?;
        check_device(name, tensor, self.device)?;
        match tensor.f_kind()? {
            Kind::Half | Kind::BFloat16 | Kind::Float | Kind::Double => Ok(()),
            Kind::Uint8 | Kind::Int8 | Kind::Int | Kind::Int64 => Ok(()),
            actual => Err(Error::Kind { name, expected: "of a kind that Gloo and NCCL can add", actual }),
        }
    }
}

/// The errors are those of [`Group::all_reduce`], and those named below.
impl Ranks for Group {
    fn rank(&self) -> i64 {
        self.rank
    }

    fn world_size(&self) -> i64 {
        self.world_size
    }

    /// [`Error::Shape`] for a tensor without dimensions.
    fn gather(&self, rows: &Tensor) -> Result<Tensor> {
        self.check("rows", rows)?;
        if rows.dim() == 0 {
            return Err(Error::Shape { name: "rows", expected: "[B, ...]".to_owned(), actual: Vec::new() });
        }
        self.handle.all_gather(rows)
    }

    fn sum(&self, tensor: &Tensor) -> Result<Tensor> {
        self.check("tensor", tensor)?;
        self.handle.sum(tensor)
    }

    /// One all-reduce for all tensors, concatenated into a buffer that is kept for the next call. All of them must have
    /// one floating-point kind. Ranks compare the total number of elements, not the shapes.
    fn average(&self, tensors: &[Tensor]) -> Result<()> {
        let Some(first) = tensors.first() else { return Ok(()) };
        for tensor in tensors {
            self.check("tensors", tensor)?;
            check_float("tensors", tensor)?;
            if tensor.f_kind()? != first.f_kind()? {
                return Err(Error::Kind { name: "tensors", expected: "of one kind", actual: tensor.f_kind()? });
            }
        }
        let _no_grad = no_grad_guard();
        let mut buffer = self.flat.lock().unwrap_or_else(PoisonError::into_inner);
        let mut flat = concatenate(tensors, buffer.as_ref())?;
        self.handle.all_reduce(&mut flat)?;
        let flat = flat.f_div_(&scalar(self.world_size as f64)?)?;
        let mut averages = Vec::with_capacity(tensors.len());
        let mut start = 0;
        for tensor in tensors {
            let length = tensor.numel() as i64;
            averages.push(flat.f_narrow(0, start, length)?.f_view(tensor.size().as_slice())?);
            start += length;
        }
        memory::copy_all(&tensors.iter().collect::<Vec<_>>(), &averages.iter().collect::<Vec<_>>())?;
        // The few numbers that are averaged between two steps must not replace the buffer of the gradients.
        if buffer.as_ref().is_none_or(|buffer| buffer.numel() < flat.numel()) {
            *buffer = Some(flat);
        }
        Ok(())
    }

    fn broadcast(&self, tensor: &mut Tensor, from_rank: i64) -> Result<()> {
        self.check("tensor", tensor)?;
        check_in("from_rank", from_rank, 0..=self.world_size - 1)?;
        self.handle.broadcast(tensor, from_rank)
    }

    /// From CPU to CPU, even with NCCL; it does not wait for GPUs.
    fn numbers(&self, number: i64) -> Result<Vec<i64>> {
        self.handle.numbers(number, self.world_size)
    }

    fn barrier(&self) -> Result<()> {
        self.handle.barrier()
    }

    /// Turns off the exchange before every collective, in which ranks check that they make the same call.
    ///
    /// The exchange goes from rank to rank over Gloo, so its time grows with the number of ranks: below a millisecond
    /// for two, more than the collective itself for many. A program that has made each of its calls once can do without
    /// it. If ranks disagree afterwards, they may fail in other ways, wait until the timeout, or compute nonsense. A
    /// lost rank is still an error.
    fn trust_ranks(&self) -> Result<()> {
        self.handle.trust()
    }
}

/// All elements of the tensors in one tensor `[N]`, in the memory of `buffer` if its size and kind fit.
fn concatenate(tensors: &[Tensor], buffer: Option<&Tensor>) -> Result<Tensor> {
    let flat = tensors.iter().map(|tensor| Ok(tensor.f_reshape([-1])?)).collect::<Result<Vec<Tensor>>>()?;
    let total: i64 = flat.iter().map(|tensor| tensor.size()[0]).sum();
    match buffer {
        Some(buffer) if buffer.size() == [total] && buffer.f_kind()? == tensors[0].f_kind()? => {
            Ok(Tensor::f_cat_out(buffer, &flat, 0)?)
        }
        _ => Ok(Tensor::f_cat(&flat, 0)?),
    }
}

/// An error unless `backend` supports `device` and the device exists.
fn check_backend(backend: Backend, device: Device) -> Result<()> {
    check_index(device)?;
    match (backend, device) {
        (Backend::Gloo, Device::Cpu) => Ok(()),
        (Backend::Nccl, Device::Cuda(index)) => match Cuda::device_count() {
            0 => Err(join_error("NCCL needs a GPU, but libtorch finds none".to_owned())),
            count if index as i64 >= count => {
                Err(join_error(format!("the CUDA index {index} is out of range: libtorch finds {count} GPUs")))
            }
            _ => Ok(()),
        },
        (Backend::Gloo, _) => Err(join_error(format!("Gloo supports tensors on the CPU, not on {device:?}"))),
        (Backend::Nccl, _) => Err(join_error(format!("NCCL supports tensors on GPUs, not on {device:?}"))),
    }
}

fn join_error(problem: String) -> Error {
    Error::Group { doing: "joining the group", problem }
}
