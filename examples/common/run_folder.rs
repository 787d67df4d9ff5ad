//! What lies where in the folder of a run, and which of its checkpoints are whole.

use std::fs;
use std::path::{Path, PathBuf};

use patchmix::checkpoint::Checkpoint;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::Result;

/// All settings of the run.
pub(crate) const CONFIG: &str = "config.json";
pub(crate) const MANIFEST: &str = "manifest.json";

/// Hidden width of a block's multilayer perceptron, in multiples of the width; no setting.
pub(crate) const MLP_RATIO: i64 = 4;

/// The folder with the checkpoints and the manifest.
pub(crate) fn checkpoint_folder(run: &Path) -> PathBuf {
    run.join("checkpoints")
}

/// The checkpoints that are whole, with their checksums: what is not in it was being written when the run died.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Manifest {
    /// Newest first.
    pub(crate) checkpoints: Vec<Entry>,
    pub(crate) best: Option<Entry>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Entry {
    pub(crate) file: String,
    pub(crate) sha256: String,
    pub(crate) epoch: u64,
    pub(crate) batch: u64,
    pub(crate) knn_top1: Option<f64>,
}

impl Manifest {
    /// The manifest of a run; an empty one before the first checkpoint.
    pub(crate) fn read(run: &Path) -> Result<Manifest> {
        let path = checkpoint_folder(run).join(MANIFEST);
        match fs::read(&path) {
            Ok(text) => serde_json::from_slice(&text).map_err(|error| format!("{}: {error}", path.display()).into()),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Manifest::default()),
            Err(error) => Err(format!("{}: {error}", path.display()).into()),
        }
    }
}

impl Entry {
    /// The checkpoint in `folder`, if the file's checksum is the one it was saved with.
    pub(crate) fn read(&self, folder: &Path) -> Result<Checkpoint> {
        let path = folder.join(&self.file);
        let bytes = fs::read(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        if sha256(&bytes) != self.sha256 {
            return Err(format!("{}: damaged, its checksum is not that of the manifest", path.display()).into());
        }
        Ok(Checkpoint::from_bytes(&bytes, &path)?)
    }
}

/// The checksum that the manifest keeps of a file.
pub(crate) fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}
