//! Whose features are measured: which encoder of a run, from which of its checkpoints.

use std::path::Path;

use approx::assert_abs_diff_eq;

use crate::pretrain::{TINY, run_well};
use crate::support::{assert_refused, command_in, error_text, metrics, read_json};

/// kNN accuracy as a run measures it, in percent, and what the evaluation says of the encoder.
#[track_caller]
fn knn(folder: &Path, options: &str) -> (f64, String) {
    let options = format!("knn {options} --device cpu --threads 1 --json results.json");
    let output = command_in(folder, "evaluate", &options).output().unwrap();
    assert!(output.status.success(), "{options}: {}", error_text(&output));
    let results = read_json(&folder.join("results.json"));
    let mut protocols = results["protocols"].as_array().unwrap().iter();
    let published = protocols.find(|protocol| {
        protocol["features"] == "class token" && protocol["k"] == 20 && protocol["temperature"] == 0.07
    });
    let encoder = results["encoder"].as_str().unwrap().to_owned();
    assert!(error_text(&output).contains(&encoder), "it is printed too");
    (100.0 * published.unwrap()["accuracy"]["top1"].as_f64().unwrap(), encoder)
}

/// The momentum encoder of the last checkpoint, unless another one is asked for; each as accurate as the run said.
#[test]
fn the_momentum_encoder_of_the_last_checkpoint_is_measured() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let output = run_well(folder, &format!("{TINY} --epochs 3 --knn-every 1 --momentum-encoder 0.9 --out run"));
    let summary = read_json(&folder.join("run/summary.json"));
    let rows = metrics(&folder.join("run"));
    let last = &rows[2];
    for (column, name) in [("knn_top1", "knn_trained"), ("knn_top1_momentum", "knn_momentum")] {
        assert_eq!(summary[name].as_f64(), Some(last.number(column)), "{name}");
    }
    let (trained, momentum) = (last.number("knn_top1"), last.number("knn_top1_momentum"));
    let line = format!("kNN {trained:>4.1} % (momentum {momentum:>4.1} %)");
    assert!(error_text(&output).contains(&line), "{line}: {}", error_text(&output));
    let printed = String::from_utf8(output.stdout).unwrap();
    assert!(
        printed.contains(&format!("{trained:.1} % trained encoder, {momentum:.1} % momentum encoder")),
        "{printed}"
    );

    let momentum_of = |row: usize| rows[row].number("knn_top1_momentum");
    let best = (0..3).rev().max_by(|a, b| momentum_of(*a).total_cmp(&momentum_of(*b))).unwrap();
    let best_says = format!("best checkpoint by kNN on the test images (selected on them), epoch {}", best + 1);
    let best_file = "run/checkpoints/best.safetensors";
    for (options, expected, words) in [
        ("--checkpoint run", momentum, "momentum encoder, last checkpoint, epoch 3 of".to_owned()),
        ("--checkpoint run --encoder momentum", momentum, "momentum encoder, last checkpoint, epoch 3 of".to_owned()),
        ("--checkpoint run --encoder trained", trained, "trained encoder, last checkpoint, epoch 3 of".to_owned()),
        ("--checkpoint run --best", momentum_of(best), format!("momentum encoder, {best_says}")),
        (&format!("--checkpoint {best_file}"), momentum_of(best), format!("momentum encoder, {best_says}")),
        (
            &format!("--checkpoint {best_file} --encoder trained"),
            rows[best].number("knn_top1"),
            format!("trained encoder, {best_says}"),
        ),
        (
            "--checkpoint run/checkpoints/epoch-00002-batch-000000.safetensors",
            momentum_of(1),
            "px, momentum encoder, epoch 2 of".to_owned(),
        ),
    ] {
        let (accuracy, encoder) = knn(folder, options);
        assert!(encoder.contains(&words), "{options}: {encoder}");
        assert_abs_diff_eq!(accuracy, expected, epsilon = 0.006);
    }
}

#[test]
fn a_run_that_has_measured_nothing_has_no_best_checkpoint() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    run_well(folder, &format!("{TINY} --epochs 3 --stop-after 2 --out run"));
    let (_, encoder) = knn(folder, "--checkpoint run");
    assert!(encoder.contains("trained encoder, last checkpoint, epoch 0 of"), "{encoder}");
    let options = "knn --checkpoint run --best";
    let output = command_in(folder, "evaluate", options).output().unwrap();
    assert_refused(options, &output, &["no checkpoint with a kNN accuracy", "--best"]);
}
