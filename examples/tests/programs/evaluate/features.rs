//! Features in files: those of the images in memory, in the order of the images, and as numpy reads them.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::fcntl::{FcntlArg, fcntl};
use patchmix::vit::Pooling;
use safetensors::SafeTensors;
use serde_json::Value;
use tch::Tensor;

use super::results;
use super::setting::Setting;
use crate::support::{command_in, content, error_text, python, read_json};

/// Features and labels of a safetensors file, and its metadata.
fn read_safetensors(path: &Path) -> (Tensor, Vec<i64>, BTreeMap<String, String>) {
    let bytes = fs::read(path).unwrap();
    let (_, header) = SafeTensors::read_metadata(&bytes).unwrap();
    let tensors: BTreeMap<String, Tensor> = Tensor::read_safetensors(path).unwrap().into_iter().collect();
    assert_eq!(tensors.keys().collect::<Vec<_>>(), ["features", "labels"]);
    let metadata = header.metadata().clone().unwrap().into_iter().collect();
    (tensors["features"].shallow_clone(), Vec::try_from(&tensors["labels"]).unwrap(), metadata)
}

/// The header and the numbers of a file in numpy's format.
fn read_npy(path: &Path) -> (String, Vec<u8>) {
    let bytes = fs::read(path).unwrap();
    assert_eq!(&bytes[..8], b"\x93NUMPY\x01\x00");
    let end = 10 + usize::from(u16::from_le_bytes([bytes[8], bytes[9]]));
    assert!(end.is_multiple_of(64) && bytes[end - 1] == b'\n');
    (String::from_utf8(bytes[10..end].to_vec()).unwrap().trim().to_owned(), bytes[end..].to_vec())
}

fn numbers(bytes: &[u8]) -> Vec<f32> {
    bytes.chunks_exact(4).map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap())).collect()
}

fn paths(setting: &Setting, file: &str) -> Vec<String> {
    serde_json::from_value(read_json(&setting.path().join(file))).unwrap()
}

/// Names of the files in a folder.
fn files(folder: &Path) -> Vec<String> {
    content(folder).keys().map(|path| path.file_name().unwrap().to_str().unwrap().to_owned()).collect()
}

#[test]
fn features_of_files_are_written_in_the_order_of_the_images_without_broken_ones() {
    let setting = Setting::new();
    fs::write(setting.file("train/class-3/00013.png"), b"no picture").unwrap();
    // A batch of broken images alone is passed over.
    let ruined = ["val/class-0/00000.png", "val/class-0/00010.png", "val/class-0/00020.png", "val/class-0/00030.png"];
    ruined.iter().for_each(|name| fs::write(setting.file(name), b"no picture").unwrap());
    let (printed, text, results) = setting.results("features --encoder-batch 4 --out features");
    assert!(printed.contains("written  features/train.safetensors: 119 images, width"), "{printed}");
    assert!(printed.contains("broken images left out: 5"), "{printed}");
    assert!(text.contains("class-3/00013.png"), "{text}");
    assert_eq!(results["parts"][1]["images"], 56, "{results}");
    let folder = setting.path().join("features");
    let names = ["classes.json", "train.paths.json", "train.safetensors", "val.paths.json", "val.safetensors"];
    assert_eq!(files(&folder), names);
    let classes: Vec<String> = serde_json::from_value(read_json(&folder.join("classes.json"))).unwrap();
    assert_eq!(classes, (0..10).map(|class| format!("class-{class}")).collect::<Vec<_>>());

    for (part, images, left_out) in [("train", &setting.train, &["class-3/00013"][..]), ("val", &setting.test, &ruined)]
    {
        let (features, labels, metadata) = read_safetensors(&folder.join(format!("{part}.safetensors")));
        let mut expected: Vec<String> = content(&setting.file(part))
            .into_keys()
            .map(|path| path.strip_prefix(setting.file("")).unwrap().to_str().unwrap().to_owned())
            .collect();
        let is_kept = |path: &String| !left_out.iter().any(|name| path.contains(name));
        let kept: Vec<i64> = (0..images.len()).filter(|&position| is_kept(&expected[position as usize])).collect();
        expected.retain(is_kept);
        assert_eq!(paths(&setting, &format!("features/{part}.paths.json")), expected);
        let kept = Tensor::from_slice(&kept);
        let expected = setting.features(images, Pooling::ClassToken).index_select(0, &kept);
        assert!(features.allclose(&expected, 1e-4, 1e-5, false));
        assert_eq!(Tensor::from_slice(&labels), images.labels.index_select(0, &kept));
        assert_eq!((metadata["features"].as_str(), metadata["dataset"].as_str()), ("class token", "image-folder"));
        assert!(metadata["preparation"].contains("center of 28 px"), "{metadata:?}");
    }
}

#[test]
fn numpy_reads_the_same_numbers() {
    let setting = Setting::new();
    setting.results("features --pooling patch-mean --out one");
    setting.results("features --pooling patch-mean --format npy --out two");
    let folder = setting.path().join("two");
    let names = ["train.features.npy", "train.labels.npy", "train.paths.json"];
    assert_eq!(files(&folder)[1..4], names);
    let (features, labels, metadata) = read_safetensors(&setting.path().join("one/train.safetensors"));
    assert!(features.allclose(&setting.features(&setting.train, Pooling::PatchMean), 1e-4, 1e-5, false));
    assert_eq!(metadata["features"], "patch mean");
    let width = features.size()[1];
    let (header, bytes) = read_npy(&folder.join(names[0]));
    assert_eq!(header, format!("{{'descr': '<f4', 'fortran_order': False, 'shape': (120,{width},), }}"));
    assert_eq!(Tensor::from_slice(&numbers(&bytes)).view([120, width]), features);
    let (header, bytes) = read_npy(&folder.join(names[1]));
    assert_eq!(header, "{'descr': '<i8', 'fortran_order': False, 'shape': (120,), }");
    assert_eq!(bytes, labels.iter().flat_map(|label| label.to_le_bytes()).collect::<Vec<u8>>());

    const READ: &str = "
import numpy, sys
from safetensors.numpy import load_file
one, two = sys.argv[1:]
for part in ('train', 'val'):
    tensors = load_file(f'{one}/{part}.safetensors')
    features, labels = numpy.load(f'{two}/{part}.features.npy'), numpy.load(f'{two}/{part}.labels.npy')
    assert features.dtype == numpy.float32 and labels.dtype == numpy.int64 and features.shape[0] == len(labels)
    assert (features == tensors['features']).all() and (labels == tensors['labels']).all()
    assert (numpy.load(f'{two}/{part}.features.npy', mmap_mode='r') == features).all()
";
    let Some(mut python) = python("numpy safetensors") else { return };
    let output = python.args(["-c", READ]).arg(setting.path().join("one")).arg(&folder).output().unwrap();
    assert!(output.status.success(), "{}", error_text(&output));
}

#[test]
fn images_in_memory_have_no_paths() {
    let place = tempfile::tempdir().unwrap();
    let out = place.path().join("features");
    let (_, results) = results(&format!("features --checkpoint run --encoder-batch 50 --out {}", out.display()));
    assert_eq!(results["parts"][0]["images"], 64, "as in the run");
    assert_eq!(files(&out), ["classes.json", "train.safetensors", "val.safetensors"]);
    let (features, labels, _) = read_safetensors(&out.join("val.safetensors"));
    assert_eq!((features.size(), labels.len()), (vec![1000, 16], 1000));
}

#[test]
fn files_that_exist_and_folders_that_cannot_be_are_refused_at_once() {
    let setting = Setting::new();
    let file = "features --checkpoint encoder.safetensors --dataset image-folder --data images";
    fs::create_dir(setting.path().join("taken")).unwrap();
    fs::write(setting.path().join("taken/val.paths.json"), "mine").unwrap();
    setting.assert_refused(&format!("{file} --out taken"), &["taken/val.paths.json: exists", "--out"]);
    setting.assert_refused(&format!("{file} --out taken/val.paths.json"), &["--out taken/val.paths.json"]);
    content(&setting.file("train")).keys().for_each(|path| fs::write(path, b"no picture").unwrap());
    let all = format!("{file} --max-broken-images 200 --out broken");
    setting.assert_refused(&all, &["none of the train images can be read"]);
    assert_eq!(files(&setting.path().join("broken")), [""; 0]);
}

/// Interrupted while it waits for somebody to read what it says about broken images.
#[test]
fn an_interruption_leaves_no_half_file() {
    let setting = Setting::new();
    for (path, _) in content(&setting.file("train")).into_iter().take(100) {
        let long = format!("{}.png", "x".repeat(180) + path.file_stem().unwrap().to_str().unwrap());
        fs::write(path.with_file_name(long), b"no picture").unwrap();
        fs::remove_file(path).unwrap();
    }
    let options = "features --checkpoint encoder.safetensors --dataset image-folder --data images --encoder-batch 1 \
                   --max-broken-images 200 --out features --device cpu --threads 1";
    let mut command = command_in(setting.path(), "evaluate", options);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let stderr = child.stderr.take().unwrap();
    // It holds a page, and the reader below as much again: less than a hundred lines.
    fcntl(&stderr, FcntlArg::F_SETPIPE_SZ(4096)).unwrap();
    let mut lines = BufReader::with_capacity(4096, stderr).lines().map(Result::unwrap);
    assert!(lines.any(|line| line.starts_with("broken")));
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    // The signal is noted by another thread than the one that waits.
    std::thread::sleep(Duration::from_secs(2));
    let rest: Vec<String> = lines.collect();
    let code = child.wait().unwrap().code();
    assert_eq!(code, Some(130), "{rest:?}");
    assert!(rest.iter().any(|line| line.contains("no features of the train images are written")), "{rest:?}");
    assert_eq!(files(&setting.path().join("features")), [""; 0]);
}

/// A folder of one's own, with images in no class folder.
#[test]
fn images_without_classes_have_features_and_no_labels() {
    let setting = Setting::new();
    let flat = setting.path().join("flat");
    fs::create_dir(&flat).unwrap();
    for (path, bytes) in content(&setting.file("val")) {
        fs::write(flat.join(path.file_name().unwrap()), bytes).unwrap();
    }
    let file = "features --checkpoint encoder.safetensors --dataset image-folder --data flat";
    for format in ["safetensors", "npy"] {
        let output = setting.run(&format!("{file} --format {format} --out {format}"));
        assert!(output.status.success(), "{}", error_text(&output));
        let printed = String::from_utf8(output.stdout).unwrap();
        assert!(printed.contains("60 images") && printed.contains("note: there are no val images"), "{printed}");
        let names = match format {
            "npy" => ["train.features.npy", "train.paths.json"],
            _ => ["train.paths.json", "train.safetensors"],
        };
        assert_eq!(files(&setting.path().join(format)), names);
        let images: Vec<String> = files(&flat);
        assert_eq!(paths(&setting, &format!("{format}/train.paths.json")), images);
    }
    let tensors = Tensor::read_safetensors(setting.path().join("safetensors/train.safetensors")).unwrap();
    let [(name, features)] = &tensors[..] else { panic!("{tensors:?}") };
    // The files are in the order of their numbers here, and by class before.
    let number = |path: &std::path::PathBuf| path.file_stem().unwrap().to_str().unwrap().parse::<i64>().unwrap();
    let rows: Vec<i64> = content(&setting.file("val")).keys().map(number).collect();
    let expected = setting.features(&setting.test, Pooling::ClassToken);
    assert!(features.index_select(0, &Tensor::from_slice(&rows)).allclose(&expected, 1e-4, 1e-5, false), "{name}");
}

/// The script packs a folder into shards, whose features are those of the folder in another order.
#[test]
fn shards_made_by_the_script_have_the_features_of_the_folder() {
    let Some(mut python) = python("tarfile") else { return };
    let setting = Setting::new();
    // A key ends at the first dot.
    fs::rename(setting.file("train/class-3/00013.png"), setting.file("train/class-3/v1.0_x.PNG")).unwrap();
    python.arg("scripts/make_shards.py").arg(setting.file("")).arg(setting.path().join("shards"));
    let made = python.output().unwrap();
    assert!(made.status.success(), "{}", error_text(&made));
    let shards = "--checkpoint encoder.safetensors --dataset shards --data shards";
    let output = setting.run(&format!("features {shards} --out packed --json packed.json"));
    assert!(output.status.success(), "{}", error_text(&output));
    setting.results("features --out plain");
    for (part, count) in [("train", 120), ("val", 60)] {
        let rows = |out: &str| -> BTreeMap<String, (Tensor, i64)> {
            let (features, labels, _) = read_safetensors(&setting.path().join(format!("{out}/{part}.safetensors")));
            let key = |path: String| {
                let path = path.replace("v1.0_x.PNG", "v1_0_x.png");
                path.rsplit('/').take(2).collect::<Vec<_>>().join(" ")
            };
            let names = paths(&setting, &format!("{out}/{part}.paths.json")).into_iter().map(key);
            names.zip(labels).zip(0..).map(|((name, label), row)| (name, (features.get(row), label))).collect()
        };
        let (packed, plain) = (rows("packed"), rows("plain"));
        assert_eq!(packed.keys().collect::<Vec<_>>(), plain.keys().collect::<Vec<_>>());
        assert_eq!(packed.len(), count);
        for (name, (features, label)) in &packed {
            assert!(features.allclose(&plain[name].0, 1e-4, 1e-5, false) && *label == plain[name].1, "{name}");
        }
    }
    let results: Value = read_json(&setting.path().join("packed.json"));
    assert_eq!(results["dataset"], "shards");
    let output = setting.run(&format!("knn {shards}"));
    assert!(output.status.success(), "{}", error_text(&output));
}
