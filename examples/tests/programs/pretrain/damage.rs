//! A run whose files were lost, cut or edited goes on, and says what it lacks.

use std::fs;
use std::path::Path;

use super::resume::{assert_same_checkpoint, assert_same_end, checkpoints};
use super::{TINY, run_well};
use crate::support::{command_in, error_text, metrics, read_json};

/// A run of four epochs, and the same stopped in the third in the folder `here`.
fn stopped() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let options = format!("{TINY} --epochs 4 --knn-every 1");
    run_well(folder.path(), &format!("{options} --out straight"));
    run_well(folder.path(), &format!("{options} --stop-after 10 --out here"));
    folder
}

/// Resumes the run, which must succeed; what it says.
#[track_caller]
fn resumed(folder: &Path) -> String {
    error_text(&run_well(folder, "--resume --out here"))
}

#[test]
fn a_damaged_table_of_metrics_costs_its_rows_only() {
    let gone: fn(&Path) = |path| fs::remove_file(path).unwrap();
    let emptied: fn(&Path) = |path| fs::write(path, "").unwrap();
    let cut: fn(&Path) = |path| {
        let text = fs::read_to_string(path).unwrap();
        fs::write(path, &text[..text.len() - 9]).unwrap();
    };
    for (damage, epochs) in [(gone, [3, 4].as_slice()), (emptied, &[3, 4]), (cut, &[1, 3, 4])] {
        let folder = stopped();
        let folder = folder.path();
        damage(&folder.join("here/metrics.csv"));
        let text = resumed(folder);
        assert!(text.contains("metrics.csv: ") && text.contains("of the 2 epochs done"), "{text}");
        let (ours, theirs) = (metrics(&folder.join("here")), metrics(&folder.join("straight")));
        let theirs: Vec<_> = epochs.iter().map(|epoch| theirs[epoch - 1].clone()).collect();
        assert_eq!(ours, theirs);
        assert_same_checkpoint(&checkpoints(&folder.join("here"))[0], &checkpoints(&folder.join("straight"))[0]);
    }
}

#[test]
fn a_foreign_column_of_metrics_is_named() {
    let folder = stopped();
    let path = folder.path().join("here/metrics.csv");
    let text = fs::read_to_string(&path).unwrap();
    let noted: String =
        text.lines().zip(["note", "good", "bad"]).map(|(line, note)| format!("{line},{note}\n")).collect();
    fs::write(&path, &noted).unwrap();
    let said = resumed(folder.path());
    assert!(said.contains("metrics.csv: ") && said.contains("(note)"), "{said}");
    assert_eq!(metrics(&folder.path().join("here")).len(), 4);
    assert_eq!(fs::read_to_string(folder.path().join("here/metrics.csv.damaged")).unwrap(), noted);
}

#[test]
fn a_lost_or_damaged_manifest_is_rebuilt() {
    for damage in ["", "{", "[]", r#"{"checkpoints":[],"best":null}"#] {
        let folder = stopped();
        let folder = folder.path();
        let path = folder.join("here/checkpoints/manifest.json");
        let before = read_json(&path);
        match damage {
            "" => fs::remove_file(&path).unwrap(),
            damage => fs::write(&path, damage).unwrap(),
        }
        // Whoever only reads it changes nothing.
        let evaluation = "knn --checkpoint here --best --device cpu --threads 1";
        let output = command_in(folder, "evaluate", evaluation).output().unwrap();
        assert!(output.status.success(), "{}", error_text(&output));
        let output = run_well(folder, "--resume --stop-after 1 --out here");
        let text = error_text(&output);
        assert!(text.contains("manifest.json: ") && text.contains("rebuilt from 3 whole checkpoints"), "{text}");
        assert!(text.contains("resuming from here/checkpoints/epoch-00002-batch-000002"), "{text}");
        assert_eq!(read_json(&path)["best"], before["best"]);
        assert!(!resumed(folder).contains("rebuilt"));
        assert_same_end(&folder.join("straight"), &folder.join("here"));
    }
}

/// Valid, and written for other checkpoints.
#[test]
fn a_manifest_with_other_checksums_is_rebuilt() {
    let folder = stopped();
    let folder = folder.path();
    let path = folder.join("here/checkpoints/manifest.json");
    let (before, mut other) = (read_json(&path), read_json(&path));
    let zeros = "0".repeat(64);
    other["checkpoints"].as_array_mut().unwrap().iter_mut().for_each(|entry| entry["sha256"] = zeros.clone().into());
    other["best"]["sha256"] = zeros.into();
    fs::write(&path, other.to_string()).unwrap();
    let text = error_text(&run_well(folder, "--resume --stop-after 1 --out here"));
    assert!(text.contains("manifest.json: no checkpoint is as it says; rebuilt from 3 whole checkpoints"), "{text}");
    assert!(text.contains("resuming from here/checkpoints/epoch-00002-batch-000002"), "{text}");
    assert_eq!(read_json(&path)["best"], before["best"]);
    resumed(folder);
    assert_same_end(&folder.join("straight"), &folder.join("here"));
}

#[test]
fn the_best_checkpoint_is_the_last_resort() {
    let folder = stopped();
    let folder = folder.path();
    checkpoints(&folder.join("here")).iter().for_each(|path| fs::write(path, "damaged").unwrap());
    let text = resumed(folder);
    assert!(text.matches("skipped: ").count() == 2 && text.contains("resuming from here/checkpoints/best"), "{text}");
    assert_same_end(&folder.join("straight"), &folder.join("here"));
}

#[test]
fn a_lost_summary_sets_no_accuracies_aside() {
    let folder = stopped();
    let folder = folder.path();
    fs::write(folder.join("here/summary.json"), "{").unwrap();
    let text = resumed(folder);
    assert!(text.contains("summary.json is missing or damaged"), "{text}");
    assert_same_end(&folder.join("straight"), &folder.join("here"));
    let [ours, theirs] = ["here", "straight"].map(|run| read_json(&folder.join(run).join("summary.json")));
    assert_eq!(ours, theirs);
}

#[test]
fn only_what_the_run_named_is_cleaned_up() {
    let folder = stopped();
    let folder = folder.path();
    let here = folder.join("here");
    let own = [
        "metrics.csv.77-0.partial",
        "checkpoints/manifest.json.77-1.partial",
        "checkpoints/epoch-00000-batch-000001.safetensors",
        "checkpoints/epoch-00009-batch-000000.safetensors.77-2.partial",
    ];
    let others = ["notes.partial", "checkpoints/mine.safetensors", "checkpoints/mine.safetensors.77-0.partial"];
    own.iter().chain(&others).for_each(|name| fs::write(here.join(name), "bytes").unwrap());
    resumed(folder);
    let left: Vec<&&str> = own.iter().filter(|name| here.join(name).exists()).collect();
    assert!(left.is_empty(), "{left:?}");
    assert!(others.iter().all(|name| here.join(name).exists()));
    assert_same_end(&folder.join("straight"), &here);
}

/// Pictures and TensorBoard's events are words, too.
#[test]
fn a_picture_that_cannot_be_written_ends_no_run() {
    let folder = stopped();
    let folder = folder.path();
    fs::remove_file(folder.join("here/curves.png")).unwrap();
    fs::create_dir(folder.join("here/curves.png")).unwrap();
    fs::remove_file(folder.join("here/mix.png")).unwrap();
    fs::create_dir(folder.join("here/mix.png")).unwrap();
    let text = resumed(folder);
    assert!(text.contains("warning: here/curves.png: is not a file; the run goes on without it"), "{text}");
    assert_same_end(&folder.join("straight"), &folder.join("here"));
}

/// The epoch whose row cannot be written is saved before the run ends.
#[test]
fn a_row_that_cannot_be_written_costs_no_epoch() {
    let folder = stopped();
    let folder = folder.path();
    fs::remove_file(folder.join("here/metrics.csv")).unwrap();
    fs::create_dir(folder.join("here/metrics.csv")).unwrap();
    let output = super::run(folder, "--resume --out here");
    let text = error_text(&output);
    assert!(!output.status.success() && text.contains("error: here/metrics.csv: is not a file"), "{text}");
    assert!(checkpoints(&folder.join("here"))[0].ends_with("epoch-00003-batch-000000.safetensors"));
}
