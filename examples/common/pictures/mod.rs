//! Pictures as PNG files: how they are drawn, and those that several programs draw.
#![allow(dead_code)] // every program uses its own part

pub(crate) mod animation;
pub(crate) mod canvas;
pub(crate) mod curves;
pub(crate) mod matrix;
pub(crate) mod mixes;
pub(crate) mod plot;
pub(crate) mod tiles;

/// A result whose error is one line for the person at the terminal.
type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;
