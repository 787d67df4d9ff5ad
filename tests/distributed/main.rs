//! Process groups: results of collectives, disagreement between ranks, lost ranks, and ranks of other programs.
//!
//! All ranks run on this machine, meet at a free port of the loopback interface, and time out after seconds.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::expect_used)] // a test may panic, helpers included

#[path = "../common/mod.rs"]
mod common;
// The plain implementation and the networks of `tests/contrast`.
#[path = "../contrast/plain.rs"]
mod plain;
#[path = "../contrast/scene.rs"]
mod scene;

mod collectives;
mod disagreement;
mod failure;
mod invariance;
mod other_programs;
mod rank;
