//! Runs that go on with other settings.

use std::fs;
use std::path::Path;

use patchmix::checkpoint::Checkpoint;
use serde_json::{Value, json};

use super::resume::{assert_same_end, checkpoints};
use super::{TINY, run, run_well};
use crate::support::{assert_refused, content, error_text, metrics, read_json};

fn config(run: &Path) -> Value {
    read_json(&run.join("config.json"))
}

/// A column of all rows.
fn column(run: &Path, name: &str) -> Vec<f64> {
    metrics(run).iter().map(|row| row.number(name)).collect()
}

#[test]
fn a_finished_run_is_extended_with_another_rate() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    run_well(folder, &format!("{TINY} --epochs 2 --out here"));
    let text = error_text(&run_well(folder, "--resume --out here --epochs 4 --lr 1e-3"));
    assert!(text.contains("changed  from epoch 3 on: --epochs 4 instead of 2; --lr 0.001 instead of 0.004"), "{text}");
    // After an epoch of warm-up, a third of the cosine from 0.001 / 16 (a batch is a sixteenth of 256) to 1e-6.
    assert!(text.contains("goes on at 4.7e-5, where it would have been 1.0e-6"), "{text}");
    let run = folder.join("here");
    assert_eq!(column(&run, "step"), [4.0, 8.0, 12.0, 16.0]);
    let changed = json!({ "epochs": { "from": 2, "to": 4 }, "lr": { "from": 0.004, "to": 0.001 } });
    assert_eq!(config(&run)["history"], json!([{ "step": 8, "epoch": 2, "changed": changed }]));
    assert_eq!((config(&run)["epochs"].as_u64(), config(&run)["lr"].as_f64()), (Some(4), Some(0.001)));

    // From there on, the schedules are those of a run that had the settings from the beginning.
    run_well(folder, &format!("{TINY} --epochs 4 --lr 1e-3 --out other"));
    for rate in ["lr", "weight_decay"] {
        assert_eq!(column(&run, rate)[2..], column(&folder.join("other"), rate)[2..], "{rate}");
    }
    // A later change is a further entry; what stays the same is none, and neither is where a run is computed.
    run_well(folder, "--resume --out here --keep 3 --epochs 4");
    assert_eq!(config(&run)["history"].as_array().unwrap().len(), 1);
    run_well(folder, "--resume --out here --epochs 5");
    assert_eq!(config(&run)["history"][1]["changed"], json!({ "epochs": { "from": 4, "to": 5 } }));
}

#[test]
fn a_run_that_changed_resumes_to_the_bit() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let changed = "--epochs 4 --lr 1e-3 --batch-size 8 --groups 4 --local-crops 1 --local-size 16 \
                   --local-max-scale 0.5 --temperature 0.1 --momentum-encoder 0.95";
    for out in ["straight", "stopped"] {
        run_well(folder, &format!("{TINY} --momentum-encoder 0.9 --epochs 2 --stop-after 6 --out {out}"));
    }
    run_well(folder, &format!("--resume --out straight {changed}"));
    run_well(folder, &format!("--resume --out stopped {changed} --stop-after 7"));
    run_well(folder, "--resume --out stopped");
    assert_same_end(&folder.join("straight"), &folder.join("stopped"));
    assert_eq!(config(&folder.join("straight")), config(&folder.join("stopped")));
}

/// 64 images: 4 steps of 16 an epoch. After 6, half of the images of the second epoch are done.
#[test]
fn batches_of_another_size_go_on_where_the_images_are() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    for (out, size, steps, note) in [
        ("smaller", 8, [4.0, 10.0, 18.0], None),
        ("larger", 32, [4.0, 7.0, 9.0], None),
        ("uneven", 20, [4.0, 7.0, 10.0], Some("batches of 20 begin 8 images later")),
    ] {
        run_well(folder, &format!("{TINY} --epochs 3 --stop-after 6 --out {out}"));
        let text = error_text(&run_well(folder, &format!("--resume --out {out} --batch-size {size}")));
        assert_eq!(column(&folder.join(out), "step"), steps, "{out}");
        assert_eq!(text.contains("note: batches"), note.is_some(), "{text}");
        assert!(text.contains(note.unwrap_or_default()), "{text}");
    }
}

/// Half of the second epoch is trained with other terms, weights or forms: its row tells of the other half alone.
#[test]
fn the_averages_of_an_epoch_are_those_of_one_loss() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    run_well(folder, &format!("{TINY} --epochs 2 --stop-after 6 --loss-weights mix-to-mix=0 --out here"));
    let text = error_text(&run_well(folder, "--resume --out here --loss-weights mix-to-mix=0.5"));
    assert!(text.contains("the averages of this epoch begin here"), "{text}");
    let row = &metrics(&folder.join("here"))[1];
    let [loss, plain, one, other] =
        ["loss", "origin_to_origin", "mix_to_origin", "mix_to_mix"].map(|name| row.number(name));
    assert!((loss - plain - (one + other) / 2.0).abs() < 1e-5, "{row:?}");
}

/// A checkpoint says by which size its batches are counted. One of an earlier version does not: its size is the one
/// with which the run began.
#[test]
fn an_earlier_checkpoint_is_not_read_by_the_size_of_later_batches() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    for (out, is_of_earlier_version) in [("own", false), ("earlier", true)] {
        let run = folder.join(out);
        run_well(folder, &format!("{TINY} --epochs 3 --stop-after 6 --out {out}"));
        if is_of_earlier_version {
            let path = checkpoints(&run)[0].clone();
            let mut checkpoint = Checkpoint::load(&path).unwrap();
            for name in ["step", "batch_size"] {
                assert!(checkpoint.metadata.remove(name).is_some(), "{name}");
            }
            checkpoint.save(&path).unwrap();
            fs::remove_file(run.join("checkpoints/manifest.json")).unwrap(); // it is rebuilt
        }
        run_well(folder, &format!("--resume --out {out} --batch-size 8 --stop-after 1"));
        fs::remove_file(&checkpoints(&run)[0]).unwrap();
        run_well(folder, &format!("--resume --out {out}"));
        assert_eq!(column(&run, "step"), [4.0, 10.0, 18.0], "{out}");
    }
}

#[test]
fn what_a_run_keeps_is_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    run_well(folder, &format!("{TINY} --epochs 2 --out here"));
    let before = content(folder);
    for (option, named) in [
        ("--width 24", "which a run keeps"),
        ("--patch-size 4", "which a run keeps"),
        ("--hidden 24", "--init here"),
        ("--momentum-encoder 0.9", "--momentum-encoder 0.9 differs from the run's off"),
        ("--seed 7", "which a run keeps"),
        ("--limit 32", "which a run keeps"),
        ("--epochs 1", "the run is in epoch 2, which is the least"),
        ("--batch-size 128", "64 training images"),
    ] {
        assert_refused(option, &run(folder, &format!("--resume --out here {option}")), &[option, named]);
        assert_eq!(content(folder), before, "{option}: files were changed");
    }
}
