//! AdamW with decay groups and a state that can be saved, and the published schedules.

mod adamw;
pub mod schedule;

pub use adamw::AdamW;
