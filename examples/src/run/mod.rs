//! The files in the folder of a run: the manifest of its checkpoints, and its measurements.

pub(crate) mod metrics;

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use patchmix::checkpoint::{Checkpoint, write_atomic};
use patchmix::files::{printable, read_small};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::Result;

/// The checkpoint with the best kNN accuracy.
pub(crate) const BEST: &str = "best.safetensors";
const MANIFEST: &str = "manifest.json";
/// Longest manifest that is read, in bytes; a checkpoint takes about 200.
const MAX_MANIFEST: u64 = 1 << 26;

/// The folder with the checkpoints and the manifest.
pub(crate) fn checkpoint_folder(run: &Path) -> PathBuf {
    run.join("checkpoints")
}

/// An error if something that begins in the folder would overwrite what is there: `what`, if it holds the file
/// `marker`, or anything else.
pub(crate) fn check_new_folder(path: &Path, marker: &str, what: &str) -> Result<()> {
    let shown = path.display();
    if path.join(marker).exists() {
        return Err(format!("{shown} holds {what} already; add --resume to resume it, or name another folder").into());
    }
    if fs::read_dir(path).is_ok_and(|mut entries| entries.next().is_some()) {
        return Err(format!("{shown} is not empty; name another folder with --out").into());
    }
    Ok(())
}

/// `runs/NAME`, or with the first number behind it that is free.
pub(crate) fn free_folder(name: &str) -> PathBuf {
    let mut folders = std::iter::once(name.to_owned()).chain((2..).map(|number| format!("{name}-{number}")));
    let free = folders.find(|name| !Path::new("runs").join(name).exists());
    Path::new("runs").join(free.unwrap_or_else(|| name.to_owned()))
}

/// The complete checkpoints. A file that is not listed was being written when the run died.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Manifest {
    /// Newest first.
    pub(crate) checkpoints: Vec<Entry>,
    pub(crate) best: Option<Entry>,
}

/// A checkpoint, and where in the run it was saved.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Entry {
    pub(crate) file: String,
    pub(crate) sha256: String,
    pub(crate) epoch: u64,
    pub(crate) batch: u64,
    /// In percent, of the encoder that evaluations take by default: the momentum encoder if there is one.
    pub(crate) knn_top1: Option<f64>,
    /// How the images were prepared when that was measured; unknown for checkpoints of an earlier version.
    pub(crate) knn_protocol: Option<String>,
}

impl Manifest {
    /// The manifest of a run; an empty one before the first checkpoint.
    pub(crate) fn read(run: &Path) -> Result<Manifest> {
        let path = checkpoint_folder(run).join(MANIFEST);
        let shown = printable(path.display());
        let text = match read_small(&path, MAX_MANIFEST) {
            Err(patchmix::Error::Io { source, .. }) if source.kind() == ErrorKind::NotFound => {
                return Ok(Manifest::default());
            }
            text => text?,
        };
        let manifest: Manifest =
            serde_json::from_slice(&text).map_err(|error| format!("{shown}: {}", printable(error)))?;
        // The run may come from somebody else, who may not choose files elsewhere.
        let is_name = |file: &str| Path::new(file).file_name().is_some_and(|name| name == file);
        match manifest.checkpoints.iter().chain(&manifest.best).find(|entry| !is_name(&entry.file)) {
            Some(entry) => Err(format!("{shown}: {:?} is not the name of a file in its folder", entry.file).into()),
            None => Ok(manifest),
        }
    }

    /// The best kNN accuracy, if it was measured by this protocol.
    pub(crate) fn best_by(&self, protocol: &str) -> Option<f64> {
        let best = self.best.as_ref().filter(|best| best.knn_protocol.as_deref() == Some(protocol));
        best.and_then(|best| best.knn_top1)
    }

    pub(crate) fn write(&self, run: &Path) -> Result<()> {
        write_json(&checkpoint_folder(run).join(MANIFEST), self)
    }

    /// The checkpoint files in a run's folder that the manifest does not list.
    pub(crate) fn unlisted(&self, run: &Path) -> Result<Vec<PathBuf>> {
        let folder = checkpoint_folder(run);
        let entries = match fs::read_dir(&folder) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.map_err(|error| format!("{}: {error}", folder.display()))?,
        };
        let names = entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()));
        let names: Vec<String> = names.collect::<std::io::Result<_>>()?;
        let listed = |name: &String| self.checkpoints.iter().chain(&self.best).any(|entry| entry.file == *name);
        let unlisted = names.into_iter().filter(|name| name.ends_with(".safetensors") && !listed(name));
        Ok(unlisted.map(|name| folder.join(name)).collect())
    }
}

impl Entry {
    /// The checkpoint in `folder`, if the file has the checksum that it was saved with.
    pub(crate) fn read(&self, folder: &Path) -> Result<Checkpoint> {
        let path = folder.join(&self.file);
        let bytes = read_small(&path, u64::MAX)?;
        if sha256(&bytes) != self.sha256 {
            let path = printable(path.display());
            return Err(format!("{path}: damaged, its checksum is not that of the manifest").into());
        }
        Ok(Checkpoint::from_bytes(&bytes, &path)?)
    }
}

/// SHA-256 in lower-case hexadecimal.
pub(crate) fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Writes pretty-printed JSON; an interruption leaves the old file or the new one.
pub(crate) fn write_json(path: &Path, value: &impl Serialize) -> Result<()> {
    Ok(write_atomic(path, (serde_json::to_string_pretty(value)? + "\n").as_bytes())?)
}
