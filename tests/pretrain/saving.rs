//! Which epochs are saved, and what happens where one cannot be.

use std::fs;
use std::path::Path;

use super::resume::{assert_same_end, checkpoints};
use super::{TINY, metrics, run_well};

/// The epochs of the checkpoints that are kept, newest first.
fn saved_epochs(run: &Path) -> Vec<u64> {
    let name = |path: &Path| path.file_name().unwrap().to_str().unwrap().to_owned();
    checkpoints(run).iter().map(|path| name(path)["epoch-".len()..][..5].parse().unwrap()).collect()
}

#[test]
fn every_so_many_epochs_are_saved_and_a_run_goes_on_from_any() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    // kNN is measured at the end alone.
    let options = format!("{TINY} --epochs 7 --knn-every 7 --keep 9");
    run_well(folder, &format!("{options} --out straight"));
    assert_eq!(saved_epochs(&folder.join("straight")), [7, 6, 5, 4, 3, 2, 1]);
    run_well(folder, &format!("{options} --save-epochs 3 --out here"));
    assert_eq!(saved_epochs(&folder.join("here")), [7, 6, 3]);
    assert_same_end(&folder.join("straight"), &folder.join("here"));

    // As if the run had died in its fifth epoch. From here on, other epochs are saved.
    checkpoints(&folder.join("here"))[..2].iter().for_each(|path| fs::remove_file(path).unwrap());
    let output = run_well(folder, "--resume --save-epochs 5 --out here");
    assert!(String::from_utf8(output.stderr).unwrap().contains("going on from here/checkpoints/epoch-00003"));
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
    for (row, epoch) in metrics(&run)[1..].iter().zip(1..) {
        let accuracy: f64 = row[14].parse().unwrap();
        if accuracy > best || epoch == 6 {
            expected.insert(0, epoch);
        }
        best = best.max(accuracy);
    }
    assert_eq!(saved_epochs(&run), expected);
    assert!(expected.contains(&1), "the first is the best so far");
}

/// No space left for the second epoch's checkpoint: a device that is always full stands in for its file.
#[cfg(target_os = "linux")]
#[test]
fn a_checkpoint_that_cannot_be_written_ends_the_run_before_the_next_is() {
    use std::os::unix::fs::symlink;

    use super::run;

    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    run_well(folder, &format!("{TINY} --epochs 40 --stop-after 5 --out here"));
    let checkpoints = folder.join("here/checkpoints");
    for options in ["", "--stop-after 4"] {
        symlink("/dev/full", checkpoints.join("epoch-00002-batch-000000.safetensors.partial")).unwrap();
        let output = run(folder, &format!("--resume --out here {options}"));
        let said = String::from_utf8(output.stderr).unwrap();
        let errors: Vec<&str> = said.lines().filter(|line| line.contains("error")).collect();
        assert!(!output.status.success() && errors.len() == 1, "{said}");
        assert!(errors[0].contains("epoch-00002-batch-000000") && errors[0].contains("No space left"), "{said}");
        assert!(!said.contains("saved; go on") && !said.contains("finished"), "{said}");
        assert_eq!(saved_epochs(&folder.join("here")), [1, 1], "at the end of the first epoch, and where it stopped");
    }
}

/// Where the next checkpoint is many epochs away, the run does not train them in vain.
#[cfg(target_os = "linux")]
#[test]
fn a_checkpoint_that_could_not_be_written_ends_the_run_long_before_the_next_is_due() {
    use std::os::unix::fs::symlink;

    use super::run;

    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let seldom = "--epochs 400 --save-epochs 1000 --save-every 80 --knn-every 1000";
    run_well(folder, &format!("{TINY} {seldom} --stop-after 70 --out here"));
    symlink("/dev/full", folder.join("here/checkpoints/epoch-00019-batch-000004.safetensors.partial")).unwrap();
    let output = run(folder, "--resume --out here");
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success() && said.contains("epoch-00019-batch-000004"), "{said}");
    let epochs = metrics(&folder.join("here")).len() - 1;
    assert!((20..39).contains(&epochs), "the next is due at the end of epoch 40; {epochs} were trained");
}

/// A process may take less memory than the weights need.
#[cfg(target_os = "linux")]
#[test]
fn out_of_memory_is_one_line_that_says_what_helps() {
    use std::process::{Command, Stdio};

    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let error = |options: &str| {
        let script = format!("ulimit -v 13000000; exec \"$0\" {options}");
        let mut shell = Command::new("sh");
        shell.args(["-c", &script]).arg(&*super::PROGRAM).current_dir(folder).stdin(Stdio::null());
        let output = shell.output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success() && said.lines().count() == 1, "{said}");
        said
    };
    // Two matrices of 14.4 GB.
    let begun = error(&TINY.replace("--hidden 16", "--hidden 60000"));
    let advice = "error: out of memory at --batch-size 16; a larger --accumulate (now 1) computes the same with less, \
                  or take a smaller --batch-size (";
    assert!(begun.starts_with(advice) && begun.contains("tried to allocate 14400000000 bytes"), "{begun}");

    // A run that goes on cannot change them.
    run_well(folder, &format!("{TINY} --epochs 1 --out here"));
    let config = folder.join("here/config.json");
    let larger = fs::read_to_string(&config).unwrap().replace("\"hidden\": 16", "\"hidden\": 60000");
    fs::write(&config, larger).unwrap();
    let going_on = error("--resume --out here");
    for words in ["--batch-size 16 and --accumulate 1, which a run keeps", "a GPU with more memory", "a new run"] {
        assert!(going_on.contains(words), "{going_on}");
    }
}
