//! A run that is stopped and goes on ends as if it had never been stopped.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use patchmix::checkpoint::Checkpoint;

use super::{TINY, command, content, metrics, run, run_well};

/// Checkpoints, newest first.
fn checkpoints(run: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(run.join("checkpoints")).unwrap();
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths.reverse();
    paths
}

/// Both runs ended with the same bits: every tensor of the last checkpoint, and every number of the metrics.
#[track_caller]
fn assert_same_end(run: &Path, other: &Path) {
    assert_eq!(metrics(run), metrics(other));
    let load = |run: &Path| Checkpoint::load(&checkpoints(run)[0]).unwrap();
    let (ours, theirs) = (load(run), load(other));
    assert_eq!(ours.metadata, theirs.metadata);
    assert_eq!(ours.tensors.len(), theirs.tensors.len());
    for (name, tensor) in &ours.tensors {
        assert_eq!(tensor, &theirs.tensors[name], "{name}");
    }
}

/// Starts a run, interrupts it once `lines` epochs are done, and expects it to leave with a word on how to go on.
fn interrupt_after(folder: &Path, options: &str, lines: usize) {
    let mut child = command(folder, options).stderr(Stdio::piped()).spawn().unwrap();
    let mut stderr = BufReader::new(child.stderr.take().unwrap()).lines();
    for _ in 0..lines {
        let line = stderr.by_ref().map(Result::unwrap).find(|line| line.starts_with("epoch"));
        assert!(line.is_some(), "the run ended before it was interrupted");
    }
    let id = child.id().to_string();
    assert!(Command::new("kill").args(["-INT", &id]).status().unwrap().success());
    let rest: Vec<String> = stderr.map(Result::unwrap).collect();
    let code = child.wait().unwrap().code();
    assert_eq!(code, Some(130), "{rest:?}");
    assert!(rest.iter().any(|line| line.contains("--resume --out")), "{rest:?}");
}

#[test]
fn an_interrupted_run_ends_as_the_undisturbed_one() {
    for momentum in ["off", "0.9"] {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        let options = format!("{TINY} --epochs 6 --knn-every 2 --momentum-encoder {momentum}");
        run_well(folder, &format!("{options} --out straight"));
        interrupt_after(folder, &format!("{options} --out stopped"), 1);
        run_well(folder, "--resume --out stopped");
        assert_same_end(&folder.join("straight"), &folder.join("stopped"));
    }
}

#[test]
fn a_damaged_newest_checkpoint_is_skipped_and_named() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    run_well(folder, &format!("{TINY} --epochs 3 --out straight"));
    run_well(folder, &format!("{TINY} --epochs 3 --out damaged"));
    let newest = checkpoints(&folder.join("damaged"))[0].clone();
    let bytes = fs::read(&newest).unwrap();
    fs::write(&newest, &bytes[..bytes.len() / 2]).unwrap();
    let output = run_well(folder, "--resume --out damaged");
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("skipped") && said.contains(newest.file_name().unwrap().to_str().unwrap()), "{said}");
    assert!(said.contains("going on from"), "{said}");
    assert_same_end(&folder.join("straight"), &folder.join("damaged"));
}

#[test]
fn a_finished_run_that_goes_on_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    run_well(folder, &format!("{TINY} --epochs 1 --out here"));
    let before = content(&folder.join("here"));
    run_well(folder, "--resume --out here");
    assert_eq!(content(&folder.join("here")), before);
}

#[test]
fn what_decides_the_numbers_cannot_change_on_the_way() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    run_well(folder, &format!("{TINY} --epochs 1 --out here"));
    let before = content(folder);
    let output = run(folder, "--resume --out here --epochs 5");
    assert!(!output.status.success());
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(error.contains("--epochs 5"), "{error}");
    assert_eq!(content(folder), before);
}
