//! Runs on images without classes: what is measured, and by which labeled images.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;
use std::path::Path;

use super::image_files::{TINY, image_files, run, run_well};
use super::resume::{assert_same_checkpoint, assert_same_end, checkpoints};
use crate::support::{assert_refused, command_in, content, error_text, metrics, read_json, read_metrics};

/// The options of [`TINY`] for other images.
fn tiny(data: &str) -> String {
    TINY.replace("--data images", &format!("--data {data}"))
}

/// `images/train` and `images/val` become `photos`, a tree of 64 files, 48 of them in the folder itself, and `labeled`.
fn photos(folder: &Path) {
    image_files(folder);
    fs::rename(folder.join("images/val"), folder.join("labeled")).unwrap();
    fs::rename(folder.join("images/train"), folder.join("photos")).unwrap();
    fs::remove_dir(folder.join("images")).unwrap();
    for class in 0..3 {
        let class = folder.join(format!("photos/class-{class}"));
        for image in fs::read_dir(&class).unwrap().map(Result::unwrap) {
            fs::rename(image.path(), folder.join("photos").join(image.file_name())).unwrap();
        }
        fs::remove_dir(class).unwrap();
    }
}

/// What lies beside photos on real disks: none of it is an image to train on.
fn clutter(folder: &Path) {
    let photos = folder.join("photos");
    for name in [".thumbnails/000.jpg", ".git/objects/x.png", "._000.jpg", "notes.txt", ".DS_Store"] {
        let path = photos.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, "no picture").unwrap();
    }
    for (target, link) in [(".", "self"), ("..", "up"), ("/", "class-3/everything")] {
        symlink(target, photos.join(link)).unwrap();
    }
    fs::write(photos.join(std::ffi::OsStr::from_bytes(b"caf\xE9.jpg")), "no picture").unwrap();
}

const NOT_MEASURED: &str =
    "images   64 to train on, no labeled ones to measure on: kNN accuracy is left out (--val names some)\n";

#[test]
fn a_tree_of_images_trains_and_resumes_without_any_accuracy() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    photos(folder);
    clutter(folder);
    let options = format!("{} --epochs 2 --knn-every 1", tiny("photos"));
    let output = run(folder, &format!("{options} --out straight"));
    let text = error_text(&output);
    assert!(output.status.success(), "{text}");
    assert_eq!(text.matches(NOT_MEASURED).count(), 1, "{text}");
    assert!(text.contains("note: photos: passed over: .txt (1), links to a folder"), "{text}");
    assert_eq!(text.matches("kNN").count(), 1, "{text}");
    let printed = String::from_utf8(output.stdout).unwrap();
    assert!(printed.contains("kNN    left out, without labeled images\n"), "{printed}");

    let straight = folder.join("straight");
    let (columns, rows) = read_metrics(&straight);
    assert!(!columns.iter().any(|column| column.starts_with("knn")), "{columns:?}");
    assert!(rows.iter().all(|row| row.number("loss").is_finite() && row.text("broken_images") == "0"));
    let summary = read_json(&straight.join("summary.json"));
    let accuracies = summary.as_object().unwrap().iter().filter(|(name, _)| name.starts_with("knn"));
    assert_eq!(accuracies.filter(|(_, value)| value.is_null()).count(), 5, "{summary}");
    assert!(image::open(straight.join("curves.png")).unwrap().width() > 500);
    assert!(!straight.join("checkpoints/best.safetensors").exists(), "there is nothing to choose it by");
    let events = content(&straight).into_iter().filter(|(path, _)| path.display().to_string().contains("tfevents"));
    let events: Vec<u8> = events.flat_map(|(_, bytes)| bytes).collect();
    let holds = |text: &str| events.windows(text.len()).any(|window| window == text.as_bytes());
    assert!(holds("gradient_norm") && !holds("knn"), "TensorBoard shows the same columns");

    // The folder may move in between: its files are the same.
    for steps in [3, 4] {
        let out = format!("stopped-{steps}");
        run_well(folder, &format!("{options} --stop-after {steps} --out {out}"));
        fs::rename(folder.join("photos"), folder.join("moved")).unwrap();
        let text = run_well(folder, &format!("--resume --data moved --out {out}"));
        assert!(text.contains(NOT_MEASURED), "{text}");
        assert_same_end(&straight, &folder.join(out));
        fs::rename(folder.join("moved"), folder.join("photos")).unwrap();
    }
    // One more image is another order of all.
    run_well(folder, &format!("{options} --stop-after 3 --out grown"));
    fs::copy(folder.join("photos/000.png"), folder.join("photos/zzz.png")).unwrap();
    assert_refused("--resume", &run(folder, "--resume --out grown"), &["64 files", "65 files"]);
}

#[test]
fn an_encoder_of_unlabeled_images_is_exported_and_its_measures_name_what_is_missing() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    photos(folder);
    run_well(folder, &format!("{} --epochs 1 --out here", tiny("photos")));
    let run_program = |program: &str, options: &str| command_in(folder, program, options).output().unwrap();
    let output = run_program("export_encoder", "--checkpoint here --out encoder.safetensors");
    assert!(output.status.success(), "{}", error_text(&output));
    let missing = ["photos: its images have no classes", "train/CLASS/*.jpg", "--data"];
    for (program, options) in [
        ("evaluate", "knn --checkpoint here"),
        ("evaluate", "linear --checkpoint here"),
        ("evaluate", "finetune --checkpoint here"),
        ("evaluate", "knn --checkpoint encoder.safetensors --dataset image-folder --data photos"),
        ("pictures", "map --checkpoint here"),
        ("pictures", "attention --checkpoint here"),
    ] {
        assert_refused(options, &run_program(program, options), &missing);
    }
    assert_refused("--best", &run_program("evaluate", "knn --checkpoint here --best"), &["no checkpoint with a kNN"]);
    // Curves of a run without an accuracy, alone and beside one that has some.
    let measured = format!("{} --epochs 1 --val labeled --out measured", tiny("photos"));
    run_well(folder, &measured);
    for runs in ["here", "here measured"] {
        let output = run_program("pictures", &format!("curves {runs} --out curves.png"));
        assert!(output.status.success(), "{runs}: {}", error_text(&output));
        assert!(!error_text(&output).contains("note:"), "{}", error_text(&output));
    }
}

#[test]
fn validation_images_apart_from_labeled_training_images_measure_alike() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    image_files(folder);
    let options = format!("{TINY} --epochs 2 --knn-every 1");
    run_well(folder, &format!("{options} --out beside"));
    fs::rename(folder.join("images/val"), folder.join("apart")).unwrap();
    let text = run_well(folder, &format!("{options} --val apart --out apart-run"));
    assert!(text.contains("images   64 to train on, 20 to measure on\n"), "{text}");
    let [beside, apart] = ["beside", "apart-run"].map(|run| folder.join(run));
    assert_eq!(metrics(&beside), metrics(&apart));
    assert_eq!(read_json(&beside.join("summary.json")), read_json(&apart.join("summary.json")));
    let known = command_in(folder, "evaluate", "knn --checkpoint apart-run --json knn.json").output().unwrap();
    assert!(known.status.success(), "{}", error_text(&known));
    assert_eq!(read_json(&folder.join("knn.json"))["test_images"], 20, "as in the run");

    let tuning = "finetune --checkpoint apart-run --batch-size 16 --epochs 1 --warmup-epochs 0 --device cpu";
    let tuning = format!("{tuning} --out tuned --stop-after 1");
    let tuning = command_in(folder, "evaluate", &tuning).output().unwrap();
    assert!(tuning.status.success(), "{}", error_text(&tuning));
    let saved = read_json(&folder.join("tuned/finetune.json")).to_string();
    let apart_path = folder.join("apart").canonicalize().unwrap();
    assert!(saved.contains(&format!("--val={}", apart_path.display())), "{saved}");

    // Without them there is nothing to measure on, and training is the same.
    let text = run_well(folder, &format!("{options} --out without"));
    assert!(text.contains(NOT_MEASURED), "{text}");
    assert_same_checkpoint_but_for_accuracy(&beside, &folder.join("without"));
}

/// Two runs trained the same weights.
#[track_caller]
fn assert_same_checkpoint_but_for_accuracy(run: &Path, other: &Path) {
    let [ours, theirs] = [run, other].map(|run| {
        let mut checkpoint = patchmix::checkpoint::Checkpoint::load(&checkpoints(run)[0]).unwrap();
        checkpoint.metadata.retain(|name, _| !name.starts_with("knn"));
        let path = run.join("without-accuracy.safetensors");
        checkpoint.save(&path).unwrap();
        path
    });
    assert_same_checkpoint(&ours, &theirs);
}

/// Each of the twenty validation images is alone in its class: with itself, or with a training image, among its
/// neighbors some would be right.
#[test]
fn unlabeled_images_are_measured_among_the_validation_images_themselves() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    photos(folder);
    for (number, path) in content(&folder.join("labeled")).keys().enumerate() {
        let class = folder.join(format!("alone/{number}"));
        fs::create_dir_all(&class).unwrap();
        fs::copy(path, class.join(path.file_name().unwrap())).unwrap();
    }
    let options = format!("{} --epochs 2 --knn-every 1", tiny("photos"));
    let text = run_well(folder, &format!("{options} --val alone --out alone-run"));
    assert!(text.contains("images   64 to train on, 20 to measure on, each by the others\n"), "{text}");
    assert!(text.contains("note: kNN with k = 20: all 19 other images vote"), "{text}");
    assert!(metrics(&folder.join("alone-run")).iter().all(|row| row.number("knn_top1") == 0.0));
    let summary = read_json(&folder.join("alone-run/summary.json"));
    assert_eq!((&summary["knn_raw_pixels"], &summary["knn_trained"]), (&0.0.into(), &0.0.into()));
    let protocol = summary["knn_protocol"].as_str().unwrap();
    let preparation =
        "shorter side resized to 36 px, center of 32 px; each image by the others; on 20 files whose names";
    assert!(protocol.starts_with(preparation), "other validation images have other accuracies: {protocol}");

    // Whatever is measured, the weights are the same; the best is chosen by it.
    run_well(folder, &format!("{options} --val labeled --out labeled-run"));
    assert!(folder.join("labeled-run/checkpoints/best.safetensors").exists());
    assert_same_checkpoint_but_for_accuracy(&folder.join("alone-run"), &folder.join("labeled-run"));
}

/// A run may get its labeled images, or other ones, when it resumes: accuracies of two kinds are kept apart.
#[test]
fn a_run_that_gets_other_labeled_images_keeps_its_accuracies_apart() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    image_files(folder);
    fs::rename(folder.join("images/val"), folder.join("labeled")).unwrap();
    let options = format!("{TINY} --epochs 3 --knn-every 1");
    run_well(folder, &format!("{options} --stop-after 6 --out here"));
    let text = run_well(folder, "--resume --stop-after 4 --val labeled --out here");
    assert!(!text.contains("note:") && text.contains("before training: kNN"), "{text}");
    // Another class makes them images of other classes than those that are trained on.
    fs::rename(folder.join("labeled/class-3"), folder.join("labeled/class-9")).unwrap();
    let text = run_well(folder, "--resume --out here");
    assert!(text.contains("move to the column knn_top1_before"), "{text}");
    assert!(!text.contains("no longer drop paths"), "{text}");
    let rows = metrics(&folder.join("here"));
    for (row, measured) in rows.iter().zip([[false, false], [false, true], [true, false]]) {
        let columns = ["knn_top1", "knn_top1_before"].map(|column| !row.text(column).is_empty());
        assert_eq!(columns, measured, "{row:?}");
        let columns = ["knn_top1_momentum", "knn_top1_momentum_before"].map(|column| !row.text(column).is_empty());
        assert_eq!(columns, measured, "{row:?}");
    }
    let best = &read_json(&folder.join("here/checkpoints/manifest.json"))["best"];
    assert_eq!((&best["epoch"], best["knn_top1"].as_f64()), (&3.into(), Some(rows[2].number("knn_top1_momentum"))));
}

#[test]
fn folders_that_may_be_a_mistake_are_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    photos(folder);
    fs::create_dir_all(folder.join("one/class")).unwrap();
    fs::copy(folder.join("photos/000.png"), folder.join("one/class/000.png")).unwrap();
    fs::create_dir(folder.join("empty")).unwrap();
    fs::create_dir(folder.join("half")).unwrap();
    symlink("../labeled", folder.join("half/val")).unwrap();
    let options = tiny("photos");
    for (options, named) in [
        (format!("{options} --val none"), ["none: there is no such folder", "--val"]),
        (format!("{options} --val empty"), ["empty", "--val"]),
        (format!("{options} --val one"), ["--val one", "a single image"]),
        (format!("{options} --val photos"), ["--val photos", "lies within the training images photos"]),
        (format!("{options} --val ./photos/../photos"), ["lies within", "photos"]),
        (tiny("empty"), ["empty: contains no jpeg, png or webp file", "--data"]),
        (tiny("half"), ["half: has no folder train/", "--data"]),
        (tiny("none"), ["none: there is no such folder", "--data"]),
        (format!("{options} --limit 65"), ["--limit 65", "64"]),
        ("--recipe quick --dataset builtin --val labeled".to_owned(), ["--val", "images in files only"]),
    ] {
        assert_refused(&options, &run(folder, &options), &named);
    }
    // A folder train/ without classes in it is one of unlabeled images.
    fs::create_dir(folder.join("data")).unwrap();
    fs::create_dir(folder.join("data/train")).unwrap();
    for number in 0..22 {
        let image = format!("{:03}", number * 3);
        fs::copy(folder.join(format!("photos/{image}.png")), folder.join(format!("data/train/{image}.png"))).ok();
    }
    let count = fs::read_dir(folder.join("data/train")).unwrap().count();
    let text = run_well(folder, &format!("{} --epochs 1 --out flat", tiny("data")));
    assert!(text.contains(&format!("images   {count} to train on, no labeled ones")), "{text}");
}
