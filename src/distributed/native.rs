//! Bindings to `csrc/distributed.cpp`, a wrapper of libtorch's c10d.
//!
//! [`group`](super::group) checks kinds and devices before it calls these.

#![allow(unsafe_code)]

use std::ffi::{CStr, c_char, c_int};
use std::ptr::{self, NonNull};

use tch::Tensor;
use torch_sys::C_tensor;

use super::Launch;
use super::group::Bytes;
use crate::error::{Error, Result};
use crate::native::{message_text, new_tensor};

/// An opaque C++ object.
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
    fn patchmix_group_numbers(group: *mut NativeGroup, number: i64, numbers: *mut i64, count: i64) -> *mut c_char;
}

/// A C++ process group; dropping it leaves the group.
#[derive(Debug)]
pub(super) struct Handle(NonNull<NativeGroup>);

// SAFETY: the C++ side runs one call at a time, under a lock, and keeps no thread-local state.
unsafe impl Send for Handle {}
// SAFETY: see above; state outside the lock does not change after joining.
unsafe impl Sync for Handle {}

impl Drop for Handle {
    fn drop(&mut self) {
        // SAFETY: the group was joined and not yet left, and the pointer is not used after this.
        unsafe { patchmix_group_leave(self.0.as_ptr()) }
    }
}

impl Handle {
    /// The caller has checked the ranks and the timeout.
    pub(super) fn join(launch: &Launch, address: &CStr, nccl: bool, timeout_in_milliseconds: i64) -> Result<Handle> {
        let mut group = ptr::null_mut();
        // SAFETY: a NUL-terminated string, which is only read, and an out-pointer.
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
            .ok_or(Error::Group { doing: "joining the group", problem: "no group was created".to_owned() })
    }

    pub(super) fn exchanges_requests(&self) -> bool {
        // SAFETY: a live group, of which a constant is read.
        unsafe { patchmix_group_exchanges_requests(self.0.as_ptr()) }
    }

    pub(super) fn trust(&self) -> Result<()> {
        // SAFETY: a live group.
        check("trusting the other ranks", unsafe { patchmix_group_trust(self.0.as_ptr()) })
    }

    pub(super) fn bytes(&self) -> Bytes {
        let mut bytes = [0_i64; 3];
        // SAFETY: a live group, and room for the three numbers.
        unsafe { patchmix_group_bytes(self.0.as_ptr(), bytes.as_mut_ptr()) };
        let [all_reduce, all_gather, broadcast] = bytes.map(i64::unsigned_abs);
        Bytes { all_reduce, all_gather, broadcast }
    }

    pub(super) fn all_reduce(&self, tensor: &mut Tensor) -> Result<()> {
        // SAFETY: a live group and a live tensor, which is written like by tch's in-place operations.
        check("all-reduce", unsafe { patchmix_group_all_reduce(self.0.as_ptr(), tensor.as_mut_ptr()) })
    }

    pub(super) fn sum(&self, tensor: &Tensor) -> Result<Tensor> {
        let mut sum = ptr::null_mut();
        // SAFETY: a live group and a live tensor, which is only read. Autograd holds references of its own to both.
        check("sum over ranks", unsafe { patchmix_group_sum(&mut sum, self.0.as_ptr(), tensor.as_ptr()) })?;
        new_tensor(sum)
    }

    pub(super) fn all_gather(&self, rows: &Tensor) -> Result<Tensor> {
        let mut gathered = ptr::null_mut();
        // SAFETY: a live group and a live tensor with at least one dimension, which is only read.
        let message = unsafe { patchmix_group_all_gather(&mut gathered, self.0.as_ptr(), rows.as_ptr()) };
        check("all-gather", message)?;
        new_tensor(gathered)
    }

    pub(super) fn broadcast(&self, tensor: &mut Tensor, from_rank: i64) -> Result<()> {
        // SAFETY: a live group and a live tensor, which is written like by tch's in-place operations.
        let message = unsafe { patchmix_group_broadcast(self.0.as_ptr(), tensor.as_mut_ptr(), from_rank) };
        check("broadcast", message)
    }

    pub(super) fn barrier(&self) -> Result<()> {
        // SAFETY: a live group.
        check("barrier", unsafe { patchmix_group_barrier(self.0.as_ptr()) })
    }

    /// The numbers of all ranks. `world_size` must be that of the group.
    pub(super) fn numbers(&self, number: i64, world_size: i64) -> Result<Vec<i64>> {
        let mut numbers = vec![0; world_size as usize];
        // SAFETY: a live group, and room for `world_size` numbers.
        let message = unsafe { patchmix_group_numbers(self.0.as_ptr(), number, numbers.as_mut_ptr(), world_size) };
        check("numbers", message)?;
        Ok(numbers)
    }
}

/// A message from C++ as an error.
fn check(doing: &'static str, message: *mut c_char) -> Result<()> {
    message_text(message).map_or(Ok(()), |problem| Err(Error::Group { doing, problem }))
}
