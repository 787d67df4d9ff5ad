//! The set-up script: which libtorch it takes, when, and what it keeps. Nothing is downloaded: libraries are empty
//! files, and stand-ins take the place of `cargo` and of `pip`.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::expect_used)] // a test may panic, helpers included

mod cache;
mod choice;
mod install;
mod machine;
