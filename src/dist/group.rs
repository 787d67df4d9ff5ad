//! [`Group`]: what ranks do together.

use std::ffi::CString;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tch::{Cuda, Device, Kind, Tensor};

use super::Launch;
use super::native::Handle;
use crate::Ranks;
use crate::error::{Error, Result, check_defined, check_device, check_index, check_value};
use crate::native::memory;
use crate::numbers::scalar;

/// Who carries tensors from rank to rank.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Backend {
    /// Over TCP, for tensors on the CPU. Between machines, the environment variable `GLOO_SOCKET_IFNAME` says by which
    /// network interface, as with PyTorch; if ranks meet at an address of the loopback interface, it is that one.
    Gloo,
    /// NVIDIA's NCCL, for tensors on a GPU: one GPU a rank, and one rank a process, since libtorch keeps a record of
    /// NCCL's calls that several threads must not write to. It needs a libtorch with CUDA, and a build of this crate
    /// that found CUDA's and NCCL's headers beside it, where PyTorch's wheels have them.
    Nccl,
}

/// How many bytes a rank has brought to collectives: those of its own tensors. What ranks exchange to see that they
/// agree is not counted; over Gloo it is 96 bytes a collective.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Bytes {
    /// To [`Group::all_reduce`], [`Group::average`] and [`Ranks::sum`], backward passes included.
    pub all_reduce: u64,
    /// To [`Group::all_gather`].
    pub all_gather: u64,
    /// To [`Group::broadcast`], on the rank that sends as well as on those that receive.
    pub broadcast: u64,
}

/// The ranks that this process has joined; dropped, it leaves them.
///
/// All ranks make the same calls in the same order, each with a tensor of the same shape and kind; see the
/// [module](super) for what happens otherwise. A call returns when its result is there, or over NCCL, when the GPU's
/// stream will have it before whatever is asked of it next.
#[derive(Debug)]
pub struct Group {
    handle: Handle,
    rank: i64,
    world_size: i64,
    device: Device,
    /// Memory that [`Group::average`] lays gradients into, one after the other.
    flat: Mutex<Option<Tensor>>,
}

impl Group {
    /// Waits for all ranks of the launch. `timeout` bounds the waiting here, step by step, and later that of every
    /// collective for the slowest rank. Tensors of this rank will be on `device`: the CPU for Gloo, a GPU for NCCL.
    ///
    /// # Errors
    ///
    /// [`Error::Group`] if not all ranks come in time, if `backend` does not carry tensors of `device` or is not in
    /// this build, and where there is no such GPU; [`Error::Value`] for numbers of the launch or a time-out that make
    /// no sense.
    pub fn join(launch: &Launch, backend: Backend, timeout: Duration, device: Device) -> Result<Group> {
        let Launch { rank, world_size, .. } = *launch;
        let most = i64::from(i32::MAX);
        check_value("world_size", world_size as f64, &format!("1 to {most}"), (1..=most).contains(&world_size))?;
        check_value("rank", rank as f64, &format!("0 to {}", world_size - 1), (0..world_size).contains(&rank))?;
        let timeout = i64::try_from(timeout.as_millis()).unwrap_or(i64::MAX);
        let a_year = 365 * 24 * 3600 * 1000; // beyond a few hundred, the clocks below overflow
        check_value("timeout", timeout as f64, "1 millisecond to 1 year", (1..=a_year).contains(&timeout))?;
        let address = CString::new(launch.address.as_str())
            .map_err(|_| problem(format!("no machine has the address {:?}", launch.address)))?;
        check_backend(backend, device)?;
        let nccl = backend == Backend::Nccl;
        let handle = Handle::join(launch, &address, nccl, timeout)?;
        Ok(Group { handle, rank, world_size, device, flat: Mutex::new(None) })
    }

    /// Replaces `tensor` by its sum over all ranks.
    ///
    /// # Errors
    ///
    /// [`Error::Undefined`], [`Error::Kind`] or [`Error::Device`] for a tensor that cannot be sent; [`Error::Group`] if
    /// another rank brings another shape or kind, makes another call, or does not come.
    pub fn all_reduce(&self, tensor: &mut Tensor) -> Result<()> {
        self.check("tensor", tensor)?;
        self.handle.all_reduce(tensor)
    }

    /// The rows `[B, ...]` of all ranks in rank order, `[world_size * B, ...]`, without gradient.
    ///
    /// # Errors
    ///
    /// As [`Group::all_reduce`], and [`Error::Shape`] for a tensor without dimensions.
    pub fn all_gather(&self, rows: &Tensor) -> Result<Tensor> {
        self.check("rows", rows)?;
        if rows.dim() == 0 {
            return Err(Error::Shape { name: "rows", expected: "[B, ...]".to_owned(), actual: Vec::new() });
        }
        self.handle.all_gather(rows)
    }

    /// Replaces `tensor` by that of rank `from_rank`.
    ///
    /// # Errors
    ///
    /// As [`Group::all_reduce`], and [`Error::Value`] if there is no such rank.
    pub fn broadcast(&self, tensor: &mut Tensor, from_rank: i64) -> Result<()> {
        self.check("tensor", tensor)?;
        let last = self.world_size - 1;
        check_value("from_rank", from_rank as f64, &format!("0 to {last}"), (0..=last).contains(&from_rank))?;
        self.handle.broadcast(tensor, from_rank)
    }

    /// Returns once all ranks have come to it. Of what their GPUs have yet to do it knows nothing.
    ///
    /// # Errors
    ///
    /// [`Error::Group`] if another rank makes another call, or does not come.
    pub fn barrier(&self) -> Result<()> {
        self.handle.barrier()
    }

    /// One number of every rank, in rank order: for what the program decides, such as whether to stop. It goes from CPU
    /// to CPU also where tensors are on GPUs, and waits for none of these.
    ///
    /// # Errors
    ///
    /// [`Error::Group`] if another rank makes another call, or does not come.
    pub fn numbers(&self, number: i64) -> Result<Vec<i64>> {
        self.handle.numbers(number, self.world_size)
    }

    /// Replaces every tensor, of one floating-point kind all, by its mean over all ranks: gradients, as a rule. They
    /// travel together, laid one after the other into memory that is kept for the next time.
    ///
    /// # Errors
    ///
    /// As [`Group::all_reduce`]; the shapes of single tensors are not compared between ranks, but their total is.
    pub fn average(&self, tensors: &[Tensor]) -> Result<()> {
        let Some(first) = tensors.first() else { return Ok(()) };
        for tensor in tensors {
            self.check("tensors", tensor)?;
            crate::error::check_float("tensors", tensor)?;
            if tensor.f_kind()? != first.f_kind()? {
                return Err(Error::Kind { name: "tensors", expected: "one kind for all", actual: tensor.f_kind()? });
            }
        }
        let _no_gradient = tch::no_grad_guard();
        let mut kept = self.flat.lock().unwrap_or_else(PoisonError::into_inner);
        let mut all = lay_out(tensors, kept.as_ref())?;
        self.handle.all_reduce(&mut all)?;
        drop(all.f_div_(&scalar(self.world_size as f64)?)?);
        let mut begin = 0;
        let averages = tensors.iter().map(|tensor| {
            let length = tensor.numel() as i64;
            begin += length;
            Ok(all.f_narrow(0, begin - length, length)?.f_view(tensor.size().as_slice())?)
        });
        let averages = averages.collect::<Result<Vec<Tensor>>>()?;
        memory::copy_all(&tensors.iter().collect::<Vec<_>>(), &averages.iter().collect::<Vec<_>>())?;
        // What is averaged between two steps, a few numbers, does not take the place of the gradients.
        if kept.as_ref().is_none_or(|kept| kept.numel() < all.numel()) {
            *kept = Some(all);
        }
        Ok(())
    }

    /// From here on, takes it on trust that all ranks ask for the same.
    ///
    /// What ranks tell each other before every collective goes from rank to rank over Gloo, so its time grows with
    /// their number: below a millisecond for two, more than the collective itself for many. A program that has made all
    /// its kinds of call once can do without. Ranks that disagree afterwards may fail in other ways, wait until the
    /// time-out, or compute nonsense. A rank that is lost is still an error.
    ///
    /// # Errors
    ///
    /// [`Error::Group`] if another rank makes another call, or does not come.
    pub fn trust_ranks(&self) -> Result<()> {
        self.handle.trust()
    }

    /// What this rank has brought to collectives so far.
    #[must_use]
    pub fn bytes_sent(&self) -> Bytes {
        self.handle.bytes()
    }

    /// Leaves when all ranks have come to leave, so that none is cut off in the middle of something. In a group with
    /// ranks of another program, which know nothing of this, it leaves at once.
    ///
    /// # Errors
    ///
    /// [`Error::Group`] if another rank makes another call, or does not come. This one has left all the same.
    pub fn leave(self) -> Result<()> {
        if self.handle.exchanges_requests() { self.barrier() } else { Ok(()) }
    }

    /// An error unless the backend carries tensors like this one.
    fn check(&self, name: &'static str, tensor: &Tensor) -> Result<()> {
        check_defined(name, tensor)?;
        check_device(name, tensor, self.device)?;
        let expected = "real numbers that Gloo and NCCL can add";
        match tensor.f_kind()? {
            Kind::Half | Kind::BFloat16 | Kind::Float | Kind::Double => Ok(()),
            Kind::Uint8 | Kind::Int8 | Kind::Int | Kind::Int64 => Ok(()),
            actual => Err(Error::Kind { name, expected, actual }),
        }
    }
}

impl Ranks for Group {
    fn rank(&self) -> i64 {
        self.rank
    }

    fn world_size(&self) -> i64 {
        self.world_size
    }

    fn gather(&self, rows: &Tensor) -> Result<Tensor> {
        self.all_gather(rows)
    }

    fn sum(&self, tensor: &Tensor) -> Result<Tensor> {
        self.check("tensor", tensor)?;
        self.handle.sum(tensor)
    }
}

/// All elements of the tensors in one, `[N]`, in the memory of `kept` if that fits.
fn lay_out(tensors: &[Tensor], kept: Option<&Tensor>) -> Result<Tensor> {
    let rows = tensors.iter().map(|tensor| Ok(tensor.f_reshape([-1])?)).collect::<Result<Vec<Tensor>>>()?;
    let total: i64 = rows.iter().map(|row| row.size()[0]).sum();
    match kept {
        Some(memory) if memory.size() == [total] && memory.f_kind()? == tensors[0].f_kind()? => {
            Ok(Tensor::f_cat_out(memory, &rows, 0)?)
        }
        _ => Ok(Tensor::f_cat(&rows, 0)?),
    }
}

/// An error unless `backend` carries tensors of `device`, and there is such a device.
fn check_backend(backend: Backend, device: Device) -> Result<()> {
    check_index(device)?;
    match (backend, device) {
        (Backend::Gloo, Device::Cpu) => Ok(()),
        (Backend::Nccl, Device::Cuda(index)) => match Cuda::device_count() {
            0 => Err(problem("NCCL needs a GPU, and libtorch finds none here".to_owned())),
            count if index as i64 >= count => Err(problem(format!("there is no GPU {index}: libtorch finds {count}"))),
            _ => Ok(()),
        },
        (Backend::Gloo, _) => Err(problem(format!("Gloo carries tensors of the CPU, not those of {device:?}"))),
        (Backend::Nccl, _) => Err(problem(format!("NCCL carries tensors of GPUs, not those of {device:?}"))),
    }
}

fn problem(problem: String) -> Error {
    Error::Group { doing: "joining the group", problem }
}
