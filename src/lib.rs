#![doc = include_str!("../README.md")]
#![deny(unsafe_code)] // but for src/native and src/dist/native.rs
#![warn(clippy::print_stdout, clippy::print_stderr)]

mod error;
mod mix;
mod native;
mod numbers;
mod ranks;
mod target;

pub mod augment;
pub mod backend;
pub mod checkpoint;
pub mod contrast;
pub mod data;
#[cfg(feature = "distributed")]
pub mod dist;
pub mod eval;
pub mod finetune;
pub mod loss;
pub mod optim;
#[cfg(feature = "profile")]
pub mod profile;
pub mod random;
pub mod vit;

pub use error::{Error, Result};
pub use mix::{MixPlan, patch_mix};
pub use ranks::Ranks;
pub use target::{MixTargets, SoftTarget};
