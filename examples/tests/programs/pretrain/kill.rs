//! A run that is killed without warning loses no more than the steps since its last checkpoint.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use patchmix::checkpoint::Checkpoint;
use sha2::{Digest, Sha256};

use super::resume::{assert_same_end, checkpoints};
use super::{TINY, command, run_well};
use crate::support::read_json;

/// Kills in a row, each at another moment of a run that saves every step while the next one is computed: while a
/// checkpoint or the manifest is written, while pictures are drawn.
const KILLS: u32 = 20;

/// The first of them follow right after the first file that is written. They take few steps each, so that on the
/// fastest and on the busiest machine the run has a checkpoint and is far from its end.
const WHILE_SAVING: u32 = KILLS / 2;

/// Long enough for a step on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

#[test]
fn a_run_killed_twenty_times_ends_as_the_undisturbed_one() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let options = format!("{TINY} --epochs 80 --knn-every 8 --save-every 1 --momentum-encoder 0.9");
    run_well(folder, &format!("{options} --out straight"));

    let saved = folder.join("killed/checkpoints");
    let mut random = 0x2545_f491_4f6c_dd1d_u64;
    let mut killed = 0;
    while killed < KILLS {
        let before = names(&saved);
        let line = format!("{options} --resume-if-begun --out killed");
        let mut child = command(folder, &line).stderr(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
        // Until then it loads libtorch, which takes long on a busy machine and writes nothing.
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        assert!(lines.any(|line| line.unwrap().starts_with("images")), "it begins");
        let longest = if killed < WHILE_SAVING {
            await_new_file(&saved, &before, &mut child);
            20
        } else {
            1000
        };
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(killed.into());
        sleep(Duration::from_millis((random >> 33) % longest));
        if child.try_wait().unwrap().is_some() {
            break; // it finished first
        }
        child.kill().unwrap();
        child.wait().unwrap();
        assert_whole(&saved);
        killed += 1;
    }
    println!("survived {killed} kills of {KILLS}");
    assert!(killed >= WHILE_SAVING, "the run ended after {killed} kills: too short a run for this test");
    assert!(!checkpoints(&folder.join("killed")).is_empty(), "no kill came while it trained");
    run_well(folder, "--resume --out killed");
    assert_same_end(&folder.join("straight"), &folder.join("killed"));
    for entry in fs::read_dir(folder.join("killed")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|end| end == "png") {
            image::open(&path).unwrap();
        }
    }
}

/// All checkpoints that the manifest lists have the checksums that it says, and the best one can be read.
#[track_caller]
fn assert_whole(saved: &Path) {
    if !saved.join("manifest.json").exists() {
        return; // it was killed before its first checkpoint
    }
    let manifest = read_json(&saved.join("manifest.json"));
    let best = [&manifest["best"]].into_iter().filter(|best| !best.is_null());
    for entry in manifest["checkpoints"].as_array().unwrap().iter().chain(best) {
        let bytes = fs::read(saved.join(entry["file"].as_str().unwrap())).unwrap();
        let digest: String = Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(entry["sha256"], digest, "{entry}");
    }
    if saved.join("best.safetensors").exists() {
        Checkpoint::load(&saved.join("best.safetensors")).unwrap();
    }
}

/// The files in a folder; none if there is no such folder.
fn names(folder: &Path) -> BTreeSet<OsString> {
    let entries = fs::read_dir(folder).into_iter().flatten();
    entries.map(|entry| entry.unwrap().file_name()).collect()
}

/// Waits for a file in `folder` that was not there `before`, or for the end of the run.
#[track_caller]
fn await_new_file(folder: &Path, before: &BTreeSet<OsString>, child: &mut Child) {
    let started = Instant::now();
    while names(folder).is_subset(before) && child.try_wait().unwrap().is_none() {
        assert!(started.elapsed() < PATIENCE, "no checkpoint in {PATIENCE:?}");
        sleep(Duration::from_millis(1));
    }
}
