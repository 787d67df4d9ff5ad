//! `evaluate`, on a tiny encoder and built-in images.

mod encoders;
mod features;
mod finetune;
mod folders;
mod imported;
mod setting;

use std::fs;
use std::process::Command;

use approx::assert_abs_diff_eq;
use patchmix::vit::{EncoderFile, Pooling, Precision, Vit, VitConfig};
use serde_json::Value;
use tch::nn::VarStore;

use crate::support::{self, TINY_RUN, closed_pipe, command_in, error_text, read_json};

/// `evaluate` in a folder that has a pre-training in the subfolder `run`.
fn evaluation(options: &str) -> Command {
    command_in(&TINY_RUN, "evaluate", options)
}

/// The standard output of an evaluation, and the results that it writes with `--json`.
#[track_caller]
fn results(options: &str) -> (String, Value) {
    let json = tempfile::NamedTempFile::new().unwrap();
    let options = format!("{options} --device cpu --threads 1 --json {}", json.path().display());
    let output = evaluation(&options).output().unwrap();
    assert!(output.status.success(), "{options}: {}", error_text(&output));
    let results = serde_json::from_slice(&fs::read(json.path()).unwrap()).unwrap();
    (String::from_utf8(output.stdout).unwrap(), results)
}

/// Expects one line of error with all of `named` in it.
#[track_caller]
fn assert_refused(options: &str, named: &[&str]) {
    support::assert_refused(options, &evaluation(options).output().unwrap(), named);
}

#[test]
fn nearest_neighbors_by_every_protocol_agree_with_the_runs_own_measurement() {
    let (printed, results) = results("knn --checkpoint run");
    assert_eq!(printed.lines().count(), 6, "{printed}");
    assert!(printed.ends_with("k = 100, 200: all 64 training images vote, as there are no more\n"), "{printed}");
    let protocols = results["protocols"].as_array().unwrap();
    assert_eq!(protocols.len(), 2 * 2 * 4);
    assert_eq!((&results["train_images"], &results["test_images"]), (&64.into(), &1000.into()), "as in the run");
    let published = protocols.iter().find(|protocol| {
        protocol["features"] == "class token" && protocol["k"] == 20 && protocol["temperature"] == 0.07
    });
    let top1 = published.unwrap()["accuracy"]["top1"].as_f64().unwrap();
    let summary = read_json(&TINY_RUN.join("run/summary.json"));
    assert_abs_diff_eq!(100.0 * top1, summary["knn_trained"].as_f64().unwrap(), epsilon = 0.006);
}

#[test]
fn a_linear_probe_repeats_itself_and_follows_its_options() {
    let options = "linear --checkpoint run --limit 512 --batch-size 64 --epochs 10 --lr 0.5 --cached";
    let (printed, cached) = results(options);
    assert!(printed.contains("after the last epoch") && printed.contains("best on the test images"), "{printed}");
    assert_eq!(results(options).1, cached);
    let rate = &cached["rates"][0];
    let top1 = rate["accuracy"]["top1"].as_f64().unwrap();
    assert!(top1 > 0.12, "ten classes: {cached}");
    assert!(rate["best"]["accuracy"]["top1"].as_f64().unwrap() >= top1, "{cached}");
    assert!((1..=10).contains(&rate["best"]["epoch"].as_u64().unwrap()), "{cached}");

    let options = "linear --checkpoint run --batch-size 32 --epochs 2 --lr 0.5";
    let views = results(options).1;
    assert_eq!(results(options).1, views);
    assert_ne!(results(&format!("{options} --cached")).1["rates"], views["rates"]);
    assert_ne!(results(&format!("{options} --seed 1")).1["rates"], views["rates"]);
}

/// As in a pipe into `head` that has read enough: the results are in their file, and the program ends well.
#[test]
fn results_that_nobody_reads_are_written_all_the_same() {
    let folder = tempfile::tempdir().unwrap();
    for (name, options) in [
        ("knn", "knn"),
        ("linear", "linear --batch-size 16 --epochs 1"),
        ("finetune", "finetune --batch-size 16 --epochs 1 --warmup-epochs 0"),
    ] {
        let json = folder.path().join(format!("{name}.json"));
        let mut options = format!("{options} --checkpoint run --device cpu --threads 1 --json {}", json.display());
        if name == "finetune" {
            options += &format!(" --out {}", folder.path().join("out").display());
        }
        let mut command = evaluation(&options);
        let status = command.stdout(closed_pipe()).stderr(closed_pipe()).status().unwrap();
        assert_eq!(status.code(), Some(0), "{options}");
        assert_eq!(read_json(&json)["evaluation"], name);
    }
    for name in ["averaged.safetensors", "last.safetensors", "results.json"] {
        assert!(folder.path().join("out").join(name).is_file(), "{name}");
    }
}

/// Several learning rates see the same features, so each ends as it does alone. One that diverges leaves the others
/// alone.
#[test]
fn a_sweep_over_learning_rates_is_one_probe_each() {
    for cached in ["", "--cached"] {
        let probe = |lr| {
            let options = format!("linear --checkpoint run --limit 256 --batch-size 64 --epochs 3 --lr {lr} {cached}");
            results(&options)
        };
        let (printed, sweep) = probe("0.5,1e300,0.01");
        assert!(printed.contains("diverged"), "{printed}");
        let rates = sweep["rates"].as_array().unwrap();
        assert_eq!(rates.len(), 3);
        assert_eq!(rates[1]["accuracy"], Value::Null);
        assert_eq!([&rates[0], &rates[2]], [&probe("0.5").1["rates"][0], &probe("0.01").1["rates"][0]]);
    }
}

/// A tiny encoder.
fn encoder_config(image_size: i64, patch_size: i64) -> VitConfig {
    VitConfig {
        image_size,
        patch_size,
        width: 16,
        depth: 2,
        heads: 2,
        mlp_ratio: 4,
        drop_path: 0.0,
        precision: Precision::Full,
    }
}

/// Writes an encoder for images of 24 pixels to `encoder.safetensors`.
fn encoder_file() -> &'static str {
    let config = encoder_config(24, 8);
    let store = VarStore::new(tch::Device::Cpu);
    Vit::new(&store.root(), &config).unwrap();
    let file =
        EncoderFile { config, mean: [0.5; 3], std: [0.25; 3], pooling: Pooling::PatchMean, tensors: store.variables() };
    file.save(&TINY_RUN.join("encoder.safetensors")).unwrap();
    "encoder.safetensors"
}

#[test]
fn an_encoder_file_is_measured_on_the_images_that_are_named() {
    let file = encoder_file();
    assert_refused(&format!("knn --checkpoint {file}"), &["does not say which images", "--dataset cifar10"]);
    let (_, results) =
        results(&format!("linear --cached --checkpoint {file} --dataset builtin --limit 32 --batch-size 8 --epochs 2"));
    assert_eq!(results["features"], "patch mean", "as the file says");
    assert_eq!(results["train_images"], 32);
}

#[test]
fn wrong_command_lines_are_refused() {
    for (options, named) in [
        ("knn", vec!["required"]),
        ("knn --checkpoint nowhere", vec!["nowhere", "No such file"]),
        ("knn --checkpoint .", vec!["config.json", "folder of a run"]),
        ("knn --checkpoint run --encoder momentum", vec!["no momentum encoder", "--encoder momentum"]),
        ("knn --checkpoint run/checkpoints/best.safetensors --best", vec!["is one checkpoint", "--best"]),
        ("knn --checkpoint run --dataset cifar10 --data none", vec!["none", "--data", "--download"]),
        ("knn --checkpoint run --device cuda:99", vec!["--device cuda:99"]),
        ("knn --checkpoint run --limit -1", vec!["--limit"]),
        ("knn --checkpoint run --encoder-batch 0", vec!["--encoder-batch"]),
        ("knn --checkpoint run --json none/results.json", vec!["--json none/results.json", "folder"]),
        ("knn --checkpoint run --json /dev/null", vec!["--json /dev/null", "name a file"]),
        ("knn --checkpoint run --threads 65535", vec!["--threads", "65535", "1024"]),
        ("linear --checkpoint run --batch-size 65", vec!["--batch-size 65", "64"]),
        ("linear --checkpoint run --epochs 0", vec!["--epochs"]),
        ("linear --checkpoint run --lr nan", vec!["--lr", "'nan'", "above 0"]),
    ] {
        assert_refused(options, &named);
    }
}

/// Frozen features are of a center, fine-tuning measures whole images; both say so.
#[test]
fn an_evaluation_says_how_its_images_are_prepared() {
    for (options, said) in [
        ("knn --checkpoint run", "1,000 to measure on, shorter side resized to 36 px, center of 32 px\n"),
        ("finetune --checkpoint run --batch-size 16 --epochs 1", "1,000 to measure on, whole\n"),
    ] {
        let output = evaluation(&format!("{options} --device cpu --threads 1")).output().unwrap();
        let text = error_text(&output);
        assert!(output.status.success() && text.contains(said), "{options}: {text}");
    }
}

#[test]
fn a_probe_that_leaves_all_bounds_says_so() {
    assert_refused("linear --checkpoint run --batch-size 16 --epochs 2 --lr 1e300", &["finite", "--lr"]);
}
