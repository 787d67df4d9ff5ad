//! The pictures of a run, as PNG files: what mixing does, and how the training went.

mod canvas;
mod curves;
mod mixes;

pub(crate) use curves::{Epoch, Metrics, curves_picture};
pub(crate) use mixes::{MixRow, mix_picture};

/// A result whose error is one line for the person at the terminal.
type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;
