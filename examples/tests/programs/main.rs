//! The programs as a user meets them: their files, their output and their errors.
#![allow(clippy::unwrap_used, clippy::expect_used)] // a test may panic, helpers included

mod evaluate;
mod pictures;
mod pretrain;
mod support;
