//! Images that stream from their files are measured like the same images in memory.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use approx::assert_abs_diff_eq;
use image::{Rgb, RgbImage};
use patchmix::Error;
use patchmix::data::{ImageFolder, StreamConfig};
use patchmix::eval::{Accuracy, FolderConfig, LinearConfig, folder_features, knn_accuracy, linear_accuracy};
use patchmix::vit::Pooling;
use serde_json::Value;
use tch::Tensor;

use super::finetune::assert_same_model;
use super::setting::{MEAN, STD, Setting};
use crate::support::{SIDE, TINY_RUN, assert_refused, command_in, content, error_text, read_json};

/// Rounding may change the outcome for one of the sixty images.
#[track_caller]
fn assert_alike(measured: &Value, expected: Accuracy) {
    let (top1, top5) = (measured["top1"].as_f64().unwrap(), measured["top5"].as_f64().unwrap());
    let one_image = 1.0 / 60.0 + 1e-9;
    assert_abs_diff_eq!(top1, expected.top1, epsilon = one_image);
    assert_abs_diff_eq!(top5, expected.top5, epsilon = one_image);
}

#[test]
fn defaults_measure_a_folder_of_few_images() {
    let setting = Setting::new();
    let (printed, _, _) = setting.results("knn --limit 20");
    assert!(printed.contains("k = 100, 200: all 20 training images vote, as there are no more"), "{printed}");
    let (_, _, results) = setting.results("linear --limit 20 --epochs 1");
    assert_eq!(results["train_images"], 20, "{results}");
    setting.assert_refused(
        "finetune --checkpoint encoder.safetensors --dataset image-folder --data images --limit 20",
        &["--batch-size 256: choose between 1 and the number of training images, 20"],
    );
}

#[test]
fn nearest_neighbors_of_files_are_those_of_the_images_in_memory() {
    let setting = Setting::new();
    let (printed, text, results) = setting.results("knn --encoder-batch 32");
    assert_eq!(printed.lines().count(), 6, "{printed}");
    assert!(text.contains("resized to 32 px, center of 28 px"), "{text}");
    let counts = (&results["train_images"], &results["test_images"], &results["broken_images"]);
    assert_eq!(counts, (&120.into(), &60.into(), &0.into()));
    for (pooling, name) in [(Pooling::ClassToken, "class token"), (Pooling::PatchMean, "patch mean")] {
        let [train, test] = [&setting.train, &setting.test].map(|images| setting.features(images, pooling));
        let (train, test) = ((&train, &setting.train.labels), (&test, &setting.test.labels));
        let expected = knn_accuracy(train, test, 10, &[10, 20, 100, 200], 0.07).unwrap();
        let measured = results["protocols"].as_array().unwrap().iter();
        let measured = measured.filter(|protocol| protocol["features"] == name && protocol["temperature"] == 0.07);
        let measured: Vec<&Value> = measured.map(|protocol| &protocol["accuracy"]).collect();
        assert_eq!(measured.len(), expected.len());
        measured.into_iter().zip(expected).for_each(|(measured, expected)| assert_alike(measured, expected));
    }
}

#[test]
fn a_linear_probe_of_files_is_that_of_the_images_in_memory() {
    let setting = Setting::new();
    let options = "linear --batch-size 32 --epochs 20 --lr 0.5 --seed 3";
    let cached = format!("{options} --cached");
    let [train, test] = [&setting.train, &setting.test].map(|images| setting.features(images, Pooling::ClassToken));
    let config = LinearConfig { epochs: 20, batch_size: 32, learning_rate: 0.5, seed: 3, ..LinearConfig::default() };
    let (train, test) = ((&train, &setting.train.labels), (&test, &setting.test.labels));
    let measured = &setting.results(&cached).2["rates"][0]["accuracy"];
    assert_alike(measured, linear_accuracy(train, test, 10, &config).unwrap());

    let views = setting.results(&format!("{options} --workers 1")).2;
    let again = setting.results(&format!("{options} --workers 3")).2;
    assert_eq!(again, views, "the number of threads changes nothing");
}

/// Each of the ten classes has a brightness, which crops and flips do not change: any encoder tells them apart. If the
/// crops had the labels of other images, one in ten would be right.
#[test]
fn a_linear_probe_of_new_crops_learns_the_classes() {
    let setting = Setting::new();
    for (part, class) in ["train", "val"].into_iter().flat_map(|part| (0..10).map(move |class| (part, class))) {
        let one_color = RgbImage::from_pixel(SIDE as u32, SIDE as u32, Rgb([28 * class; 3]));
        for file in fs::read_dir(setting.file(&format!("{part}/class-{class}"))).unwrap() {
            one_color.save(file.unwrap().path()).unwrap();
        }
    }
    let results = setting.results("linear --batch-size 32 --epochs 30 --lr 2").2;
    assert!(results["rates"][0]["accuracy"]["top1"].as_f64().unwrap() > 0.5, "{results}");
}

#[test]
fn broken_files_are_named_counted_and_limited() {
    let setting = Setting::new();
    for name in ["train/class-3/00013.png", "val/class-7/00027.png"] {
        fs::write(setting.file(name), b"no picture").unwrap();
    }
    for options in ["knn", "linear --batch-size 32 --epochs 2 --cached", "linear --batch-size 60 --epochs 2"] {
        let (printed, text, results) = setting.results(options);
        assert!(printed.contains("broken images left out: 2"), "{options}: {printed}");
        let mut named: Vec<&str> = text.lines().filter(|line| line.starts_with("broken")).collect();
        named.sort_unstable();
        assert_eq!(named.len(), 2, "each once: {text}");
        assert!(named[0].contains("00013.png") && named[1].contains("00027.png"), "{options}: {text}");
        assert_eq!(results["broken_images"], 2);
        let output = setting.evaluation(&format!("{options} --max-broken-images 1"));
        let text = error_text(&output);
        assert!(!output.status.success(), "{options}");
        assert!(text.contains("2 broken images are more than --max-broken-images 1"), "{options}: {text}");
    }
}

#[test]
fn batches_of_broken_files_alone_are_passed_over() {
    let setting = Setting::new();
    let train = ImageFolder::open(&setting.file("train")).unwrap();
    let ruin = |position| fs::write(train.path(position).unwrap(), b"no picture").unwrap();
    (0..3).for_each(ruin);
    let options = "linear --batch-size 1 --epochs 1 --max-broken-images 200";
    assert_eq!(setting.results(options).2["broken_images"], 3);
    (0..120).for_each(ruin);
    let output = setting.evaluation(options);
    let text = error_text(&output);
    assert!(!output.status.success() && text.contains("none of the training images can be read"), "{text}");
}

#[test]
fn features_of_a_folder_are_in_its_order_without_the_broken_images() {
    let setting = Setting::new();
    let folder = Arc::new(ImageFolder::open(&setting.file("train")).unwrap());
    let stream = StreamConfig { workers: 2, images_ahead: 10, pinned: false };
    let config = FolderConfig { mean: MEAN, std: STD, batch_size: 7, stream };
    let poolings = [Pooling::PatchMean, Pooling::ClassToken];
    let measure = |poolings: &[Pooling]| folder_features(&setting.encoder, poolings, &folder, &config, |_| Ok(()));
    let kept: Vec<i64> = (0..120).filter(|position| ![4, 119].contains(position)).collect();
    for (broken, kept) in [(vec![], (0..120).collect()), (vec![4, 119], kept)] {
        for &position in &broken {
            fs::write(folder.path(position).unwrap(), b"no picture").unwrap();
        }
        let found = measure(&poolings).unwrap();
        let positions: Vec<i64> = found.broken.iter().map(|image| image.position).collect();
        assert_eq!(positions, broken);
        let kept = Tensor::from_slice(&kept);
        assert_eq!(found.labels, Some(setting.train.labels.index_select(0, &kept)));
        for (pooling, features) in poolings.into_iter().zip(&found.features) {
            let expected = setting.features(&setting.train, pooling).index_select(0, &kept);
            assert!(features.allclose(&expected, 1e-4, 1e-5, false), "{pooling:?}");
        }
        let alone = measure(&[Pooling::ClassToken]).unwrap();
        assert!(alone.features[0].allclose(&found.features[1], 1e-4, 1e-5, false));
    }
    assert!(matches!(measure(&[]), Err(Error::Value { name: "poolings", .. })));
    let stop = |_: &_| Err(Error::Data { path: PathBuf::from("stop"), problem: String::new() });
    let stopped = folder_features(&setting.encoder, &poolings, &folder, &config, stop);
    assert!(matches!(stopped, Err(Error::Data { path, .. }) if path == Path::new("stop")));
    (0..120).for_each(|position| fs::write(folder.path(position).unwrap(), b"no picture").unwrap());
    assert!(measure(&poolings).unwrap_err().to_string().contains("none of the 120 images"));
}

#[test]
fn wrong_command_lines_for_image_folders_are_refused() {
    let setting = Setting::new();
    let run = TINY_RUN.join("run");
    // The folder of a run belongs to the images of that run, which are other ones here.
    let options = format!("knn --checkpoint {} --dataset image-folder", run.display());
    setting.assert_refused(&options, &["--data names the folder", "train/"]);
    let file = "--checkpoint encoder.safetensors";
    setting.assert_refused(&format!("knn {file}"), &["does not say which images"]);
    let file = format!("{file} --dataset image-folder");
    setting.assert_refused(&format!("knn {file} --data none"), &["none", "--data names the folder"]);
    let all = "choose between 1 and the number of training images, 120";
    setting.assert_refused(&format!("linear {file} --data images --batch-size 121"), &["--batch-size 121", all]);
    setting.assert_refused(&format!("knn {file} --data images --limit 121"), &["--limit 121"]);
    setting.assert_refused(&format!("knn {file} --data images --workers 1025"), &["--workers"]);
}

/// Images that are larger than the encoder's are cut out by random crops, and tested by their centers.
#[test]
fn fine_tuning_takes_image_folders_and_resumes_there() {
    let setting = Setting::new();
    let options = "finetune --batch-size 32 --epochs 2 --workers 2";
    let (_, _, whole) = setting.results(&format!("{options} --out whole"));
    assert_eq!(whole["recipe"]["padding"], 0);
    let output = setting.evaluation(&format!("{options} --out parts --stop-after 4"));
    assert!(output.status.success(), "{}", error_text(&output));
    let output = setting.run("finetune --resume --out parts --json parts.json");
    assert!(output.status.success(), "{}", error_text(&output));
    assert_eq!(read_json(&setting.path().join("parts.json"))["accuracy"], whole["accuracy"]);
    for name in ["averaged.safetensors", "last.safetensors"] {
        assert_same_model(&setting.path().join("whole").join(name), &setting.path().join("parts").join(name));
    }
}

#[test]
fn a_fine_tuned_epoch_that_cannot_be_measured_is_not_lost() {
    let setting = Setting::new();
    let options = "finetune --batch-size 32 --epochs 2 --measure-every 2 --save-epochs 2";
    let (_, _, whole) = setting.results(&format!("{options} --out whole"));
    let output = setting.evaluation(&format!("{options} --out parts --stop-after 4"));
    assert!(output.status.success(), "{}", error_text(&output));
    let images = content(&setting.file("val"));
    images.keys().for_each(|path| fs::write(path, "no picture").unwrap());
    setting.assert_refused("finetune --resume --out parts", &["images"]);
    images.iter().for_each(|(path, bytes)| fs::write(path, bytes).unwrap());
    // No step is left: the first one would stop it.
    let output = setting.run("finetune --resume --out parts --stop-after 1 --json parts.json");
    assert!(output.status.success(), "{}", error_text(&output));
    assert_eq!(read_json(&setting.path().join("parts.json"))["accuracy"], whole["accuracy"]);
}

#[test]
fn a_run_on_image_folders_is_measured_on_its_own_images() {
    let setting = Setting::new();
    setting.folder_run();
    for options in ["", "--dataset image-folder", "--data images"] {
        let output = setting.run(&format!("knn --checkpoint run {options} --json run.json"));
        assert!(output.status.success(), "{options}: {}", error_text(&output));
        let results = read_json(&setting.path().join("run.json"));
        assert_eq!(
            (&results["train_images"], &results["dataset"]),
            (&64.into(), &"image-folder".into()),
            "as in the run"
        );
    }
    let output = setting.run("knn --checkpoint run --limit 0 --json run.json");
    assert!(output.status.success(), "{}", error_text(&output));
    assert_eq!(read_json(&setting.path().join("run.json"))["train_images"], 120);
}

#[test]
fn pictures_take_some_of_the_images_of_a_folder() {
    let setting = Setting::new();
    setting.folder_run();
    for options in
        ["similar --checkpoint run --images 3 --limit 30", "map --checkpoint run", "attention --checkpoint run"]
    {
        let options = format!("{options} --out picture.png");
        let output = command_in(setting.path(), "pictures", &options).output().unwrap();
        assert!(output.status.success(), "{options}: {}", error_text(&output));
        image::open(setting.path().join("picture.png")).unwrap();
    }
}

#[test]
fn similar_images_of_ones_own_need_no_classes() {
    let setting = Setting::new();
    let flat = setting.path().join("flat");
    fs::create_dir_all(flat.join("holidays")).unwrap();
    for (number, (path, bytes)) in content(&setting.file("val")).into_iter().enumerate() {
        let folder = if number % 2 == 0 { flat.clone() } else { flat.join("holidays") };
        fs::write(folder.join(path.file_name().unwrap()), bytes).unwrap();
    }
    let draw = |options: &str| {
        let file = "similar --checkpoint encoder.safetensors --dataset image-folder --device cpu";
        command_in(setting.path(), "pictures", &format!("{file} {options}")).output().unwrap()
    };
    let output = draw("--data flat --images 3 --neighbors 7 --out own.png");
    assert!(output.status.success(), "{}", error_text(&output));
    let printed = String::from_utf8(output.stdout).unwrap();
    assert!(printed.contains("own.png: 3 of 60 images, each with the most similar of the others"), "{printed}");
    let own = image::open(setting.path().join("own.png")).unwrap();
    // As large as with classes.
    assert!(draw("--data images --images 3 --neighbors 7 --out classes.png").status.success());
    let classes = image::open(setting.path().join("classes.png")).unwrap();
    assert_eq!((own.width(), own.height()), (classes.width(), classes.height()));

    let output = draw("--data flat --images 1 --neighbors 50 --limit 20 --out few.png");
    let printed = String::from_utf8(output.stdout).unwrap();
    assert!(printed.contains("note: --neighbors 50: there are only 19 other images"), "{printed}");
    let refused = |options: &str, named: &[&str]| assert_refused(options, &draw(options), named);
    refused("--data flat --images 61 --out none.png", &["--images 61: choose between 1 and 60"]);
    refused("--data flat --images 1 --limit 1 --out none.png", &["there is no other image"]);
    assert!(!setting.path().join("none.png").exists());
}
