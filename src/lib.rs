//! PatchMix over libtorch.

mod error;

pub mod augment;
pub mod data;

pub use error::{Error, Result};
