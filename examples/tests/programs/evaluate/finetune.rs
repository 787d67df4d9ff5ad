//! `evaluate finetune`: what it measures, and that it resumes.

use std::fs;
use std::path::Path;

use patchmix::augment::normalize;
use patchmix::checkpoint::Checkpoint;
use patchmix::data::procedural;
use patchmix::eval::{accuracy, evaluation_view};
use patchmix::finetune::Classifier;
use patchmix::vit::{EncoderFile, Vit};
use serde_json::Value;
use tch::nn::VarStore;
use tch::{Device, Kind, Tensor};

use super::{assert_refused, encoder_config, encoder_file, evaluation, results};
use crate::support::{TINY_RUN, command_in, error_text, read_json};

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
    for weights in ["averaged_weights", "last_weights"] {
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
    // The encoder's file may be gone and the working directory another one when it resumes.
    fs::copy(TINY_RUN.join(encoder_file()), at("encoder.safetensors")).unwrap();
    let of_file = format!("--checkpoint {} --dataset builtin --limit 64", at("encoder.safetensors"));
    let options = format!("finetune {of_file} --batch-size 16 --device cpu --threads 1 --epochs 3");
    run(&format!("{options} --out {}", at("whole")));
    run(&format!("{options} --stop-after 3 --out {}", at("parts")));
    assert!(!Path::new(&at("parts/averaged.safetensors")).exists());
    fs::remove_file(at("encoder.safetensors")).unwrap();
    run(&format!("finetune --resume --stop-after 3 --out {}", at("parts")));
    let resumed = command_in(folder.path(), "evaluate", "finetune --resume --measure-every 1 --out parts");
    let output = { resumed }.output().unwrap();
    assert!(output.status.success(), "{}", error_text(&output));
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
    assert_refused(&format!("finetune --resume --out {whole} --dataset cifar10 --data none"), &["none", "--data"]);
    for option in ["--checkpoint run", "--best", "--encoder=trained"] {
        assert_refused(&format!("finetune --resume --out {whole} {option}"), &["leave it out to resume"]);
    }
    assert_refused(&format!("finetune --resume --out {}", at("none")), &["finetune.json", "--out"]);
    assert_refused(&format!("{OPTIONS} --out {}", folder.path().display()), &["is not empty", "--out"]);
}

/// Test images in memory are measured whole: the accuracy is that of the saved weights on images that are only
/// normalized.
#[test]
fn fine_tuning_tests_whole_images() {
    let folder = tempfile::tempdir().unwrap();
    let file =
        EncoderFile { config: encoder_config(32, 8), ..EncoderFile::load(&TINY_RUN.join(encoder_file())).unwrap() };
    let store = VarStore::new(Device::Cpu);
    let encoder = Vit::new(&store.root(), &file.config).unwrap();
    // The same weights every time, whatever other tests draw meanwhile.
    for (name, mut weight) in store.variables().into_iter().filter(|(name, _)| !name.contains("norm")) {
        let phases = Tensor::arange(weight.numel() as i64, (Kind::Float, Device::Cpu)) * 1.7 + name.len() as f64;
        tch::no_grad(|| weight.copy_(&(phases.square().sin() * 0.2).view_as(&weight)));
    }
    let start = folder.path().join("encoder.safetensors");
    EncoderFile { tensors: store.variables(), ..file }.save(&start).unwrap();
    let out = folder.path().join("out");
    run(&format!(
        "finetune --checkpoint {} --dataset builtin --limit 512 --batch-size 32 --warmup-epochs 0 --lr 0.01 --epochs 2 \
         --device cpu --threads 1 --out {}",
        start.display(),
        out.display()
    ));
    let classifier = Classifier::new(&store.root(), encoder, 10).unwrap();
    let model = Checkpoint::load(&out.join("last.safetensors")).unwrap();
    for (name, mut variable) in store.variables() {
        tch::no_grad(|| variable.copy_(&model.tensors[&name]));
    }
    let test = procedural(1000, 32, 2).unwrap();
    let images = normalize(&test.images, [0.5; 3], [0.25; 3]).unwrap();
    let logits = tch::no_grad(|| classifier.forward(&images, false).unwrap());
    let plain = accuracy(&logits, &test.labels).unwrap().top1;
    let measured = &read_json(&out.join("results.json"))["accuracy"]["last_weights"]["last_epoch"]["top1"];
    // Rounding may turn the order of two classes.
    assert!((plain - measured.as_f64().unwrap()).abs() < 0.0015, "{plain} {measured}");
    let centers = evaluation_view(&test.images, 32).unwrap();
    let logits =
        tch::no_grad(|| classifier.forward(&normalize(&centers, [0.5; 3], [0.25; 3]).unwrap(), false).unwrap());
    let of_centers = accuracy(&logits, &test.labels).unwrap().top1;
    assert!((plain - of_centers).abs() > 0.0015, "the two views differ: {plain} {of_centers}");
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
    // As the last word, where the parser has not come to the other options yet.
    assert_refused(&format!("{OPTIONS} --mixup 200"), &["--mixup", "'200'"]);
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
    // It has its folder for itself.
    let holder = format!("process {} on ", child.id());
    let resumed = format!("finetune --resume --out {}", out.display());
    assert_refused(&resumed, &[&holder, "is training there"]);
    assert_refused(&options, &["holds a fine-tuning already"]);
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    assert!(lines.any(|line| line.contains("-- finetune --resume --out '") && line.contains("/out'")));
    assert_eq!(child.wait().unwrap().code(), Some(130));
    assert!(out.join("state.safetensors").exists());
}
