//! Process groups: what collectives return, what ranks of another program see, and how it ends when a rank is not there.
//!
//! All ranks are on this machine, meet at a port of the loopback interface that was free, and give up after seconds.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::expect_used)] // a test may panic, helpers included

#[path = "../common/mod.rs"]
mod common;
// The method by its description, and what is contrasted in a test.
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
