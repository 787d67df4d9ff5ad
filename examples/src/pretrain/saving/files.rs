//! The files of a checkpoint, written in an order that a crash cannot break.

use std::fs;
use std::path::Path;

use crate::Result;
use crate::run::{BEST, Entry, Manifest, checkpoint_folder, json};
use crate::terminal::{log, shown};

/// Writes a file; an interruption leaves the old file or the new one.
pub(super) type Write<'a> = &'a mut dyn FnMut(&Path, &[u8]) -> patchmix::Result<()>;

/// Whether an accuracy was measured and exceeds the best one, if there is one.
pub(super) fn is_better(knn_top1: Option<f64>, best: Option<f64>) -> bool {
    knn_top1.is_some() && knn_top1 > best
}

/// Writes a checkpoint, then the manifest that lists it, and removes those that are outdated by then. Keeps the newest
/// checkpoints and, apart, the one with the best kNN accuracy by `protocol`.
///
/// After every single write, what the manifest lists has the checksum that it says, and [`BEST`] is a whole checkpoint.
pub(super) fn add(
    run: &Path,
    (entry, bytes): (Entry, &[u8]),
    protocol: &str,
    keep: usize,
    write: Write<'_>,
) -> Result<()> {
    let folder = checkpoint_folder(run);
    let mut manifest = Manifest::read(run)?; // first: it would be rebuilt from the new file if it were missing
    let before = manifest.clone();
    // A run that went on from an earlier checkpoint comes by the same places again.
    let is_other = |old: &Entry| old.file == entry.file && old.sha256 != entry.sha256;
    if manifest.checkpoints.iter().chain(&manifest.best).any(is_other) {
        manifest.checkpoints.retain(|old| !is_other(old));
        if manifest.best.as_ref().is_some_and(is_other) {
            manifest.best = Entry::of_file(&folder, BEST).ok(); // the run had died before this was overwritten
        }
        list(run, &manifest, write)?;
    }
    let is_best = is_better(entry.knn_top1, manifest.best_by(protocol));
    write(&folder.join(&entry.file), bytes)?;
    manifest.checkpoints.retain(|old| old.file != entry.file);
    manifest.checkpoints.insert(0, entry.clone());
    if is_best {
        manifest.best = Some(entry);
        list(run, &manifest, write)?;
    }
    // The best checkpoint is listed under its own name until it is BEST. A run may have died in between.
    if let Some(best) = manifest.best.as_mut().filter(|best| best.file != BEST)
        && let Ok(bytes) = best.bytes(&folder)
    {
        write(&folder.join(BEST), &bytes)?;
        BEST.clone_into(&mut best.file);
    }
    manifest.checkpoints.truncate(keep);
    list(run, &manifest, write)?;
    for name in manifest.outdated(run, &before, keep)? {
        let path = folder.join(name);
        if let Err(error) = fs::remove_file(&path) {
            log!("note: {}: an old checkpoint that cannot be removed ({error})", shown(&path));
        }
    }
    Ok(())
}

fn list(run: &Path, manifest: &Manifest, write: Write<'_>) -> Result<()> {
    Ok(write(&Manifest::path(run), &json(manifest)?)?)
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use patchmix::checkpoint::{Checkpoint, write_atomic};

    use super::*;
    use crate::run::{file_name, sha256};

    const PROTOCOL: &str = "protocol";

    /// A checkpoint at the end of an epoch, of an attempt to compute it.
    fn checkpoint(epoch: u64, knn_top1: Option<f64>, attempt: &str) -> (Entry, Vec<u8>) {
        let metadata = [("epoch", epoch.to_string()), ("batch", "0".to_owned()), ("attempt", attempt.to_owned())];
        let mut checkpoint = Checkpoint::default();
        checkpoint.metadata.extend(metadata.map(|(name, text)| (name.to_owned(), text)));
        if let Some(knn_top1) = knn_top1 {
            Entry::note_accuracy(&mut checkpoint, knn_top1, PROTOCOL);
        }
        let bytes = checkpoint.to_bytes().unwrap();
        let knn_protocol = knn_top1.map(|_| PROTOCOL.to_owned());
        let (file, sha256) = (file_name(epoch, 0), sha256(&bytes));
        (Entry { file, sha256, epoch, batch: 0, knn_top1, knn_protocol }, bytes)
    }

    /// Adds a checkpoint, as a process that dies before write number `dies_at`; whether it lived.
    fn added(run: &Path, (entry, bytes): &(Entry, Vec<u8>), dies_at: usize) -> bool {
        let mut writes = 0;
        let mut write = |path: &Path, bytes: &[u8]| {
            writes += 1;
            match writes > dies_at {
                true => Err(patchmix::Error::Data { path: path.to_owned(), problem: "died".to_owned() }),
                false => write_atomic(path, bytes),
            }
        };
        add(run, (entry.clone(), bytes), PROTOCOL, 2, &mut write).is_ok()
    }

    fn new_run() -> (tempfile::TempDir, PathBuf) {
        let run = tempfile::tempdir().unwrap();
        fs::create_dir(checkpoint_folder(run.path())).unwrap();
        let folder = checkpoint_folder(run.path());
        (run, folder)
    }

    /// All that the manifest lists is whole, and so is the best checkpoint; its epoch.
    #[track_caller]
    fn best_of_whole(run: &Path, folder: &Path) -> u64 {
        let manifest = Manifest::read(run).unwrap();
        assert!(!manifest.is_rebuilt && !manifest.checkpoints.is_empty(), "{manifest:?}");
        for entry in manifest.checkpoints.iter().chain(&manifest.best) {
            entry.read(folder).unwrap();
        }
        Checkpoint::load(&folder.join(BEST)).unwrap();
        manifest.best.unwrap().epoch
    }

    #[test]
    fn only_a_measured_accuracy_is_the_best() {
        assert!(is_better(Some(0.0), None) && is_better(Some(2.0), Some(1.0)));
        assert!(!is_better(Some(1.0), Some(1.0)) && !is_better(None, None) && !is_better(None, Some(1.0)));
    }

    #[test]
    fn a_run_may_die_before_any_write() {
        let accuracies = [Some(20.0), Some(10.0), Some(30.0), None, Some(40.0)];
        let mut deaths = 0;
        for dies_at in 0..6 {
            let (run, folder) = new_run();
            assert!(added(run.path(), &checkpoint(1, Some(5.0), "first"), usize::MAX));
            let mut best = 1;
            for (epoch, knn_top1) in (2..).zip(accuracies) {
                // Another attempt has other bytes, as on a GPU.
                for attempt in ["first", "second"] {
                    let lived = added(run.path(), &checkpoint(epoch, knn_top1, attempt), dies_at);
                    deaths += usize::from(!lived);
                    let found = best_of_whole(run.path(), &folder);
                    assert!(found == best || found == epoch, "{found}");
                }
                assert!(added(run.path(), &checkpoint(epoch, knn_top1, "third"), usize::MAX));
                best = best_of_whole(run.path(), &folder);
                let saved = Checkpoint::load(&folder.join(BEST)).unwrap();
                assert_eq!(saved.metadata["epoch"], best.to_string(), "{BEST} is the one that is listed");
            }
            assert_eq!(best, 6);
            let kept: Vec<u64> =
                Manifest::read(run.path()).unwrap().checkpoints.iter().map(|entry| entry.epoch).collect();
            assert_eq!(kept, [6, 5]);
        }
        assert!(deaths > 20, "{deaths}");
    }

    #[test]
    fn only_checkpoints_that_the_run_named_are_removed() {
        let (run, folder) = new_run();
        let others = ["mine.safetensors", "epoch-1.safetensors", "epoch-00001-batch-000000.safetensors.txt"];
        others.iter().for_each(|name| fs::write(folder.join(name), "mine").unwrap());
        fs::create_dir(folder.join(file_name(9, 9))).unwrap();
        for epoch in 1..5 {
            assert!(added(run.path(), &checkpoint(epoch, None, "first"), usize::MAX));
        }
        assert!(others.iter().all(|name| folder.join(name).exists()) && folder.join(file_name(9, 9)).is_dir());
        let left = (1..5).map(|epoch| folder.join(file_name(epoch, 0)).exists());
        assert_eq!(left.collect::<Vec<_>>(), [false, false, true, true]);
    }

    #[test]
    fn checkpoints_that_no_manifest_listed_stay_until_newer_ones_are_kept() {
        let (run, folder) = new_run();
        let unlisted = |epoch: u64| {
            fs::write(folder.join(file_name(epoch, 0)), checkpoint(epoch, None, "other").1).unwrap();
        };
        let epochs = || (1..10).filter(|epoch| folder.join(file_name(*epoch, 0)).exists()).collect::<Vec<_>>();
        assert!(added(run.path(), &checkpoint(2, None, "first"), usize::MAX));
        unlisted(1);
        unlisted(9);
        assert_eq!(epochs(), [1, 2, 9]);
        assert!(added(run.path(), &checkpoint(3, None, "first"), usize::MAX));
        assert_eq!(epochs(), [2, 3, 9], "two newer ones than the first are kept");
        assert!(added(run.path(), &checkpoint(4, None, "first"), usize::MAX));
        assert_eq!(epochs(), [3, 4, 9]);
    }

    #[test]
    fn an_empty_manifest_beside_checkpoints_is_rebuilt() {
        let (run, folder) = new_run();
        for epoch in [1, 2] {
            assert!(added(run.path(), &checkpoint(epoch, Some(10.0), "first"), usize::MAX));
        }
        let path = Manifest::path(run.path());
        let before = fs::read(&path).unwrap();
        let mut text: serde_json::Value = serde_json::from_slice(&before).unwrap();
        text["checkpoints"] = serde_json::json!([]);
        for best in [text["best"].clone(), serde_json::Value::Null] {
            text["best"] = best;
            fs::write(&path, text.to_string()).unwrap();
            let manifest = Manifest::read(run.path()).unwrap();
            assert!(manifest.is_rebuilt);
            assert_eq!(json(&manifest).unwrap(), before);
        }
        [1, 2].iter().for_each(|epoch| fs::remove_file(folder.join(file_name(*epoch, 0))).unwrap());
        assert_eq!(Manifest::read(run.path()).unwrap().best.unwrap().file, BEST, "it may be all that is left");
    }

    #[test]
    fn a_lost_or_damaged_manifest_is_rebuilt_from_what_is_whole() {
        let (run, folder) = new_run();
        for (epoch, knn_top1) in (1..).zip([Some(10.0), Some(30.0), Some(20.0)]) {
            assert!(added(run.path(), &checkpoint(epoch, knn_top1, "first"), usize::MAX));
        }
        let path = Manifest::path(run.path());
        let before = fs::read(&path).unwrap();
        let damages = [None, Some(&b""[..]), Some(&before[..before.len() / 2]), Some(b"[1, 2]")];
        for damage in damages {
            match damage {
                None => fs::remove_file(&path).unwrap(),
                Some(bytes) => fs::write(&path, bytes).unwrap(),
            }
            let manifest = Manifest::read(run.path()).unwrap();
            assert!(manifest.is_rebuilt);
            assert_eq!(json(&manifest).unwrap(), before);
        }
        fs::write(folder.join(file_name(3, 0)), "half a checkpoint").unwrap();
        let epochs: Vec<u64> =
            Manifest::read(run.path()).unwrap().checkpoints.iter().map(|entry| entry.epoch).collect();
        assert_eq!(epochs, [2]);
        for name in [BEST, &file_name(2, 0)] {
            fs::write(folder.join(name), "").unwrap();
        }
        let error = Manifest::read(run.path()).unwrap_err().to_string();
        assert!(error.contains("no checkpoint is complete"), "{error}");
    }
}
