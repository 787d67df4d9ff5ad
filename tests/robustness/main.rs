//! Every public function with arbitrary arguments: a result or a typed error, never a panic and never a silently wrong
//! number. There is a file per module of the crate; `any.rs` generates the arguments.
#![allow(clippy::unwrap_used, clippy::expect_used)] // a test may panic, helpers included
#![allow(unreachable_pub)] // a test binary has no users

mod any;
mod augment;
mod checkpoint;
mod classifier;
mod data;
mod errors;
mod eval;
mod loss;
mod mix;
mod model;
mod optim;
mod random;

use std::panic::{AssertUnwindSafe, catch_unwind};

/// Runs a call, and names it if it panics. proptest adds the arguments.
#[track_caller]
fn typed<T>(call: &str, function: impl FnOnce() -> T) -> T {
    match catch_unwind(AssertUnwindSafe(function)) {
        Ok(result) => result,
        Err(_) => panic!("{call} panicked"),
    }
}
