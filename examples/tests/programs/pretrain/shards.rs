//! Runs on shards: as on the folder that holds the same images, and resumed to the bit.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use patchmix::checkpoint::Checkpoint;
use tar::{Archive, Builder, Header};

use super::image_files::{TINY, image_files, run, run_well};
use super::resume::{assert_same_end, checkpoints};
use crate::support::{assert_refused, content, metrics};

/// Packs `images/train` and `images/val`, in the order of the folders, into shards in `shards`.
fn pack(folder: &Path) {
    fs::create_dir(folder.join("shards")).unwrap();
    for (part, per_shard) in [("train", 23), ("val", 7)] {
        let files: Vec<(PathBuf, Vec<u8>)> = content(&folder.join("images").join(part)).into_iter().collect();
        for (shard, files) in files.chunks(per_shard).enumerate() {
            let path = folder.join(format!("shards/{part}-{shard:06}.tar"));
            let mut builder = Builder::new(File::create(path).unwrap());
            for (number, (path, bytes)) in files.iter().enumerate() {
                let class = path.parent().unwrap().file_name().unwrap().to_str().unwrap();
                let label = class.strip_prefix("class-").unwrap();
                let extension = path.extension().unwrap().to_str().unwrap();
                for (extension, bytes) in [("cls", label.as_bytes()), ("json", b"{}"), (extension, bytes)] {
                    let mut header = Header::new_ustar();
                    header.set_size(bytes.len() as u64);
                    builder.append_data(&mut header, format!("{class}/{number:04}.{extension}"), bytes).unwrap();
                }
            }
            builder.finish().unwrap();
        }
    }
}

#[test]
fn a_run_on_shards_is_that_on_the_folder_and_resumes_to_the_bit() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    image_files(folder);
    pack(folder);
    let options = format!("{TINY} --knn-every 1 --epochs 3");
    run_well(folder, &format!("{options} --out folder"));
    let shards = options.replace("--data images", "--dataset shards --data shards");
    let text = run_well(folder, &format!("{shards} --out straight"));
    assert!(text.contains("note: shards/train-*.tar: passed over: .json (64)"), "{text}");
    // What the two runs learned is the same.
    assert_eq!(metrics(&folder.join("folder")), metrics(&folder.join("straight")));
    let [ours, theirs] =
        ["folder", "straight"].map(|run| Checkpoint::load(&checkpoints(&folder.join(run))[0]).unwrap());
    assert_eq!(ours.tensors.len(), theirs.tensors.len());
    for (name, tensor) in &ours.tensors {
        assert_eq!(tensor, &theirs.tensors[name], "{name}");
    }
    for (steps, workers) in [(2, 1), (7, 3)] {
        let out = format!("stopped-{steps}");
        run_well(folder, &format!("{shards} --workers {workers} --stop-after {steps} --out {out}"));
        run_well(folder, &format!("--resume --out {out}"));
        assert_same_end(&folder.join("straight"), &folder.join(out));
    }

    // The same shards elsewhere are the same images; one shard less is another data set.
    run_well(folder, &format!("{shards} --stop-after 1 --out moved"));
    fs::rename(folder.join("shards"), folder.join("elsewhere")).unwrap();
    run_well(folder, "--resume --stop-after 1 --data elsewhere --out moved");
    fs::remove_file(folder.join("elsewhere/train-000001.tar")).unwrap();
    let output = run(folder, "--resume --data elsewhere --out moved");
    assert_refused("another set", &output, &["41 images in 2 shards", "64 images in 3 shards"]);
}

#[test]
fn shards_that_are_not_as_they_should_be_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    image_files(folder);
    pack(folder);
    let refused = |options: &str, named: &[&str]| {
        let options = format!("{TINY} --dataset shards --epochs 1 --out here {options}");
        assert_refused(&options, &run(folder, &options), named);
    };
    refused("--data nowhere", &["nowhere: there is no such folder", "--data names the folder"]);
    refused("--data images", &["images: contains no train-*.tar", "--data names the folder that holds train-*.tar"]);
    refused("--data shards --limit 65", &["--limit 65"]);
    let val = folder.join("shards/val-000001.tar");
    let bytes = fs::read(&val).unwrap();
    // The last block of the last image, and the two zero blocks behind it.
    fs::write(&val, &bytes[..bytes.len() - 3 * 512]).unwrap();
    refused("--data shards", &["shards/val-000001.tar: is truncated"]);
    fs::write(&val, b"\x1f\x8b\x08 compressed").unwrap();
    refused("--data shards", &["shards/val-000001.tar: is compressed", "gunzip"]);
    fs::remove_file(&val).unwrap();
    fs::write(folder.join("shards/val-000001.tar.partial"), "").unwrap();
    refused("--data shards", &["contains val-000001.tar.partial without val-000001.tar"]);
    fs::remove_file(folder.join("shards/val-000001.tar.partial")).unwrap();
    fs::remove_file(folder.join("shards/val-000000.tar")).unwrap();
    fs::rename(folder.join("shards/val-000002.tar"), folder.join("shards/val-000002.tar.gz")).unwrap();
    refused("--data shards", &["contains no val-*.tar, but val-000002.tar.gz"]);
}

#[test]
fn shards_without_classes_train_without_an_accuracy_or_with_labeled_images_apart() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    image_files(folder);
    pack(folder);
    for shard in ["train-000000", "train-000001", "train-000002"] {
        let path = folder.join(format!("shards/{shard}.tar"));
        let bytes = fs::read(&path).unwrap();
        let mut builder = Builder::new(File::create(&path).unwrap());
        for entry in Archive::new(&*bytes).entries().unwrap() {
            let mut entry = entry.unwrap();
            let name = entry.path().unwrap().into_owned();
            if name.extension().unwrap() != "cls" {
                let mut header = entry.header().clone();
                builder.append_data(&mut header, name, &mut entry).unwrap();
            }
        }
        builder.finish().unwrap();
    }
    let options = format!("{TINY} --dataset shards --epochs 1 --knn-every 1").replace("--data images", "--data shards");
    let text = run_well(folder, &format!("{options} --out apart"));
    assert!(!text.contains("left out"), "{text}");
    assert!(metrics(&folder.join("apart"))[0].number("knn_top1") > 0.0);
    fs::create_dir(folder.join("val")).unwrap();
    for shard in ["val-000000.tar", "val-000001.tar", "val-000002.tar"] {
        fs::rename(folder.join("shards").join(shard), folder.join("val").join(shard)).unwrap();
    }
    let text = run_well(folder, &format!("{options} --val val --out beside"));
    assert!(!text.contains("left out"), "{text}");
    assert_eq!(metrics(&folder.join("apart")), metrics(&folder.join("beside")));
    let output = run(folder, &format!("{options} --val images --out nowhere"));
    assert_refused("--val images", &output, &["images: contains no val-*.tar", "--val names the folder"]);
    let text = run_well(folder, &format!("{options} --out without"));
    assert!(text.contains("no labeled ones to measure on: kNN accuracy is left out"), "{text}");
}

/// A shard of images, each with its class.
fn shard(path: &Path, images: &[PathBuf], classes: &[u32]) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let mut builder = Builder::new(File::create(path).unwrap());
    for (number, (image, class)) in images.iter().zip(classes).enumerate() {
        for (extension, bytes) in [("png", fs::read(image).unwrap()), ("cls", class.to_string().into_bytes())] {
            let mut header = Header::new_ustar();
            header.set_size(bytes.len() as u64);
            builder.append_data(&mut header, format!("{number}.{extension}"), &bytes[..]).unwrap();
        }
    }
    builder.finish().unwrap();
}

#[test]
fn validation_shards_of_other_classes_are_measured_among_themselves_if_they_can_be() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    image_files(folder);
    pack(folder);
    let images: Vec<PathBuf> = content(&folder.join("images/val")).into_keys().collect();
    let val = folder.join("val/val-0.tar");
    let options = format!("{TINY} --dataset shards --epochs 1 --out here").replace("--data images", "--data shards");
    let options = format!("{options} --val val");
    let refused = |named: &str| assert_refused(named, &run(folder, &options), &["val/val-*.tar: ", named]);
    shard(&val, &images[..1], &[9]);
    refused("holds a single image");
    shard(&val, &images[..4], &[9; 4]);
    refused("all images are of one class, 9");
    shard(&val, &images[..4], &[9, 0, 1, 9]);
    let text = run_well(folder, &options);
    assert!(text.contains("note: val/val-*.tar: its class 9 is not one of the 4 classes of the training"), "{text}");
    assert!(text.contains("4 to measure on, each by the others"), "{text}");
    // Notes beside training shards are no shards.
    (0..3).for_each(|number| fs::remove_file(folder.join(format!("shards/val-00000{number}.tar"))).unwrap());
    fs::write(folder.join("shards/val-notes.txt"), "").unwrap();
    let text = run_well(folder, &options.replace("--val val", "").replace("--out here", "--out alone"));
    assert!(text.contains("no labeled ones to measure on"), "{text}");
}
