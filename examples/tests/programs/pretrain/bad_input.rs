//! Wrong input: one clear line that names the thing, an exit code that says so, and nothing written.

use std::fs;
use std::path::Path;

use super::{TINY, run, run_well};
use crate::support::{self, content, error_text};

/// Runs with `options`, and expects one line of error with all of `named` in it, and no file changed.
#[track_caller]
fn assert_refused(folder: &Path, options: &str, named: &[&str]) {
    let before = content(folder);
    support::assert_refused(options, &run(folder, options), named);
    assert_eq!(content(folder), before, "{options}: files were changed");
}

#[test]
fn numbers_that_make_no_mix_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    for (options, named) in [
        ("--groups 0", vec!["--groups 0"]),
        ("--groups 65", vec!["--groups 65", "64 patches"]),
        ("--image-size 30", vec!["30 x 30 px", "patches of 4 px"]),
        ("--batch-size 3 --groups 4", vec!["--batch-size 3", "4 groups"]),
        ("--batch-size 100000", vec!["--batch-size 100000", "4096"]),
        ("--recipe quick --limit 20 --batch-size 64", vec!["--batch-size 64", "20"]),
        ("--device cuda:99", vec!["--device cuda:99"]),
        ("--device tpu", vec!["--device tpu"]),
        ("--device mps", vec!["--device mps", "double precision", "--device cpu"]),
        ("--download", vec!["built-in"]),
        ("--resume --out nowhere", vec!["nowhere"]),
        ("--heads 5", vec!["--heads 5", "64"]),
        ("--image-size 32768 --patch-size 1", vec!["--image-size", "68719627200 parameters"]),
        ("--image-size 512 --patch-size 1", vec!["--image-size", "65536"]),
        ("--epochs 18446744073709551615", vec!["--epochs"]),
        ("--threads 65535", vec!["--threads", "65535", "1024"]),
    ] {
        assert_refused(folder.path(), options, &named);
    }
    if !tch::Cuda::is_available() {
        assert_refused(folder.path(), "--device cuda", &["--device cuda", "no CUDA", "--device cpu"]);
    }
}

/// Writes the two CIFAR-10 files that a run of 10,000 images reads: blank images of class 0.
pub(super) fn blank_cifar(folder: &Path) {
    let bytes = vec![0; 10_000 * 3073];
    for name in ["data_batch_1.bin", "test_batch.bin"] {
        fs::write(folder.join(name), &bytes).unwrap();
    }
}

#[test]
fn data_files_that_are_not_what_they_should_be_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    fs::create_dir(folder.join("data")).unwrap();
    let data = folder.join("data");
    let options = format!("{TINY} --dataset cifar10 --data data --epochs 1 --out out");
    assert_refused(folder, &options.replace("--data data", "--data none"), &["none", "--download"]);
    assert_refused(folder, &options, &["data"]); // an empty folder
    blank_cifar(&data);
    let first = data.join("data_batch_1.bin");
    for (length, word) in [(3073 * 9_999, "truncated"), (3073 * 10_000 - 1, "truncated"), (3073 * 10_001, "too long")] {
        fs::OpenOptions::new().write(true).open(&first).unwrap().set_len(length).unwrap();
        assert_refused(folder, &options, &["data_batch_1.bin", word]);
    }
    blank_cifar(&data);
    let mut bytes = fs::read(&first).unwrap();
    bytes[7 * 3073] = 10;
    fs::write(&first, &bytes).unwrap();
    assert_refused(folder, &options, &["data_batch_1.bin", "7", "10"]); // record and label
    blank_cifar(&data);
    fs::remove_file(data.join("test_batch.bin")).unwrap();
    assert_refused(folder, &options, &["test_batch.bin"]);
    // Whole files are accepted.
    blank_cifar(&data);
    run_well(folder, &options);
}

#[test]
fn a_foreign_checkpoint_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    run_well(folder, &format!("{TINY} --epochs 1 --out here"));
    run_well(folder, &format!("{} --epochs 1 --out other", TINY.replace("--width 16", "--width 24")));
    let checkpoint = "checkpoints/epoch-00001-batch-000000.safetensors";
    for file in ["checkpoints/manifest.json", checkpoint] {
        fs::copy(folder.join("other").join(file), folder.join("here").join(file)).unwrap();
    }
    assert_refused(folder, "--resume --out here", &["epoch-00001", "another shape"]);
    // Anything else in its place has another checksum, and the best one is the last resort.
    for file in [checkpoint, "checkpoints/best.safetensors"] {
        fs::write(folder.join("here").join(file), "no tensors").unwrap();
    }
    assert_refused(folder, "--resume --out here", &["no checkpoint is complete"]);
}

#[test]
fn a_manifest_that_names_a_file_elsewhere_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    run_well(folder, &format!("{TINY} --epochs 1 --out here"));
    let own = "epoch-00001-batch-000000.safetensors";
    fs::copy(folder.join("here/checkpoints").join(own), folder.join("elsewhere.safetensors")).unwrap();
    let path = folder.join("here/checkpoints/manifest.json");
    let text = fs::read_to_string(&path).unwrap();
    for outside in ["../../elsewhere.safetensors", "/etc/passwd"] {
        fs::write(&path, text.replace(own, outside)).unwrap();
        assert_refused(folder, "--resume --out here", &["manifest.json", outside, "not the name of a checkpoint"]);
    }
}

#[test]
fn a_folder_that_cannot_be_written_to_is_named() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("file"), "not a folder").unwrap();
    fs::create_dir(folder.path().join("full")).unwrap();
    fs::write(folder.path().join("full/metrics.csv"), "somebody's").unwrap();
    assert_refused(folder.path(), &format!("{TINY} --out full"), &["full is not empty"]);
    assert_refused(folder.path(), &format!("{TINY} --out file/run"), &["file/run"]);
}

/// A folder stands where the second checkpoint goes.
#[test]
fn a_checkpoint_that_cannot_be_written_is_named_and_the_earlier_one_whole() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    run_well(folder, &format!("{TINY} --epochs 1 --out here"));
    let first = folder.join("here/checkpoints/epoch-00001-batch-000000.safetensors");
    // As if the run had two epochs to do.
    let config = folder.join("here/config.json");
    let text = fs::read_to_string(&config).unwrap().replace("\"epochs\": 1", "\"epochs\": 2");
    fs::write(&config, text).unwrap();
    let before = fs::read(&first).unwrap();
    fs::create_dir(folder.join("here/checkpoints/epoch-00002-batch-000000.safetensors")).unwrap();
    let output = run(folder, "--resume --out here");
    let error = error_text(&output);
    assert!(!output.status.success());
    assert!(error.contains("epoch-00002") && error.contains("is not a file"), "{error}");
    assert_eq!(fs::read(&first).unwrap(), before);
}
