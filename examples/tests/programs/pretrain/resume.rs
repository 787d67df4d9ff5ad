//! A run that is stopped and goes on ends as if it had never been stopped.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use patchmix::checkpoint::Checkpoint;

use super::{TINY, command, run_well};
use crate::support::{content, error_text, metrics};

/// Checkpoints, newest first.
pub(super) fn checkpoints(run: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(run.join("checkpoints")).unwrap().map(|entry| entry.unwrap().path());
    let mut paths: Vec<PathBuf> =
        entries.filter(|path| path.file_name().unwrap().to_str().unwrap().starts_with("epoch")).collect();
    paths.sort();
    paths.reverse();
    paths
}

/// Both runs ended with the same bits: every tensor of the last checkpoint, and every number of the metrics.
#[track_caller]
pub(super) fn assert_same_end(run: &Path, other: &Path) {
    assert_eq!(metrics(run), metrics(other));
    assert_same_checkpoint(&checkpoints(run)[0], &checkpoints(other)[0]);
}

/// Two checkpoints have the same bits.
#[track_caller]
pub(super) fn assert_same_checkpoint(path: &Path, other: &Path) {
    let (ours, theirs) = (Checkpoint::load(path).unwrap(), Checkpoint::load(other).unwrap());
    assert_eq!(ours.metadata, theirs.metadata);
    assert_eq!(ours.tensors.len(), theirs.tensors.len());
    for (name, tensor) in &ours.tensors {
        assert_eq!(tensor, &theirs.tensors[name], "{name}");
    }
}

/// Starts a run, sends it a signal after an epoch, and expects it to save and to print how to go on.
fn interrupt_after(folder: &Path, options: &str, signal: &str) {
    let mut child = command(folder, options).stderr(Stdio::piped()).spawn().unwrap();
    let mut stderr = BufReader::new(child.stderr.take().unwrap()).lines();
    let line = stderr.by_ref().map(Result::unwrap).find(|line| line.starts_with("epoch"));
    assert!(line.is_some(), "the run ended before it was interrupted");
    let id = child.id().to_string();
    assert!(Command::new("kill").args([&format!("-{signal}"), &id]).status().unwrap().success());
    let rest: Vec<String> = stderr.map(Result::unwrap).collect();
    let code = child.wait().unwrap().code();
    assert_eq!(code, Some(130), "{rest:?}");
    assert!(rest.iter().any(|line| line.contains("--resume --out")), "{rest:?}");
}

/// 6 epochs of 4 steps, stopped after 1, 4, 6, 11 and 23 of them: in the first epoch, at the end of one, in the middle,
/// in the last.
#[test]
fn a_run_in_two_parts_ends_as_the_undivided_one() {
    for momentum in ["off", "0.9"] {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        let options = format!("{TINY} --epochs 6 --knn-every 2 --momentum-encoder {momentum}");
        run_well(folder, &format!("{options} --out straight"));
        for steps in [1, 4, 6, 11, 23] {
            let out = format!("stopped-{steps}");
            let output = run_well(folder, &format!("{options} --stop-after {steps} --out {out}"));
            let text = error_text(&output);
            assert!(text.contains(&format!("--resume --out '{out}'")), "{text}");
            run_well(folder, &format!("--resume --out {out}"));
            assert_same_end(&folder.join("straight"), &folder.join(out));
        }
    }
}

#[test]
fn an_interrupted_run_ends_as_the_undisturbed_one() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let options = format!("{TINY} --epochs 8 --knn-every 2");
    run_well(folder, &format!("{options} --out straight"));
    for signal in ["INT", "TERM"] {
        interrupt_after(folder, &format!("{options} --out {signal}"), signal);
        run_well(folder, &format!("--resume --out {signal}"));
        assert_same_end(&folder.join("straight"), &folder.join(signal));
    }
}

#[test]
fn a_damaged_newest_checkpoint_is_skipped_and_named() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    run_well(folder, &format!("{TINY} --epochs 3 --out straight"));
    let cut: fn(&mut Vec<u8>) = |bytes| bytes.truncate(bytes.len() / 2);
    let turn_one_bit: fn(&mut Vec<u8>) = |bytes| *bytes.last_mut().unwrap() ^= 4;
    for (out, damage) in [("cut", cut), ("turned", turn_one_bit)] {
        run_well(folder, &format!("{TINY} --epochs 3 --out {out}"));
        let newest = checkpoints(&folder.join(out))[0].clone();
        let mut bytes = fs::read(&newest).unwrap();
        damage(&mut bytes);
        fs::write(&newest, bytes).unwrap();
        let output = run_well(folder, &format!("--resume --out {out}"));
        let text = error_text(&output);
        assert!(text.contains("skipped") && text.contains(newest.file_name().unwrap().to_str().unwrap()), "{text}");
        assert!(text.contains("resuming from"), "{text}");
        assert_same_end(&folder.join("straight"), &folder.join(out));
    }
}

#[test]
fn the_best_checkpoint_and_as_many_as_asked_for_are_kept() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    run_well(folder, &format!("{TINY} --epochs 4 --knn-every 1 --save-every 3 --keep 3 --out here"));
    let run = folder.join("here");
    let names = checkpoints(&run).into_iter().map(|path| path.file_stem().unwrap().to_str().unwrap().to_owned());
    // Saved at steps 3, 4, 6, 8, 9, 12, 12, 15, 16 of 4 steps an epoch.
    assert_eq!(
        names.collect::<Vec<_>>(),
        ["epoch-00004-batch-000000", "epoch-00003-batch-000003", "epoch-00003-batch-000000"]
    );
    let accuracies: Vec<f64> = metrics(&run).iter().map(|row| row.number("knn_top1")).collect();
    let best = accuracies.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let first_best = accuracies.iter().position(|&accuracy| accuracy == best).unwrap() + 1;
    let checkpoint = Checkpoint::load(&run.join("checkpoints/best.safetensors")).unwrap();
    assert_eq!(checkpoint.metadata["epoch"], first_best.to_string());
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
