//! `evaluate finetune`: what it measures, and that it resumes.

use std::fs;
use std::path::Path;

use patchmix::checkpoint::Checkpoint;
use serde_json::Value;

use super::{assert_refused, evaluation, results};
use crate::support::{error_text, read_json};

const OPTIONS: &str = "finetune --checkpoint run --batch-size 16 --device cpu --threads 1";

/// The results of a fine-tuning in a new folder, and what it prints.
#[track_caller]
fn finetuned(options: &str) -> (String, Value) {
    let folder = tempfile::tempdir().unwrap();
    results(&format!("finetune --checkpoint run --batch-size 16 {options} --out {}/out", folder.path().display()))
}

/// Expects the same text and tensors in both files.
#[track_caller]
pub(super) fn assert_same_model(a: &Path, b: &Path) {
    let [a, b] = [a, b].map(|path| Checkpoint::load(path).unwrap());
    assert_eq!(a.metadata, b.metadata);
    assert_eq!(a.tensors.len(), b.tensors.len());
    for (name, tensor) in &a.tensors {
        assert_eq!(tensor, &b.tensors[name], "{name}");
    }
}

/// Runs `evaluate` to its end.
#[track_caller]
fn run(options: &str) {
    let output = evaluation(options).output().unwrap();
    assert!(output.status.success(), "{options}: {}", error_text(&output));
}

#[test]
fn fine_tuning_measures_both_weights_after_the_last_and_the_best_epoch() {
    let (printed, first) = finetuned("--epochs 3");
    for words in ["averaged weights  top-1", "after the last epoch", "the best on the test images"] {
        assert!(printed.contains(words), "{printed}");
    }
    let accuracy = &first["accuracy"];
    let epochs = accuracy["epochs"].as_array().unwrap();
    assert_eq!(epochs.len(), 3);
    for weights in ["averaged_weights", "weights"] {
        assert_eq!(accuracy[weights]["last_epoch"], epochs[2][weights]);
        let top1 = |epoch: &Value| epoch[weights]["top1"].as_f64().unwrap();
        let best = &accuracy[weights]["best_epoch"];
        let highest = epochs.iter().map(top1).fold(0.0, f64::max);
        assert_eq!(best["accuracy"]["top1"], highest);
        assert_eq!(top1(&epochs[best["epoch"].as_u64().unwrap() as usize - 1]), highest);
    }
    assert_eq!(finetuned("--epochs 3").1["accuracy"], first["accuracy"], "it repeats itself");
    let every_second = finetuned("--epochs 3 --measure-every 2").1;
    assert_eq!(every_second["accuracy"]["epochs"].as_array().unwrap().as_slice(), &epochs[1..]);
    assert_eq!(first["recipe"]["layer_decay"], 0.75);
    let scratch = finetuned("--epochs 3 --from-scratch").1;
    assert_eq!(scratch["recipe"]["layer_decay"], 1.0);
    assert_ne!(scratch["accuracy"]["epochs"][0]["loss"], epochs[0]["loss"]);
}

/// Stopped in the middle of an epoch and resumed, it ends with the same models to the bit.
#[test]
fn a_fine_tuning_that_resumes_equals_one_that_was_never_stopped() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name).display().to_string();
    run(&format!("{OPTIONS} --epochs 3 --out {}", at("whole")));
    run(&format!("{OPTIONS} --epochs 3 --stop-after 3 --out {}", at("parts")));
    assert!(!Path::new(&at("parts/averaged.safetensors")).exists());
    run(&format!("finetune --resume --stop-after 3 --out {}", at("parts")));
    run(&format!("finetune --resume --measure-every 1 --out {}", at("parts")));
    for name in ["averaged.safetensors", "last.safetensors"] {
        assert_same_model(&folder.path().join("whole").join(name), &folder.path().join("parts").join(name));
    }
    let [whole, parts] = ["whole", "parts"].map(|run| read_json(&folder.path().join(run).join("results.json")));
    assert_eq!(whole["accuracy"], parts["accuracy"]);
    assert_eq!(whole["encoder"], parts["encoder"]);

    // The model has timm's names and says what it is.
    let model = Checkpoint::load(&folder.path().join("whole/last.safetensors")).unwrap();
    assert_eq!(model.tensors["head.weight"].size(), [10, 16]);
    assert!(model.metadata["timm"].contains("num_classes=10"), "{:?}", model.metadata);
    assert_eq!(serde_json::from_str::<Vec<String>>(&model.metadata["classes"]).unwrap().len(), 10);

    // Nothing is overwritten, and another recipe is not resumed.
    let whole = at("whole");
    assert_refused(&format!("{OPTIONS} --out {whole}"), &["holds a fine-tuning already", "--resume"]);
    assert_refused(&format!("finetune --resume --out {whole} --drop-path 0.5"), &["--drop-path 0.5", "0.1"]);
    assert_refused(&format!("finetune --resume --out {whole} --limit 32"), &["32 images", "restore"]);
    assert_refused(&format!("finetune --resume --out {}", at("none")), &["finetune.json", "--out"]);
    assert_refused(&format!("{OPTIONS} --out {}", folder.path().display()), &["is not empty", "--out"]);
}

/// A fine-tuning that died before it saved starts from the beginning.
#[test]
fn a_fine_tuning_without_a_state_begins_again() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    run(&format!("{OPTIONS} --epochs 1 --out {}", out.display()));
    fs::rename(out.join("last.safetensors"), folder.path().join("finished.safetensors")).unwrap();
    fs::remove_file(out.join("state.safetensors")).unwrap();
    let output = evaluation(&format!("finetune --resume --out {}", out.display())).output().unwrap();
    assert!(error_text(&output).contains("starting from the beginning"), "{}", error_text(&output));
    assert_same_model(&out.join("last.safetensors"), &folder.path().join("finished.safetensors"));
}

#[test]
fn wrong_recipes_are_refused() {
    for (options, named) in [
        ("--batch-size 0", vec!["--batch-size 0"]),
        ("--layer-decay 2", vec!["--layer-decay", "'2'", "at most 1"]),
        ("--mixup 200", vec!["--mixup", "'200'", "0 for none"]),
        ("--drop-path 1", vec!["--drop-path", "'1'", "at most 0.99"]),
        ("--epochs 2 --warmup-epochs 3", vec!["--warmup-epochs 3", "--epochs 2"]),
        ("--crop-min-scale 0.5", vec!["--crop-min-scale", "image folders"]),
        ("--epochs 8 --warmup-epochs 0 --lr 1e6", vec!["epoch", "finite", "--lr"]),
    ] {
        let folder = tempfile::tempdir().unwrap();
        assert_refused(&format!("{OPTIONS} {options} --out {}/out", folder.path().display()), &named);
    }
}

#[cfg(unix)]
#[test]
fn an_interrupted_fine_tuning_saves_and_says_how_to_resume() {
    use std::io::{BufRead, BufReader};
    use std::process::{Command, Stdio};

    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    let options = format!("{OPTIONS} --epochs 100000 --out {}", out.display());
    let mut child = evaluation(&options).stderr(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map(Result::unwrap);
    assert!(lines.any(|line| line.starts_with("epoch")), "it trains");
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    assert!(lines.any(|line| line.contains("-- finetune --resume --out '") && line.contains("/out'")));
    assert_eq!(child.wait().unwrap().code(), Some(130));
    assert!(out.join("state.safetensors").exists());
}
