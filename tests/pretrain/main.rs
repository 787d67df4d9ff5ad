//! The example as its user meets it: what a run leaves behind, how it goes on, what it says to wrong input.
#![allow(clippy::unwrap_used, clippy::expect_used)] // a test may panic, helpers included

mod bad_input;
#[path = "../common/mod.rs"]
mod common;
mod export;
mod health;
mod image_files;
mod kill;
mod precision;
#[cfg(feature = "distributed")]
mod ranks;
mod resume;
mod saving;
mod tensorboard;

#[path = "../common/program.rs"]
mod program;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::LazyLock;

use program::{build_example, command_in};

static PROGRAM: LazyLock<PathBuf> = LazyLock::new(|| build_example("pretrain_cifar"));

/// A model that trains in a blink: 4 steps an epoch, dropping paths and mixing by two numbers of groups. In float32 on
/// the CPU, so that tests see the same numbers on every machine.
const TINY: &str = "--recipe quick --width 16 --depth 2 --heads 2 --patch-size 8 --hidden 16 --out-dim 8 --limit 64 \
                    --batch-size 16 --warmup-epochs 1 --drop-path 0.2 --groups 2,3 --mix-probability 0.8 --threads 1 \
                    --device cpu --precision f32";

/// The program with options as one would type them, in `folder`.
fn command(folder: &Path, options: &str) -> Command {
    command_in(folder, &PROGRAM, options)
}

fn run(folder: &Path, options: &str) -> Output {
    command(folder, options).output().unwrap()
}

#[track_caller]
fn run_well(folder: &Path, options: &str) -> Output {
    let output = run(folder, options);
    assert!(output.status.success(), "{options}: {}", String::from_utf8_lossy(&output.stderr));
    output
}

/// Every file below `folder` with its content.
fn content(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut files = BTreeMap::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                files.insert(path.clone(), fs::read(&path).unwrap());
            }
        }
    }
    files
}

/// The rows of `metrics.csv` without the two columns that are a matter of time.
fn metrics(run: &Path) -> Vec<Vec<String>> {
    let mut reader = csv::ReaderBuilder::new().has_headers(false).from_path(run.join("metrics.csv")).unwrap();
    let rows = reader.records().map(|row| row.unwrap().iter().map(str::to_owned).collect::<Vec<_>>());
    rows.map(|mut row| {
        assert_eq!(row.len(), 17);
        row.truncate(15);
        row
    })
    .collect()
}

#[test]
fn a_run_leaves_everything_that_is_promised() {
    let folder = tempfile::tempdir().unwrap();
    let output = run_well(folder.path(), &format!("{TINY} --epochs 2 --knn-every 1"));
    let run = folder.path().join("runs/builtin");
    for name in ["config.json", "metrics.csv", "summary.json", "mix.png", "curves.png"] {
        assert!(run.join(name).is_file(), "{name}");
    }
    for picture in ["mix.png", "curves.png"] {
        assert!(image::open(run.join(picture)).unwrap().width() > 500, "{picture}");
    }
    let metrics = metrics(&run);
    let header = "epoch step lr weight_decay loss origin_to_origin mix_to_origin mix_to_mix local_to_origin \
                  local_mix_to_origin gradient_norm feature_std skipped_steps broken_images knn_top1";
    assert_eq!(metrics[0].join(" "), header);
    assert_eq!(metrics.len(), 3);
    assert_eq!((metrics[2][0].as_str(), metrics[2][1].as_str()), ("2", "8"));
    let numbers = metrics[1..].iter().flatten().filter(|value| !value.is_empty());
    assert!(numbers.clone().all(|value| value.parse::<f64>().unwrap().is_finite()));
    assert_eq!(numbers.count(), 2 * 13, "the two columns of local views are empty");
    let entries = fs::read_dir(run.join("checkpoints")).unwrap().map(|entry| entry.unwrap().file_name());
    let mut checkpoints: Vec<String> = entries.map(|name| name.into_string().unwrap()).collect();
    checkpoints.sort();
    let newest = ["epoch-00001-batch-000000.safetensors", "epoch-00002-batch-000000.safetensors"];
    assert_eq!(checkpoints, ["best.safetensors", newest[0], newest[1], "manifest.json"]);
    let summary = String::from_utf8(output.stdout).unwrap();
    for said in ["loss", "raw pixels", "untrained encoder", "trained encoder", "runs/builtin"] {
        assert!(summary.contains(said), "{summary}");
    }
    // A second run without a name takes another folder.
    run_well(folder.path(), &format!("{TINY} --epochs 1"));
    assert!(folder.path().join("runs/builtin-2/metrics.csv").is_file());
}

#[test]
fn a_folder_that_holds_a_run_is_not_written_over() {
    let folder = tempfile::tempdir().unwrap();
    run_well(folder.path(), &format!("{TINY} --epochs 1 --out here"));
    let before = content(folder.path());
    let output = run(folder.path(), &format!("{TINY} --epochs 1 --out here"));
    assert!(!output.status.success());
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(error.contains("here holds a run already") && error.contains("--resume"), "{error}");
    assert_eq!(content(folder.path()), before);
}
