//! AdamW with decay groups and a saved state, averaged weights, and the published schedules.

mod adamw;
mod average;
mod clip;
pub mod schedule;

pub use adamw::{AdamW, UpdateRule};
pub use average::average_weights;
pub(crate) use average::counterpart;
