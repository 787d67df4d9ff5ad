//! Process groups: what collectives return, what ranks of another program see, and how it ends when a rank is not there.
//!
//! All ranks are on this machine, meet at a port of the loopback interface that was free, and give up after seconds.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::expect_used)] // a test may panic, helpers included

#[path = "../common/mod.rs"]
mod common;

mod collectives;
mod disagreement;
mod failure;
mod other_programs;
mod rank;
