//! A run that another version began: its kNN accuracies, measured on other views of the images, are not compared with
//! those of this version.

use std::fs;
use std::path::Path;

use patchmix::checkpoint::Checkpoint;
use serde_json::Value;

use super::resume::{assert_same_checkpoint, checkpoints};
use super::{TINY, run_well};
use crate::support::{command_in, error_text, metrics, read_json};

/// An accuracy that no epoch here reaches, in place of all that were measured.
const BEFORE: f64 = 99.5;

fn edit_json(path: &Path, edit: impl FnOnce(&mut Value)) {
    let mut value = read_json(path);
    edit(&mut value);
    fs::write(path, value.to_string()).unwrap();
}

/// Brings the files of a run into the form of the version before.
fn make_old(run: &Path) {
    edit_json(&run.join("checkpoints/manifest.json"), |manifest| {
        manifest["best"]["knn_top1"] = BEFORE.into();
        let checkpoints = manifest["checkpoints"].as_array_mut().unwrap().len();
        let mut entries = vec!["/best".to_owned()];
        entries.extend((0..checkpoints).map(|index| format!("/checkpoints/{index}")));
        for entry in entries {
            assert!(manifest.pointer_mut(&entry).unwrap().as_object_mut().unwrap().remove("knn_protocol").is_some());
        }
    });
    edit_json(&run.join("summary.json"), |summary| {
        for (name, value) in summary.as_object_mut().unwrap().iter_mut() {
            if name.starts_with("knn_") && value.is_number() {
                *value = BEFORE.into();
            }
        }
        for name in ["knn_protocol", "knn_momentum"] {
            assert!(summary.as_object_mut().unwrap().remove(name).is_some());
        }
    });
    let text = fs::read_to_string(run.join("metrics.csv")).unwrap();
    let mut lines = text.lines().map(|line| line.split(',').collect::<Vec<_>>());
    let columns = lines.next().unwrap();
    let momentum = columns.iter().position(|column| *column == "knn_top1_momentum").unwrap();
    let knn = columns.iter().position(|column| *column == "knn_top1").unwrap();
    let before = BEFORE.to_string();
    let lines = std::iter::once(columns.clone()).chain(lines.map(|mut cells| {
        if !cells[knn].is_empty() {
            cells[knn] = &before;
        }
        cells
    }));
    let lines = lines.map(|mut cells| {
        cells.remove(momentum);
        cells.join(",") + "\n"
    });
    fs::write(run.join("metrics.csv"), lines.collect::<String>()).unwrap();
}

#[test]
fn accuracies_of_another_version_are_set_aside() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let options = format!("{TINY} --epochs 6 --knn-every 2 --momentum-encoder 0.9");
    run_well(folder, &format!("{options} --out straight"));
    run_well(folder, &format!("{options} --stop-after 17 --out old"));
    let (straight, old) = (folder.join("straight"), folder.join("old"));
    make_old(&old);
    let picture = command_in(folder, "pictures", "curves straight old --out both.png").output().unwrap();
    let note = "another version measured the kNN accuracy of old;";
    assert!(picture.status.success() && error_text(&picture).contains(note), "{}", error_text(&picture));

    // The first process that resumes moves the accuracies; the second has nothing left to move.
    let notes = ["move to the column knn_top1_before", "the next epoch that is measured becomes the best"];
    for (more, expected) in [(" --stop-after 1", [1, 1]), ("", [0, 1])] {
        let text = error_text(&run_well(folder, &format!("--resume --out old{more}")));
        let found = notes.map(|note| text.lines().filter(|line| line.contains(note)).count());
        assert_eq!(found, expected, "{text}");
    }

    // TensorBoard is told the same.
    let events = fs::read_dir(&old).unwrap().map(|entry| fs::read(entry.unwrap().path()));
    let moved = events.filter_map(Result::ok).filter(|bytes| {
        let contains = |text: &str| bytes.windows(text.len()).any(|window| window == text.as_bytes());
        contains("brain.Event:2") && contains("knn_top1_before")
    });
    assert_eq!(moved.count(), 1);

    // Weights do not depend on it.
    assert_same_checkpoint(&checkpoints(&straight)[0], &checkpoints(&old)[0]);
    let (undisturbed, rows) = (metrics(&straight), metrics(&old));
    for (epoch, (row, undisturbed)) in (1..).zip(rows.iter().zip(&undisturbed)) {
        let knn = ["knn_top1", "knn_top1_momentum", "knn_top1_before"].map(|column| row.text(column));
        let expected = match epoch {
            2 | 4 => ["", "", "99.5"],
            6 => [undisturbed.text("knn_top1"), undisturbed.text("knn_top1_momentum"), ""],
            _ => [""; 3],
        };
        assert_eq!(knn, expected, "epoch {epoch}");
        assert_eq!(row.text("loss"), undisturbed.text("loss"));
    }
    // Measured again, or for the first time.
    assert_eq!(read_json(&old.join("summary.json")), read_json(&straight.join("summary.json")));
    let best = Checkpoint::load(&old.join("checkpoints/best.safetensors")).unwrap();
    assert_eq!(best.metadata["epoch"], "6");
    let manifest = read_json(&old.join("checkpoints/manifest.json"));
    assert_eq!(manifest["best"]["knn_top1"].as_f64(), Some(rows[5].number("knn_top1_momentum")));
    assert_eq!(manifest["best"]["knn_protocol"], "shorter side resized to 36 px, center of 32 px");

    // From here on it is a run like any other.
    let text = error_text(&run_well(folder, "--resume --out old"));
    assert!(!text.contains("note:"), "{text}");
}

/// The last measurement of a finished run is repeated.
#[test]
fn a_finished_run_of_another_version_is_measured_again() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    run_well(folder, &format!("{TINY} --epochs 2 --knn-every 2 --momentum-encoder 0.9 --out here"));
    let run = folder.join("here");
    let summary = read_json(&run.join("summary.json"));
    make_old(&run);
    run_well(folder, "--resume --out here");
    assert_eq!(read_json(&run.join("summary.json")), summary);
    let rows = metrics(&run);
    assert_eq!((rows[1].number("knn_top1_before"), rows.len()), (BEFORE, 2));
}
