//! Calls into `csrc/distributed.cpp`, which asks libtorch's c10d.
//!
//! [`group`](super::group) checks kinds and devices before it comes here.

#![allow(unsafe_code)]

use std::ffi::{CStr, c_char, c_int};
use std::ptr::{self, NonNull};

use tch::Tensor;
use torch_sys::C_tensor;

use super::Launch;
use super::group::Bytes;
use crate::error::{Error, Result};
use crate::native::{message_text, new_tensor};

/// Known by pointers only.
#[repr(C)]
struct NativeGroup {
    _private: [u8; 0],
}

unsafe extern "C" {
    fn patchmix_group_join(
        joined: *mut *mut NativeGroup,
        address: *const c_char,
        port: u16,
        launcher_serves: bool,
        restart: i64,
        rank: c_int,
        world_size: c_int,
        nccl: bool,
        timeout_in_milliseconds: i64,
    ) -> *mut c_char;
    fn patchmix_group_leave(group: *mut NativeGroup);
    fn patchmix_group_exchanges_requests(group: *const NativeGroup) -> bool;
    fn patchmix_group_trust(group: *mut NativeGroup) -> *mut c_char;
    fn patchmix_group_bytes(group: *mut NativeGroup, bytes: *mut i64);
    fn patchmix_group_all_reduce(group: *mut NativeGroup, tensor: *mut C_tensor) -> *mut c_char;
    fn patchmix_group_sum(sum: *mut *mut C_tensor, group: *mut NativeGroup, tensor: *const C_tensor) -> *mut c_char;
    fn patchmix_group_all_gather(
        gathered: *mut *mut C_tensor,
        group: *mut NativeGroup,
        rows: *const C_tensor,
    ) -> *mut c_char;
    fn patchmix_group_broadcast(group: *mut NativeGroup, tensor: *mut C_tensor, from_rank: i64) -> *mut c_char;
    fn patchmix_group_barrier(group: *mut NativeGroup) -> *mut c_char;
    fn patchmix_group_numbers(group: *mut NativeGroup, number: i64, numbers: *mut i64) -> *mut c_char;
}

/// A group of the C++ side, left when it is dropped.
#[derive(Debug)]
pub(super) struct Handle(NonNull<NativeGroup>);

// SAFETY: the C++ side does one call at a time, under a lock, and keeps nothing that belongs to a thread.
unsafe impl Send for Handle {}
// SAFETY: see above; of what the lock does not guard, nothing changes after joining.
unsafe impl Sync for Handle {}

impl Drop for Handle {
    fn drop(&mut self) {
        // SAFETY: the pointer is that of a group joined and not yet left; nobody uses it after this.
        unsafe { patchmix_group_leave(self.0.as_ptr()) }
    }
}

impl Handle {
    /// Ranks and time-out were checked by whoever calls this.
    pub(super) fn join(launch: &Launch, address: &CStr, nccl: bool, timeout_in_milliseconds: i64) -> Result<Handle> {
        let mut group = ptr::null_mut();
        // SAFETY: a string ended by a zero, which is only read, and a place for the pointer.
        let message = unsafe {
            patchmix_group_join(
                &mut group,
                address.as_ptr(),
                launch.port,
                launch.launcher_serves,
                launch.restart,
                launch.rank as c_int,
                launch.world_size as c_int,
                nccl,
                timeout_in_milliseconds,
            )
        };
        check("joining the group", message)?;
        NonNull::new(group)
            .map(Handle)
            .ok_or(Error::Group { doing: "joining the group", problem: "no group was made".to_owned() })
    }

    pub(super) fn exchanges_requests(&self) -> bool {
        // SAFETY: a living group, of which a constant is read.
        unsafe { patchmix_group_exchanges_requests(self.0.as_ptr()) }
    }

    pub(super) fn trust(&self) -> Result<()> {
        // SAFETY: a living group.
        check("trusting the other ranks", unsafe { patchmix_group_trust(self.0.as_ptr()) })
    }

    pub(super) fn bytes(&self) -> Bytes {
        let mut bytes = [0_i64; 3];
        // SAFETY: a living group and room for the three numbers.
        unsafe { patchmix_group_bytes(self.0.as_ptr(), bytes.as_mut_ptr()) };
        let [all_reduce, all_gather, broadcast] = bytes.map(i64::unsigned_abs);
        Bytes { all_reduce, all_gather, broadcast }
    }

    pub(super) fn all_reduce(&self, tensor: &mut Tensor) -> Result<()> {
        // SAFETY: a living group and tensor; written as tch's own in-place operations write.
        check("all-reduce", unsafe { patchmix_group_all_reduce(self.0.as_ptr(), tensor.as_mut_ptr()) })
    }

    pub(super) fn sum(&self, tensor: &Tensor) -> Result<Tensor> {
        let mut sum = ptr::null_mut();
        // SAFETY: a living group and tensor, which is only read; what autograd keeps of both owns its share of them.
        check("sum over ranks", unsafe { patchmix_group_sum(&mut sum, self.0.as_ptr(), tensor.as_ptr()) })?;
        new_tensor(sum)
    }

    pub(super) fn all_gather(&self, rows: &Tensor) -> Result<Tensor> {
        let mut gathered = ptr::null_mut();
        // SAFETY: a living group and tensor of one dimension or more, which is only read.
        let message = unsafe { patchmix_group_all_gather(&mut gathered, self.0.as_ptr(), rows.as_ptr()) };
        check("all-gather", message)?;
        new_tensor(gathered)
    }

    pub(super) fn broadcast(&self, tensor: &mut Tensor, from_rank: i64) -> Result<()> {
        // SAFETY: a living group and tensor; written as tch's own in-place operations write.
        let message = unsafe { patchmix_group_broadcast(self.0.as_ptr(), tensor.as_mut_ptr(), from_rank) };
        check("broadcast", message)
    }

    pub(super) fn barrier(&self) -> Result<()> {
        // SAFETY: a living group.
        check("barrier", unsafe { patchmix_group_barrier(self.0.as_ptr()) })
    }

    /// The numbers of all `world_size` ranks of the group.
    pub(super) fn numbers(&self, number: i64, world_size: i64) -> Result<Vec<i64>> {
        let mut numbers = vec![0; world_size as usize];
        // SAFETY: a living group, and room for a number of each of its ranks.
        let message = unsafe { patchmix_group_numbers(self.0.as_ptr(), number, numbers.as_mut_ptr()) };
        check("numbers", message)?;
        Ok(numbers)
    }
}

/// The message of the C++ side as an error.
fn check(doing: &'static str, message: *mut c_char) -> Result<()> {
    message_text(message).map_or(Ok(()), |problem| Err(Error::Group { doing, problem }))
}
