//! The same numbers on any device: the published ones, those of a plain loop, and those of the CPU in double precision.
//!
//! `PATCHMIX_TEST_DEVICE` names the device, `cpu` (the default), `cuda` or `cuda:N`:
//!
//! ```text
//! PATCHMIX_TEST_DEVICE=cuda cargo test --features distributed --test device
//! ```
#![allow(clippy::unwrap_used, clippy::expect_used)] // a test may panic, helpers included

#[path = "../common/mod.rs"]
mod common;
// Built-in images as files.
#[path = "../common/png_folder.rs"]
mod png_folder;
// The method by its description, and what is contrasted in a test.
#[path = "../contrast/plain.rs"]
mod plain;
#[allow(dead_code)] // some of it serves other tests
#[path = "../contrast/scene.rs"]
mod scene;

mod checkpoint;
mod classifier;
mod contrast;
mod drop_path;
mod evaluation;
mod finetune;
mod half_precision;
mod memory;
mod mixing;
mod optimizer;
mod own_kernels;
mod published_losses;
mod published_steps;
mod published_vit;
mod queue;
#[cfg(feature = "distributed")]
mod rank;
mod tiles;
mod turn;
mod views;
