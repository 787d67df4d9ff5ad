#![doc = include_str!("../README.md")]
#![deny(unsafe_code)] // but for src/native.rs
#![warn(clippy::print_stdout, clippy::print_stderr)]

mod error;
mod mix;
mod native;
mod numbers;
mod target;

pub mod augment;
pub mod checkpoint;
pub mod contrast;
pub mod data;
pub mod eval;
pub mod finetune;
pub mod loss;
pub mod optim;
pub mod random;
pub mod vit;

pub use error::{Error, Result};
pub use mix::{MixPlan, patch_mix};
pub use target::{MixTargets, SoftTarget};
