//! STL-10 from made-up files: what a run trains on, what is measured, and what is said of files that do not fit.

use std::fs;
use std::path::Path;

use patchmix::data::procedural;
use tch::Tensor;

use super::resume::assert_same_end;
use super::{run, run_well};
use crate::support::{assert_refused, command_in, error_text, metrics, read_json};

const TINY: &str = "--recipe quick --dataset stl10 --data stl --width 16 --depth 2 --heads 2 --image-size 32 \
                    --patch-size 8 --hidden 16 --out-dim 8 --batch-size 16 --warmup-epochs 1 --threads 1 --device cpu \
                    --precision f32";

/// 24 training, 12 test and 40 unlabeled images in the files of STL-10.
fn files(folder: &Path) {
    fs::create_dir_all(folder).unwrap();
    for (name, count, seed) in [("train", 24, 1), ("test", 12, 2), ("unlabeled", 40, 3)] {
        let images = procedural(count, 96, seed).unwrap();
        let by_column = images.images.transpose(2, 3).contiguous().view(-1);
        fs::write(folder.join(format!("{name}_X.bin")), Vec::<u8>::try_from(&by_column).unwrap()).unwrap();
        if name != "unlabeled" {
            let labels = Vec::<i64>::try_from(&images.labels).unwrap();
            let labels: Vec<u8> = labels.into_iter().map(|label| label as u8 + 1).collect();
            fs::write(folder.join(format!("{name}_y.bin")), labels).unwrap();
        }
    }
}

#[test]
fn a_run_trains_on_labeled_and_unlabeled_images_and_is_measured_on_the_test_images() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    files(&folder.join("stl/stl10_binary"));
    let options = format!("{TINY} --epochs 2 --knn-every 1");
    let text = error_text(&run_well(folder, &format!("{options} --out straight")));
    assert!(text.contains("images   64 to train on, 12 to measure on\n"), "{text}");
    assert!(!text.contains("training images vote"), "all 24 are more than 20: {text}");
    assert_eq!(metrics(&folder.join("straight"))[1].text("step"), "8", "four steps of 16 an epoch");
    run_well(folder, &format!("{options} --stop-after 5 --out parts"));
    run_well(folder, "--resume --out parts");
    assert_same_end(&folder.join("straight"), &folder.join("parts"));

    // A limit is on the images to train on; all labeled ones vote.
    let text = error_text(&run_well(folder, &format!("{options} --limit 32 --out some")));
    assert!(text.contains("images   32 to train on, 12 to measure on\n"), "{text}");
    assert!(!text.contains("training images vote"), "{text}");
    for run in ["straight", "some"] {
        let evaluate = |options: &str| {
            let options = format!("{options} --checkpoint {run} --device cpu --threads 1 --json results.json");
            let output = command_in(folder, "evaluate", &options).output().unwrap();
            assert!(output.status.success(), "{options}: {}", error_text(&output));
            read_json(&folder.join("results.json"))
        };
        let knn = evaluate("knn");
        assert_eq!((&knn["train_images"], &knn["test_images"]), (&24.into(), &12.into()));
        let published = knn["protocols"].as_array().unwrap().iter().find(|protocol| {
            protocol["features"] == "class token" && protocol["k"] == 20 && protocol["temperature"] == 0.07
        });
        let top1 = published.unwrap()["accuracy"]["top1"].as_f64().unwrap();
        let summary = read_json(&folder.join(run).join("summary.json"));
        assert!((100.0 * top1 - summary["knn_trained"].as_f64().unwrap()).abs() < 0.006, "as in the run");
        assert_eq!(evaluate("linear --epochs 1 --batch-size 8 --limit 16")["train_images"], 16);
    }
    let options = "finetune --checkpoint straight --epochs 1 --warmup-epochs 0 --batch-size 8 --device cpu --out tuned";
    let output = command_in(folder, "evaluate", options).output().unwrap();
    assert!(output.status.success(), "{}", error_text(&output));
    let output = command_in(folder, "pictures", "similar --checkpoint straight --images 3").output().unwrap();
    assert!(output.status.success(), "{}", error_text(&output));
}

/// The pixels that a run shows are those of the files, upright.
#[test]
fn images_are_shown_upright() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    files(&folder.join("stl"));
    let read = patchmix::data::stl10_unlabeled(&folder.join("stl"), None).unwrap();
    let expected = [(24, 1), (40, 3)].map(|(count, seed)| procedural(count, 96, seed).unwrap().images);
    assert_eq!(read, Tensor::cat(&expected, 0));
}

#[test]
fn files_that_do_not_fit_are_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    files(&folder.join("stl"));
    let file = |name: &str| folder.join("stl").join(name);
    let whole = fs::read(file("unlabeled_X.bin")).unwrap();
    let refused = |options: &str, named: &[&str]| {
        assert_refused(options, &run(folder, &format!("{TINY} {options}")), named);
    };
    refused("--limit 65", &["limit", "64"]);
    fs::write(file("unlabeled_X.bin"), &whole[..whole.len() - 1]).unwrap();
    refused("", &["unlabeled_X.bin", "does not end with a whole image", "--download"]);
    fs::remove_file(file("unlabeled_X.bin")).unwrap();
    refused("", &["unlabeled_X.bin", "is missing"]);
    fs::write(file("unlabeled_X.bin"), whole).unwrap();
    fs::write(file("train_y.bin"), [3; 23]).unwrap();
    refused("", &["train_y.bin", "23 labels for the 24 images"]);
    fs::write(file("train_y.bin"), [11; 24]).unwrap();
    refused("", &["train_y.bin", "label 11 of image 0"]);
    refused("--data none", &["none", "--data", "--download"]);
}
