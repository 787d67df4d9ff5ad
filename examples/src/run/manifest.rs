//! The manifest: which checkpoints of a run are whole, and their checksums.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use patchmix::Error;
use patchmix::checkpoint::Checkpoint;
use patchmix::files::{printable, read_small};
use serde::{Deserialize, Serialize};

use super::folder::names;
use super::{MAX_JSON, sha256, write_json};
use crate::Result;
use crate::terminal::{log, shown};

/// The checkpoint with the best kNN accuracy.
pub(crate) const BEST: &str = "best.safetensors";
const MANIFEST: &str = "manifest.json";

/// Names in the metadata of a checkpoint.
const EPOCH: &str = "epoch";
const BATCH: &str = "batch";
const KNN: &str = "knn_top1";
const PROTOCOL: &str = "knn_protocol";

/// The folder with the checkpoints and the manifest.
pub(crate) fn checkpoint_folder(run: &Path) -> PathBuf {
    run.join("checkpoints")
}

/// The name of a checkpoint.
pub(crate) fn file_name(epoch: u64, batch: u64) -> String {
    format!("epoch-{epoch:05}-batch-{batch:06}.safetensors")
}

/// Epoch and batch in the name of a checkpoint.
fn place_of(name: &str) -> Option<(u64, u64)> {
    let (epoch, batch) = name.strip_prefix("epoch-")?.strip_suffix(".safetensors")?.split_once("-batch-")?;
    let place = (epoch.parse().ok()?, batch.parse().ok()?);
    (file_name(place.0, place.1) == name).then_some(place)
}

/// Whether a run gives this name to a file in the folder of its checkpoints.
pub(crate) fn is_own(name: &str) -> bool {
    name == BEST || name == MANIFEST || place_of(name).is_some()
}

/// The complete checkpoints. A file that is not listed was being written when the run died.
#[derive(Debug, Default, Clone, Serialize, Deserialize)]
pub(crate) struct Manifest {
    /// Newest first.
    pub(crate) checkpoints: Vec<Entry>,
    pub(crate) best: Option<Entry>,
    /// Whether it was rebuilt and not written since.
    #[serde(skip)]
    pub(crate) is_rebuilt: bool,
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
    /// The manifest of a run; an empty one before the first checkpoint. Where it is damaged, or missing or empty beside
    /// checkpoints, it is rebuilt from those that are whole, and a line says so.
    pub(crate) fn read(run: &Path) -> Result<Manifest> {
        let folder = checkpoint_folder(run);
        let path = folder.join(MANIFEST);
        let problem = match read_small(&path, MAX_JSON) {
            Ok(bytes) => match serde_json::from_slice::<Manifest>(&bytes) {
                Ok(manifest) => match manifest.checked(&path)? {
                    manifest if manifest.checkpoints.is_empty() && !manifest.unlisted(run)?.is_empty() => {
                        "lists no checkpoint".to_owned()
                    }
                    manifest => return Ok(manifest),
                },
                Err(error) => format!("damaged ({error})"),
            },
            Err(Error::Io { source, .. }) if source.kind() == ErrorKind::NotFound => "missing".to_owned(),
            Err(Error::Data { problem, .. }) => problem,
            Err(error) => return Err(error.into()),
        };
        Manifest::rebuilt(&folder, &problem)
    }

    /// The manifest, if all its names are those of checkpoints: others could lead out of the folder.
    fn checked(self, path: &Path) -> Result<Manifest> {
        let is_name = |entry: &Entry| entry.file == BEST || place_of(&entry.file).is_some();
        match self.checkpoints.iter().chain(&self.best).find(|entry| !is_name(entry)) {
            None => Ok(self),
            Some(Entry { file, .. }) => {
                let (path, advice) = (shown(path), "remove this manifest; --resume rebuilds it from the checkpoints");
                Err(format!("{path}: {file:?} is not the name of a checkpoint; {advice}").into())
            }
        }
    }

    /// A manifest of the whole checkpoints in a folder; an error if there are checkpoints and none is whole.
    pub(crate) fn rebuilt(folder: &Path, problem: &str) -> Result<Manifest> {
        let mut manifest = Manifest { is_rebuilt: true, ..Manifest::default() };
        let files = checkpoints_in(folder)?;
        for name in &files {
            match Entry::of_file(folder, name) {
                Ok(entry) if name == BEST => manifest.best = Some(entry),
                Ok(entry) => manifest.checkpoints.push(entry),
                Err(error) => log!("skipped: {error}"),
            }
        }
        manifest.checkpoints.sort_by_key(|entry| std::cmp::Reverse((entry.epoch, entry.batch)));
        let count = manifest.checkpoints.iter().chain(&manifest.best).count();
        match (files.len(), count) {
            (0, _) => Ok(Manifest::default()),
            (_, 0) => Err(none_is_complete(folder).into()),
            _ => {
                let path = folder.join(MANIFEST);
                log!("{}: {}; rebuilt from {count} whole checkpoints", shown(&path), printable(problem));
                Ok(manifest)
            }
        }
    }

    /// The best kNN accuracy, if it was measured by this protocol.
    pub(crate) fn best_by(&self, protocol: &str) -> Option<f64> {
        let best = self.best.as_ref().filter(|best| best.knn_protocol.as_deref() == Some(protocol));
        best.and_then(|best| best.knn_top1)
    }

    pub(crate) fn write(&self, run: &Path) -> Result<()> {
        write_json(&Manifest::path(run), self)
    }

    pub(crate) fn path(run: &Path) -> PathBuf {
        checkpoint_folder(run).join(MANIFEST)
    }

    /// Whether it lists a file of this name.
    pub(crate) fn lists(&self, name: &str) -> bool {
        self.checkpoints.iter().chain(&self.best).any(|entry| entry.file == name)
    }

    /// The names of the checkpoints in a run's folder that the manifest does not list. [`BEST`] is one of them only
    /// where nothing is listed.
    pub(crate) fn unlisted(&self, run: &Path) -> Result<Vec<String>> {
        let is_empty = self.checkpoints.is_empty() && self.best.is_none();
        let mut names = checkpoints_in(&checkpoint_folder(run))?;
        names.retain(|name| !self.lists(name) && (name != BEST || is_empty));
        Ok(names)
    }

    /// The names of the checkpoints in a run's folder that are no longer needed: those that the manifest listed
    /// `before`, and where it lists `keep`, those from before all of them. Any other one may be all that there is of a
    /// part of the run.
    pub(crate) fn outdated(&self, run: &Path, before: &Manifest, keep: usize) -> Result<Vec<String>> {
        let oldest = self.checkpoints.iter().map(|entry| (entry.epoch, entry.batch)).min();
        let oldest = oldest.filter(|_| self.checkpoints.len() >= keep);
        let is_older = |name: &str| oldest.zip(place_of(name)).is_some_and(|(oldest, place)| place < oldest);
        let mut names = self.unlisted(run)?;
        names.retain(|name| before.lists(name) || is_older(name));
        Ok(names)
    }
}

/// The names of all checkpoints in a folder; none if there is no folder.
fn checkpoints_in(folder: &Path) -> Result<Vec<String>> {
    let names = match names(folder) {
        Err(error) if error.kind() == ErrorKind::NotFound => Vec::new(),
        names => names.map_err(|error| format!("{}: {error}", shown(folder)))?,
    };
    let is_checkpoint = |name: &String| name == BEST || place_of(name).is_some();
    Ok(names.into_iter().filter(|name| is_checkpoint(name) && folder.join(name).is_file()).collect())
}

/// What is said where a run has checkpoints and none of them can be used.
pub(crate) fn none_is_complete(folder: &Path) -> String {
    format!("{}: no checkpoint is complete; start a new run in another folder", shown(folder))
}

impl Entry {
    /// The checkpoint in `folder`, if the file has the checksum that it was saved with.
    pub(crate) fn read(&self, folder: &Path) -> Result<Checkpoint> {
        Ok(Checkpoint::from_bytes(&self.bytes(folder)?, &folder.join(&self.file))?)
    }

    /// The bytes of the file, if they have the checksum that they were saved with.
    pub(crate) fn bytes(&self, folder: &Path) -> Result<Vec<u8>> {
        let path = folder.join(&self.file);
        let bytes = read_small(&path, u64::MAX)?;
        match sha256(&bytes) == self.sha256 {
            true => Ok(bytes),
            false => {
                let path = shown(&path);
                Err(format!("{path}: damaged, its checksum is not that of the manifest").into())
            }
        }
    }

    /// Notes the kNN accuracy in the metadata of the checkpoint, from which the manifest can be rebuilt.
    pub(crate) fn note_accuracy(checkpoint: &mut Checkpoint, knn_top1: f64, protocol: &str) {
        checkpoint.metadata.insert(KNN.to_owned(), knn_top1.to_string());
        checkpoint.metadata.insert(PROTOCOL.to_owned(), protocol.to_owned());
    }

    /// The entry of a file, as far as its name and its metadata say.
    pub(crate) fn of_file(folder: &Path, file: &str) -> Result<Entry> {
        let path = folder.join(file);
        let bytes = read_small(&path, u64::MAX)?;
        let metadata = Checkpoint::from_bytes(&bytes, &path)?.metadata;
        let number = |name: &str| metadata.get(name).and_then(|text| text.parse().ok());
        let place = number(EPOCH).zip(number(BATCH));
        let (epoch, batch) = place
            .filter(|place| file == BEST || place_of(file) == Some(*place))
            .ok_or_else(|| format!("{}: is not the checkpoint that its name says", shown(&path)))?;
        let knn_top1 = metadata.get(KNN).and_then(|text| text.parse().ok());
        let knn_protocol = metadata.get(PROTOCOL).cloned();
        Ok(Entry { file: file.to_owned(), sha256: sha256(&bytes), epoch, batch, knn_top1, knn_protocol })
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn names_of_checkpoints_are_those_that_a_run_gives() {
        assert_eq!(place_of(&file_name(3, 14)), Some((3, 14)));
        assert_eq!(place_of(&file_name(1_000_000, 10_000_000)), Some((1_000_000, 10_000_000)));
        for name in ["epoch-3-batch-14.safetensors", "epoch-00003-batch-000014", "best.safetensors", "../epoch"] {
            assert_eq!(place_of(name), None, "{name}");
        }
    }

    #[test]
    fn a_manifest_cannot_name_files_elsewhere() {
        let run = tempfile::tempdir().unwrap();
        fs::create_dir(checkpoint_folder(run.path())).unwrap();
        let (path, inside) = (Manifest::path(run.path()), file_name(1, 0));
        let entry = |file: &str| {
            let (file, sha256) = (file.to_owned(), String::new());
            Entry { file, sha256, epoch: 1, batch: 0, knn_top1: None, knn_protocol: None }
        };
        for outside in ["../../secret", "/etc/passwd", "a/b.safetensors", "..", &format!("../checkpoints/{inside}")] {
            for is_best in [false, true] {
                let best = Some(entry(if is_best { outside } else { BEST }));
                let checkpoints = vec![entry(if is_best { &inside } else { outside })];
                write_json(&path, &Manifest { checkpoints, best, is_rebuilt: false }).unwrap();
                let error = Manifest::read(run.path()).unwrap_err().to_string();
                assert!(error.contains("manifest.json: ") && error.contains(outside), "{error}");
                assert!(error.contains("remove this manifest; --resume rebuilds it"), "{error}");
            }
        }
    }
}
