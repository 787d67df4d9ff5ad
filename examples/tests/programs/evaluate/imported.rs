//! A checkpoint of the published form, imported and measured like the weights that it was made of.

use std::path::Path;

use patchmix::augment::{IMAGENET_MEAN, IMAGENET_STD};
use patchmix::vit::{EncoderFile, Pooling, Vit};
use serde_json::Value;
use tch::nn::VarStore;
use tch::{Device, Kind};

use super::encoder_config;
use crate::support::{SIDE, command_in, error_text, python, read_json, run_script};

const MODULES: &str = "torch numpy safetensors";

/// Saves two encoders as the published code saves them: projectors in the encoders, a predictor, everything behind the
/// prefix of DataParallel, next to the state of the training. Saves one of them compiled, in half precision, too.
const PUBLISH: &str = r#"
import argparse, sys, torch, safetensors.torch
weights = {}
for role in ["base", "momentum"]:
    encoder = safetensors.torch.load_file(role + ".safetensors")
    encoder |= {"head.0.weight": torch.ones(16, 16), "head.1.running_mean": torch.ones(16)}
    weights |= {f"module.{role}_encoder.{name}": tensor for name, tensor in encoder.items()}
weights |= {"module.predictor.0.weight": torch.ones(16, 8)}
optimizer = {"state": {0: {"step": torch.tensor(3.0), "exp_avg": torch.ones(16)}}, "param_groups": [{"lr": 1e-3}]}
args = argparse.Namespace(arch="vit-small", batch_size=512)
torch.save({"epoch": 800, "state_dict": weights, "optimizer": optimizer, "args": args}, "published.pth")
encoder = safetensors.torch.load_file("base.safetensors")
torch.save({"module._orig_mod." + name: tensor.half() for name, tensor in encoder.items()}, "compiled.pth")
"#;

/// Writes a random encoder to a file, without the detour of a checkpoint.
fn write_encoder(path: &Path) {
    let config = encoder_config(SIDE, 8);
    let store = VarStore::new(Device::Cpu);
    Vit::new(&store.root(), &config).unwrap();
    let (mean, std, pooling) = (IMAGENET_MEAN, IMAGENET_STD, Pooling::ClassToken);
    EncoderFile { config, mean, std, pooling, tensors: store.variables() }.save(path).unwrap();
}

/// What an evaluation measures with an encoder file on built-in images.
fn measured(folder: &Path, encoder: &str, (command, results): (&str, &str)) -> Value {
    let common = "--dataset builtin --limit 64 --device cpu --threads 1 --json results.json";
    let options = format!("{command} --checkpoint {encoder}.safetensors {common}");
    let output = command_in(folder, "evaluate", &options).output().unwrap();
    assert!(output.status.success(), "{options}: {}", error_text(&output));
    let measured = read_json(&folder.join("results.json"))[results].take();
    assert!(!measured.is_null(), "{options}");
    measured
}

/// Checkpoints in a folder, imported: name of the checkpoint, name of the encoder file, options.
#[track_caller]
fn import(folder: &Path, cases: &[(&str, &str, &str)]) {
    let line = |(checkpoint, out, options): &(&str, &str, &str)| {
        let [checkpoint, out] =
            [format!("{checkpoint}.pth"), format!("{out}.safetensors")].map(|name| folder.join(name));
        format!("{} {} --heads 2 {options}", checkpoint.display(), out.display())
    };
    let lines: Vec<String> = cases.iter().map(line).collect();
    let results = run_script(&mut python(MODULES).unwrap(), "scripts/import_checkpoint.py", &lines);
    assert!(results.iter().all(|(imported, _)| *imported), "{results:?}");
}

const KNN: (&str, &str) = ("knn", "protocols");

#[test]
fn a_published_checkpoint_is_measured_like_the_weights_in_it() {
    let Some(mut publish) = python(MODULES) else { return };
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    tch::manual_seed(1);
    for role in ["base", "momentum"] {
        write_encoder(&folder.join(format!("{role}.safetensors")));
    }
    let mut rounded = EncoderFile::load(&folder.join("base.safetensors")).unwrap();
    for tensor in rounded.tensors.values_mut() {
        *tensor = tensor.to_kind(Kind::Half).to_kind(Kind::Float);
    }
    rounded.save(&folder.join("rounded.safetensors")).unwrap();
    let output = publish.args(["-c", PUBLISH]).current_dir(folder).output().unwrap();
    assert!(output.status.success(), "{}", error_text(&output));

    let cases = [
        ("published", "imported-momentum", ""),
        ("published", "imported-base", "--encoder trained"),
        ("compiled", "imported-rounded", ""),
    ];
    import(folder, &cases);
    let direct = ["momentum", "base", "rounded"].map(|role| {
        let direct = measured(folder, role, KNN);
        assert_eq!(measured(folder, &format!("imported-{role}"), KNN), direct, "{role}");
        direct
    });
    assert_ne!(direct[0], direct[1], "the two encoders can be told apart");

    let finetune = |out: &str| format!("finetune --epochs 1 --batch-size 16 --out {out}");
    let trained = |encoder: &str, out: &str| {
        [("linear --cached --epochs 1 --batch-size 16", "rates"), (&finetune(out), "accuracy")]
            .map(|evaluation| measured(folder, encoder, evaluation))
    };
    assert_eq!(trained("imported-momentum", "tuned-imported"), trained("momentum", "tuned"));
}
