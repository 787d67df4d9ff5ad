//! Epochs that are saved, and the end of a run that cannot save one.

use std::fs;
use std::path::Path;

use super::resume::{assert_same_end, checkpoints};
use super::{TINY, run, run_well};
use crate::support::{error_text, metrics};

/// The epochs of the checkpoints that are kept, newest first.
fn saved_epochs(run: &Path) -> Vec<u64> {
    let name = |path: &Path| path.file_name().unwrap().to_str().unwrap().to_owned();
    checkpoints(run).iter().map(|path| name(path)["epoch-".len()..][..5].parse().unwrap()).collect()
}

#[test]
fn every_so_many_epochs_are_saved_and_a_run_goes_on_from_any() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    // kNN is measured only at the end.
    let options = format!("{TINY} --epochs 7 --knn-every 7 --keep 9");
    run_well(folder, &format!("{options} --out straight"));
    assert_eq!(saved_epochs(&folder.join("straight")), [7, 6, 5, 4, 3, 2, 1]);
    run_well(folder, &format!("{options} --save-epochs 3 --out here"));
    assert_eq!(saved_epochs(&folder.join("here")), [7, 6, 3]);
    assert_same_end(&folder.join("straight"), &folder.join("here"));

    // As if the run had died in its fifth epoch. From here on, other epochs are saved.
    checkpoints(&folder.join("here"))[..2].iter().for_each(|path| fs::remove_file(path).unwrap());
    let output = run_well(folder, "--resume --save-epochs 5 --out here");
    let text = error_text(&output);
    assert!(text.contains("resuming from here/checkpoints/epoch-00003"), "{text}");
    assert_eq!(saved_epochs(&folder.join("here")), [7, 5, 3]);
    assert_same_end(&folder.join("straight"), &folder.join("here"));
}

#[test]
fn the_best_epoch_so_far_is_saved_though_it_is_not_due() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    run_well(folder, &format!("{TINY} --epochs 6 --knn-every 1 --save-epochs 100 --keep 9 --out here"));
    let run = folder.join("here");
    let (mut best, mut expected) = (f64::NEG_INFINITY, Vec::new());
    for (row, epoch) in metrics(&run).iter().zip(1..) {
        let accuracy = row.number("knn_top1");
        if accuracy > best || epoch == 6 {
            expected.insert(0, epoch);
        }
        best = best.max(accuracy);
    }
    assert_eq!(saved_epochs(&run), expected);
    assert!(expected.contains(&1), "the first is the best so far");
}

/// A folder stands where the second epoch's checkpoint goes.
#[test]
fn a_checkpoint_that_cannot_be_written_ends_the_run_before_the_next_is() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    run_well(folder, &format!("{TINY} --epochs 40 --stop-after 5 --out here"));
    let in_the_way = folder.join("here/checkpoints/epoch-00002-batch-000000.safetensors");
    fs::create_dir(&in_the_way).unwrap();
    for options in ["", "--stop-after 4"] {
        let output = run(folder, &format!("--resume --out here {options}"));
        let text = error_text(&output);
        let errors: Vec<&str> = text.lines().filter(|line| line.contains("error")).collect();
        assert!(!output.status.success() && errors.len() == 1, "{text}");
        assert!(errors[0].contains("epoch-00002-batch-000000") && errors[0].contains("is not a file"), "{text}");
        assert!(!text.contains("saved; resume") && !text.contains("finished"), "{text}");
        let saved = [2, 1, 1]; // the folder, the end of the first epoch, and where it stopped
        assert_eq!(saved_epochs(&folder.join("here")), saved);
    }
}

/// The run does not train for nothing until the next checkpoint, many epochs later.
#[test]
fn a_checkpoint_that_could_not_be_written_ends_the_run_long_before_the_next_is_due() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let seldom = "--epochs 400 --save-epochs 1000 --save-every 80 --knn-every 1000";
    run_well(folder, &format!("{TINY} {seldom} --stop-after 70 --out here"));
    fs::create_dir(folder.join("here/checkpoints/epoch-00019-batch-000004.safetensors")).unwrap();
    let output = run(folder, "--resume --out here");
    let text = error_text(&output);
    assert!(!output.status.success() && text.contains("epoch-00019-batch-000004"), "{text}");
    let epochs = metrics(&folder.join("here")).len();
    assert!((20..39).contains(&epochs), "the next is due at the end of epoch 40; {epochs} were trained");
}

/// The process may use less memory than the weights need.
#[cfg(target_os = "linux")]
#[test]
fn out_of_memory_is_one_line_that_says_what_helps() {
    use std::process::{Command, Stdio};

    use crate::support::program;

    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let error = |options: &str| {
        let script = format!("ulimit -v 13000000; exec \"$0\" {options}");
        let mut shell = Command::new("sh");
        shell.args(["-c", &script]).arg(program("pretrain_cifar")).current_dir(folder).stdin(Stdio::null());
        let output = shell.output().unwrap();
        let text = error_text(&output);
        assert!(!output.status.success() && text.lines().count() == 1, "{text}");
        text
    };
    // Two matrices of 14.4 GB.
    let started = error(&TINY.replace("--hidden 16", "--hidden 60000"));
    let advice = "error: out of memory at --batch-size 16; a larger --accumulate (now 1) computes the same with less, \
                  or take a smaller --batch-size (";
    assert!(started.starts_with(advice) && started.contains("tried to allocate 14400000000 bytes"), "{started}");

    // A run that resumes may change them.
    run_well(folder, &format!("{TINY} --epochs 1 --out here"));
    let config = folder.join("here/config.json");
    let larger = fs::read_to_string(&config).unwrap().replace("\"hidden\": 16", "\"hidden\": 60000");
    fs::write(&config, larger).unwrap();
    let resumed = error("--resume --out here");
    assert!(resumed.starts_with(advice), "{resumed}");
}
