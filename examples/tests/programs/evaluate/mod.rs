//! `evaluate`, on a tiny encoder and built-in images.

mod folders;
mod imported;

use std::fs;
use std::process::Command;

use approx::assert_abs_diff_eq;
use patchmix::vit::{EncoderFile, Pooling, Precision, Vit, VitConfig};
use serde_json::Value;
use tch::nn::VarStore;

use crate::support::{self, TINY_RUN, command_in, error_text, read_json};

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
    assert_eq!(printed.lines().count(), 5, "{printed}");
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
    let options = "linear --checkpoint run --limit 512 --batch-size 64 --epochs 10 --lr 0.5";
    let (printed, first) = results(options);
    assert!(printed.contains("linear probe  top-1"), "{printed}");
    assert_eq!(results(options).1, first);
    let augmented = results(&format!("{options} --augment")).1;
    assert_eq!(results(&format!("{options} --augment")).1, augmented);
    let top1 = |results: &Value| results["accuracy"]["top1"].as_f64().unwrap();
    assert!(top1(&first) > 0.12 && top1(&augmented) > 0.12, "ten classes: {first} {augmented}");
    assert_ne!(results(&format!("{options} --seed 1")).1["accuracy"], first["accuracy"]);
}

#[test]
fn fine_tuning_measures_the_averaged_weights_and_repeats_itself() {
    let options = "finetune --checkpoint run --epochs 2 --batch-size 16 --measure-every 1";
    let (printed, first) = results(options);
    assert!(printed.contains("(averaged weights)") && printed.contains("last weights"), "{printed}");
    let epochs = first["epochs"].as_array().unwrap();
    assert_eq!(epochs.len(), 2);
    assert_eq!(first["accuracy"], epochs[1]["averaged_weights"]);
    for epoch in epochs {
        for weights in ["averaged_weights", "last_weights"] {
            assert!((0.0..=1.0).contains(&epoch[weights]["top1"].as_f64().unwrap()), "{epoch}");
        }
    }
    assert_eq!(results(options).1, first);
    assert_eq!(first["recipe"]["layer_decay"], 0.75);
    let scratch = results(&format!("{options} --from-scratch")).1;
    assert_eq!(scratch["recipe"]["layer_decay"], 1.0);
    assert_ne!(scratch["epochs"][0]["loss"], first["epochs"][0]["loss"]);
    // The average of weights that do not move does not move either.
    let still = results(&format!("{options} --lr 1e-30")).1;
    assert_eq!(still["epochs"][1]["averaged_weights"], still["epochs"][1]["last_weights"]);
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
        results(&format!("linear --checkpoint {file} --dataset builtin --limit 32 --batch-size 8 --epochs 2"));
    assert_eq!(results["features"], "patch mean", "as the file says");
    assert_eq!(results["train_images"], 32);
}

#[test]
fn wrong_command_lines_are_refused() {
    for (options, named) in [
        ("knn", vec!["required"]),
        ("knn --checkpoint nowhere", vec!["nowhere", "No such file"]),
        ("knn --checkpoint .", vec!["config.json", "folder of a run"]),
        ("knn --checkpoint run --weights momentum", vec!["no momentum encoder", "--weights"]),
        ("knn --checkpoint run --dataset cifar10 --data none", vec!["none", "--data", "--download"]),
        ("knn --checkpoint run --device cuda:99", vec!["--device cuda:99"]),
        ("knn --checkpoint run --limit -1", vec!["--limit"]),
        ("knn --checkpoint run --encoder-batch 0", vec!["--encoder-batch"]),
        ("knn --checkpoint run --json none/results.json", vec!["--json none/results.json", "folder"]),
        ("linear --checkpoint run --batch-size 65", vec!["--batch-size 65", "64"]),
        ("linear --checkpoint run", vec!["--batch-size 256", "64"]),
        ("linear --checkpoint run --epochs 0", vec!["--epochs"]),
        ("linear --checkpoint run --lr nan", vec!["--lr", "'nan'", "above 0"]),
        ("finetune --checkpoint run --batch-size 0", vec!["--batch-size 0"]),
        ("finetune --checkpoint run --batch-size 8 --layer-decay 2", vec!["--layer-decay", "'2'", "at most 1"]),
        ("finetune --checkpoint run --batch-size 8 --mixup 200", vec!["--mixup", "'200'", "0 for none"]),
        ("finetune --checkpoint run --batch-size 8 --drop-path 1", vec!["--drop-path", "'1'", "at most 0.99"]),
        ("finetune --checkpoint run --epochs 2 --warmup-epochs 3", vec!["--warmup-epochs 3", "--epochs 2"]),
    ] {
        assert_refused(options, &named);
    }
}

#[test]
fn training_that_leaves_all_bounds_says_so() {
    assert_refused("linear --checkpoint run --batch-size 16 --lr 1e300", &["finite", "--lr"]);
    assert_refused(
        "finetune --checkpoint run --batch-size 16 --warmup-epochs 0 --lr 1e6",
        &["epoch", "finite", "--lr"],
    );
}

#[cfg(unix)]
#[test]
fn an_interrupted_fine_tuning_stops_with_a_word() {
    use std::io::{BufRead, BufReader};
    use std::process::Stdio;

    let options = "finetune --checkpoint run --batch-size 16 --epochs 100000 --threads 1";
    let mut child = evaluation(options).stderr(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map(Result::unwrap);
    assert!(lines.any(|line| line.starts_with("epoch")), "it trains");
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    assert!(lines.any(|line| line.starts_with("stopped in epoch") && line.contains("nothing was written")));
    assert_eq!(child.wait().unwrap().code(), Some(130));
}
