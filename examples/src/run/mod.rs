//! The files in the folder of a run: its lock, the manifest of its checkpoints, and its measurements.

mod folder;
mod lock;
mod manifest;
pub(crate) mod metrics;

use std::path::Path;

use patchmix::files::write_atomic;
use serde::Serialize;
use sha2::{Digest, Sha256};

use crate::Result;

pub(crate) use folder::{Beginning, check_new_folder, claim, remove_partials};
pub(crate) use lock::Lock;
pub(crate) use manifest::{BEST, Entry, Manifest, checkpoint_folder, file_name, is_own, none_is_complete};

/// The longest JSON file that is read, in bytes: far more than a run writes.
pub(crate) const MAX_JSON: u64 = 16 << 20;

/// SHA-256 in lower-case hexadecimal.
pub(crate) fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Pretty-printed JSON.
pub(crate) fn json(value: &impl Serialize) -> Result<Vec<u8>> {
    Ok((serde_json::to_string_pretty(value)? + "\n").into_bytes())
}

/// Writes pretty-printed JSON; an interruption leaves the old file or the new one.
pub(crate) fn write_json(path: &Path, value: &impl Serialize) -> Result<()> {
    Ok(write_atomic(path, &json(value)?)?)
}
