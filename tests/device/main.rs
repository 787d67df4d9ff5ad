//! Tests that run on any device, against published numbers, plain loops, and the CPU in double precision.
//!
//! `PATCHMIX_TEST_DEVICE` selects the device: `cpu` (the default), `cuda` or `cuda:N`:
//!
//! ```text
//! PATCHMIX_TEST_DEVICE=cuda cargo test --features distributed --test device
//! ```
#![allow(clippy::unwrap_used, clippy::expect_used)] // a test may panic, helpers included

#[path = "../common/mod.rs"]
mod common;
#[path = "../common/png_folder.rs"]
mod png_folder;
// The plain implementation and the networks of `tests/contrast`.
#[path = "../contrast/plain.rs"]
mod plain;
#[allow(dead_code)] // some of it is for other tests
#[path = "../contrast/scene.rs"]
mod scene;

mod checkpoint;
mod classifier;
mod contrast;
mod drop_path;
mod encoder;
mod evaluation;
mod finetune;
mod half_precision;
mod memory;
mod mixing;
mod optimizer;
mod own_kernels;
mod plain_vit;
mod published_losses;
mod published_steps;
mod published_vit;
mod queue;
#[cfg(feature = "distributed")]
mod rank;
mod tiles;
mod turn;
mod views;
