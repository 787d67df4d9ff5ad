//! Runs on images that stream from their files, with local views beside the global ones.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Output;

use approx::assert_relative_eq;
use image::RgbImage;
use patchmix::data::procedural;

use super::resume::assert_same_end;
use crate::support::{assert_refused, command_in, content, error_text, metrics};

/// 4 steps an epoch and three lengths of token sequences: a model that trains in a blink, with everything that the
/// large recipes use.
pub(super) const TINY: &str = "--recipe quick --data images --arch custom --width 16 --depth 2 --heads 2 \
                               --image-size 32 --patch-size 8 --local-size 16 --local-crops 2 --hidden 16 --out-dim 8 \
                               --batch-size 16 --warmup-epochs 1 --drop-path 0.2 --momentum-encoder 0.9 --threads 1 \
                               --device cpu --precision f32";

/// `images/train` and `images/val`: 64 and 20 files of several sizes and formats, in four classes.
pub(super) fn image_files(folder: &Path) {
    for (part, count, seed) in [("train", 64, 1), ("val", 20, 2)] {
        let images = procedural(count, 40, seed).unwrap();
        for index in 0..count {
            let class = folder.join(format!("images/{part}/class-{}", index % 4));
            fs::create_dir_all(&class).unwrap();
            let pixels: Vec<u8> = images.images.get(index).permute([1, 2, 0]).reshape([-1]).try_into().unwrap();
            let picture = RgbImage::from_raw(40, 40, pixels).unwrap();
            let (width, height) = (24 + 3 * (index as u32 % 11), 60 - 2 * (index as u32 % 17));
            let picture = image::imageops::resize(&picture, width, height, image::imageops::FilterType::Triangle);
            let ending = if index % 3 == 0 { "png" } else { "jpg" };
            picture.save(class.join(format!("{index:03}.{ending}"))).unwrap();
        }
    }
}

pub(super) fn run(folder: &Path, options: &str) -> Output {
    command_in(folder, "pretrain_imagenet", options).output().unwrap()
}

/// The standard error of a run that must succeed.
#[track_caller]
pub(super) fn run_well(folder: &Path, options: &str) -> String {
    let output = run(folder, options);
    assert!(output.status.success(), "{options}: {}", error_text(&output));
    error_text(&output)
}

#[test]
fn a_run_on_image_files_in_two_parts_ends_as_the_undivided_one() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    image_files(folder);
    run_well(folder, &format!("{TINY} --knn-every 1 --epochs 3 --out straight"));
    for steps in [2, 4, 7] {
        let out = format!("stopped-{steps}");
        let text = run_well(folder, &format!("{TINY} --knn-every 1 --epochs 3 --stop-after {steps} --out {out}"));
        assert!(text.contains("--example pretrain_imagenet"), "{text}");
        run_well(folder, &format!("--resume --out {out}"));
        assert_same_end(&folder.join("straight"), &folder.join(out));
    }
    // Another number of decoding threads changes nothing.
    run_well(folder, &format!("{TINY} --knn-every 1 --epochs 3 --workers 5 --out workers"));
    assert_eq!(metrics(&folder.join("straight")), metrics(&folder.join("workers")));
}

#[test]
fn an_epoch_that_cannot_be_measured_is_not_lost() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    image_files(folder);
    let options = format!("{TINY} --knn-every 2 --epochs 2");
    run_well(folder, &format!("{options} --out straight"));
    run_well(folder, &format!("{options} --save-epochs 2 --stop-after 2 --out here"));
    let images = content(&folder.join("images/val"));
    images.keys().for_each(|path| fs::write(path, "no picture").unwrap());
    assert_refused("--resume", &run(folder, "--resume --out here"), &["images"]);
    images.iter().for_each(|(path, bytes)| fs::write(path, bytes).unwrap());
    // No step is left: the first one would stop it.
    let text = run_well(folder, "--resume --stop-after 1 --out here");
    assert!(text.contains("resuming from here/checkpoints/epoch-00001-batch-000004"), "{text}");
    assert_same_end(&folder.join("straight"), &folder.join("here"));
}

#[test]
fn a_batch_in_parts_trains_to_the_same_losses() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    image_files(folder);
    let options = format!("{TINY} --epochs 2").replace("--drop-path 0.2", "--drop-path 0");
    let [whole, parts] = [1, 3].map(|parts| {
        run_well(folder, &format!("{options} --accumulate {parts} --out parts-{parts}"));
        metrics(&folder.join(format!("parts-{parts}")))
    });
    assert_eq!((whole.len(), parts.len()), (2, 2));
    for (whole, parts) in whole.iter().zip(&parts) {
        for column in [
            "loss",
            "origin_to_origin",
            "mix_to_origin",
            "mix_to_mix",
            "local_to_origin",
            "local_mix_to_origin",
            "gradient_norm",
        ] {
            assert_relative_eq!(parts.number(column), whole.number(column), max_relative = 1e-3);
        }
    }
}

#[test]
fn broken_files_are_named_once_counted_and_left_out() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    image_files(folder);
    let broken = ["images/train/class-1/001.jpg", "images/train/class-2/002.jpg", "images/val/class-3/003.png"];
    for path in broken {
        let path = folder.join(path);
        let bytes = fs::read(&path).unwrap();
        fs::write(&path, &bytes[..bytes.len() / 3]).unwrap();
    }
    let text = run_well(folder, &format!("{TINY} --epochs 2 --knn-every 2 --out here"));
    for path in broken {
        assert_eq!(text.matches(path).count(), 1, "{path}: {text}");
    }
    let rows = metrics(&folder.join("here"));
    let counts: Vec<&str> = rows.iter().map(|row| row.text("broken_images")).collect();
    assert_eq!(counts, ["2", "2"], "in each epoch");

    let before = content(folder);
    let output = run(folder, &format!("{TINY} --epochs 2 --max-broken-images 1 --out there"));
    let text = error_text(&output);
    assert!(!output.status.success());
    assert!(text.contains("--max-broken-images 1"), "{text}");
    assert!(before.keys().all(|path| path.exists()));
}

#[test]
fn a_folder_of_twenty_images_trains_or_is_told_the_option() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    image_files(folder);
    fs::remove_dir_all(folder.join("images/train")).unwrap();
    let link = std::os::unix::fs::symlink("val", folder.join("images/train"));
    link.unwrap();
    let output = run(folder, "--data images --device cpu --out here");
    let text = error_text(&output);
    let expected = "--batch-size 1024: there are only 20 training images; --batch-size 20 or less trains on them";
    assert!(!output.status.success() && text.contains(expected), "{text}");
    let few = "note: kNN with k = 20: all 16 training images vote";
    for (options, says_few) in [("--batch-size 20", false), ("--batch-size 16 --limit 16", true)] {
        let out = format!("{TINY} --epochs 1 --out there{says_few}");
        let text = run_well(folder, &out.replace("--batch-size 16", options));
        assert_eq!(text.contains(few), says_few, "{text}");
    }
}

#[test]
fn names_from_outside_do_not_reach_the_terminal_and_what_is_passed_over_is_told() {
    use std::os::unix::ffi::OsStrExt;
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    image_files(folder);
    let class = folder.join("images/train/class-0");
    fs::write(class.join("a\n\u{1b}[2J.jpg"), "no picture").unwrap();
    fs::write(class.join("b.gif"), "GIF89a").unwrap();
    fs::write(class.join(std::ffi::OsStr::from_bytes(b"caf\xE9.jpg")), "").unwrap();
    std::os::unix::fs::symlink("..", class.join("up")).unwrap();
    let text = run_well(folder, &format!("{TINY} --epochs 1 --out here"));
    assert!(text.contains(r"a\n\u{1b}[2J.jpg: ") && !text.contains("\u{1b}[2J.jpg"), "{text}");
    let line = "note: images/train: passed over: .gif (1), links to a folder that is listed already (1), names that \
                are not Unicode (1)\n";
    assert_eq!(text.matches(line).count(), 1, "{text}");
}

#[test]
fn a_run_goes_on_without_the_images_that_it_would_show_and_not_without_any() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    image_files(folder);
    // The positions whose images the picture of the mixes shows; then all but a few.
    let mut files: Vec<PathBuf> = content(&folder.join("images/train")).into_keys().collect();
    files.sort_unstable();
    let ruin = |path: &PathBuf| fs::write(path, b"no picture").unwrap();
    files.iter().step_by(8).for_each(ruin);
    run_well(folder, &format!("{TINY} --epochs 1 --out here"));
    assert!(folder.join("here/mix.png").exists());

    files[3..].iter().for_each(ruin);
    let output = run(folder, &format!("{TINY} --epochs 1 --groups 4 --out there"));
    let text = error_text(&output);
    assert!(!output.status.success() && text.contains("have left no batch that can be mixed"), "{text}");
}

#[test]
fn folders_that_are_not_as_they_should_be_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let refused = |options: &str, named: &[&str]| assert_refused(options, &run(folder, options), named);
    refused("", &["data: there is no such folder", "--data"]);
    image_files(folder);
    fs::create_dir_all(folder.join("images/val/class-9")).unwrap();
    fs::copy(folder.join("images/val/class-0/000.png"), folder.join("images/val/class-9/000.png")).unwrap();
    refused(TINY, &["class-9"]);
    fs::remove_dir_all(folder.join("images/train")).unwrap();
    refused(TINY, &["images: has no folder train/", "--data"]);
    refused("--dataset cifar10", &["cifar10"]);
    refused("--dataset builtin --local-crops 2 --local-size 8", &["--groups 2", "1 patches"]);
}
