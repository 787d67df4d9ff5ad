//! The losses of a batch, with local views, micro-batches and several ranks, against a plain loop.
#![allow(clippy::unwrap_used, clippy::expect_used)] // a test may panic, helpers included

#[path = "../common/mod.rs"]
mod common;

mod errors;
mod everything;
mod frozen;
mod multi_crop;
mod parts;
mod plain;
mod provided;
mod ranks;
mod scene;
mod skipped;
mod terms;
mod threads;
mod views;
