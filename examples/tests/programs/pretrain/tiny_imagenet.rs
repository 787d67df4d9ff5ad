//! Tiny-ImageNet as its archive unpacks: the classes of the validation images are in a text file.

use std::fs;
use std::path::Path;

use super::image_files::{TINY, image_files, run, run_well};
use crate::support::{assert_refused, command_in, content, error_text, metrics, read_json};

/// The images of [`image_files`] laid out as in the archive, whose folder is in `images`.
fn unpacked(folder: &Path) {
    image_files(folder);
    let root = folder.join("images/tiny-imagenet-200");
    let mut annotations = String::new();
    for (part, to) in [("train", root.join("train")), ("val", root.join("val/images"))] {
        for (path, bytes) in content(&folder.join("images").join(part)) {
            let class = path.parent().unwrap().file_name().unwrap().to_str().unwrap();
            let name = path.file_name().unwrap().to_str().unwrap().replace(".jpg", ".JPEG");
            let to = if part == "train" { to.join(class).join("images") } else { to.clone() };
            fs::create_dir_all(&to).unwrap();
            fs::write(to.join(&name), bytes).unwrap();
            if part == "val" {
                annotations += &format!("{name}\t{class}\t0\t0\t62\t62\n");
            } else {
                fs::write(to.join(format!("../{class}_boxes.txt")), "").unwrap();
            }
        }
    }
    fs::write(root.join("val/val_annotations.txt"), annotations).unwrap();
    fs::write(root.join("wnids.txt"), "class-0\n").unwrap();
}

#[test]
fn a_run_finds_training_and_validation_images_where_they_were_unpacked() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    unpacked(folder);
    let options = format!("{TINY} --epochs 2 --knn-every 1");
    run_well(folder, &format!("{options} --out by-folders"));
    for (out, data) in [("outer", "images"), ("inner", "images/tiny-imagenet-200")] {
        fs::remove_dir_all(folder.join("images/train")).ok();
        fs::remove_dir_all(folder.join("images/val")).ok();
        let options = options.replace("--data images", &format!("--dataset tiny-imagenet --data {data}"));
        let text = run_well(folder, &format!("{options} --out {out}"));
        assert!(text.contains("images   64 to train on, 20 to measure on\n"), "{text}");
        // The same images in the same order, with the same classes.
        assert_eq!(metrics(&folder.join(out)), metrics(&folder.join("by-folders")));
    }
    let options = "knn --checkpoint outer --device cpu --threads 1 --json knn.json";
    let output = command_in(folder, "evaluate", options).output().unwrap();
    assert!(output.status.success(), "{}", error_text(&output));
    let results = read_json(&folder.join("knn.json"));
    assert_eq!((&results["dataset"], &results["test_images"]), (&"tiny-imagenet".into(), &20.into()));
}

#[test]
fn a_named_data_set_is_not_taken_for_images_without_classes() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    unpacked(folder);
    let root = folder.join("images/tiny-imagenet-200");
    let refused = |dataset: &str, data: &str, named: &[&str]| {
        let options = TINY.replace("--data images", &format!("--dataset {dataset} --data {data}"));
        assert_refused(&options, &run(folder, &options), named);
    };
    let annotations = root.join("val/val_annotations.txt");
    let text = fs::read_to_string(&annotations).unwrap();
    fs::write(&annotations, text.replacen("class-1", "class-7", 1)).unwrap();
    let tiny = ("tiny-imagenet", "images/tiny-imagenet-200");
    refused(tiny.0, tiny.1, &["val_annotations.txt", "class-7 is not one of the 4 classes"]);
    fs::write(&annotations, text.split_once('\n').unwrap().1).unwrap();
    refused(tiny.0, tiny.1, &["val_annotations.txt", "no class"]);
    fs::remove_file(&annotations).unwrap();
    refused(tiny.0, tiny.1, &["val/images: is not one of the 4 classes"]);
    fs::remove_dir_all(root.join("val")).unwrap();
    refused(tiny.0, tiny.1, &["val: there is no such folder"]);
    refused("imagenet-100", tiny.1, &["val: there is no such folder"]);
    fs::remove_dir_all(root.join("train")).unwrap();
    refused("imagenet-100", tiny.1, &["has no folder train/"]);
}
