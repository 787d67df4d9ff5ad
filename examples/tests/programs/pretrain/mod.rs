//! `pretrain_cifar` and `pretrain_imagenet`: the files of a run, how it goes on, what wrong input is told.

mod ablations;
mod bad_input;
mod changes;
mod config;
mod damage;
mod export;
mod health;
mod help;
mod image_files;
mod init;
mod kill;
mod one_process;
mod precision;
mod protocol;
#[cfg(feature = "distributed")]
mod ranks;
mod resume;
mod saving;
mod shards;
mod speech;
mod stl10;
mod tensorboard;
mod tiny_imagenet;
mod unlabeled;
mod watching;

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use crate::support::{command_in, content, error_text, metrics, read_metrics};

/// A model that trains in a blink: 4 steps an epoch, with drop path and two numbers of groups. In float32 on the CPU,
/// so that tests see the same numbers on every machine.
pub(crate) const TINY: &str = "--recipe quick --width 16 --depth 2 --heads 2 --patch-size 8 --hidden 16 --out-dim 8 \
                               --limit 64 --batch-size 16 --warmup-epochs 1 --drop-path 0.2 --groups 2,3 \
                               --mix-probability 0.8 --threads 1 --device cpu --precision f32";

fn command(folder: &Path, options: &str) -> Command {
    command_in(folder, "pretrain_cifar", options)
}

fn run(folder: &Path, options: &str) -> Output {
    command(folder, options).output().unwrap()
}

/// A run that must succeed.
#[track_caller]
pub(crate) fn run_well(folder: &Path, options: &str) -> Output {
    let output = run(folder, options);
    assert!(output.status.success(), "{options}: {}", error_text(&output));
    output
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
    let columns = "epoch step lr weight_decay loss origin_to_origin mix_to_origin mix_to_mix local_to_origin \
                   local_mix_to_origin gradient_norm feature_std skipped_steps broken_images knn_top1 \
                   alignment uniformity effective_rank images_per_second data_wait_share";
    assert_eq!(read_metrics(&run).0.join(" "), columns);
    let rows = metrics(&run);
    assert_eq!(rows.len(), 2);
    assert_eq!((rows[1].text("epoch"), rows[1].text("step")), ("2", "8"));
    for row in rows {
        assert!(row.numbers().all(|(_, number)| number.is_finite()), "{row:?}");
        assert_eq!(row.numbers().count(), 16, "the two columns of local views are empty: {row:?}");
        assert_eq!((row.text("local_to_origin"), row.text("local_mix_to_origin")), ("", ""));
    }
    let entries = fs::read_dir(run.join("checkpoints")).unwrap().map(|entry| entry.unwrap().file_name());
    let mut checkpoints: Vec<String> = entries.map(|name| name.into_string().unwrap()).collect();
    checkpoints.sort();
    let newest = ["epoch-00001-batch-000000.safetensors", "epoch-00002-batch-000000.safetensors"];
    assert_eq!(checkpoints, ["best.safetensors", newest[0], newest[1], "manifest.json"]);
    let summary = String::from_utf8(output.stdout).unwrap();
    for words in ["loss", "raw pixels", "untrained encoder", "trained encoder", "time   training", "runs/builtin"] {
        assert!(summary.contains(words), "{summary}");
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
    let error = error_text(&output);
    assert!(error.contains("here holds a run already") && error.contains("--resume"), "{error}");
    assert_eq!(content(folder.path()), before);
}
