//! Every public function with arguments that nobody should pass: a result or a typed error, never a panic, and never a
//! number that is wrong without saying so. A file for each module of the crate; `any.rs` makes the arguments.
#![allow(clippy::unwrap_used, clippy::expect_used)] // a test may panic, helpers included
#![allow(unreachable_pub)] // there is nobody to reach

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

/// Calls, and says which call it was if it panics; proptest adds the arguments.
#[track_caller]
fn typed<T>(call: &str, function: impl FnOnce() -> T) -> T {
    match catch_unwind(AssertUnwindSafe(function)) {
        Ok(result) => result,
        Err(_) => panic!("{call} panicked"),
    }
}
