//! The losses of a batch: local views, parts of a batch, ranks; against a plain loop written from the description.
#![allow(clippy::unwrap_used, clippy::expect_used)] // a test may panic, helpers included

#[path = "../common/mod.rs"]
mod common;

mod errors;
mod frozen;
mod multi_crop;
mod parts;
mod plain;
mod ranks;
mod scene;
