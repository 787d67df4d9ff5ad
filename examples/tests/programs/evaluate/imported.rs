//! A checkpoint of the published form, imported and measured like the weights that it was made of.

use std::path::Path;

use patchmix::augment::{IMAGENET_MEAN, IMAGENET_STD};
use patchmix::vit::{EncoderFile, Pooling, Vit};
use serde_json::Value;
use tch::Device;
use tch::nn::VarStore;

use super::encoder_config;
use crate::support::{SIDE, command_in, error_text, python, read_json, run_script};

/// Saves two encoders as the published code saves them: projectors in the encoders, a predictor, everything behind the
/// prefix of DataParallel, next to the state of the training.
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
"#;

/// Writes a random encoder to a file, without the detour of a checkpoint.
fn write_encoder(path: &Path) {
    let config = encoder_config(SIDE, 8);
    let store = VarStore::new(Device::Cpu);
    Vit::new(&store.root(), &config).unwrap();
    let (mean, std, pooling) = (IMAGENET_MEAN, IMAGENET_STD, Pooling::ClassToken);
    EncoderFile { config, mean, std, pooling, tensors: store.variables() }.save(path).unwrap();
}

/// Every accuracy that `evaluate knn` measures on built-in images.
fn knn(folder: &Path, encoder: &str) -> Value {
    let options = format!("knn --checkpoint {encoder} --dataset builtin --limit 64 --device cpu --json results.json");
    let output = command_in(folder, "evaluate", &options).output().unwrap();
    assert!(output.status.success(), "{}", error_text(&output));
    read_json(&folder.join("results.json"))["protocols"].take()
}

#[test]
fn a_published_checkpoint_is_measured_like_the_weights_in_it() {
    let Some(mut publish) = python("torch numpy safetensors") else { return };
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    tch::manual_seed(1);
    for role in ["base", "momentum"] {
        write_encoder(&folder.join(format!("{role}.safetensors")));
    }
    let output = publish.args(["-c", PUBLISH]).current_dir(folder).output().unwrap();
    assert!(output.status.success(), "{}", error_text(&output));

    let names = [("", "momentum"), ("--encoder trained", "base")];
    let line = |(options, role)| {
        let (checkpoint, out) = (folder.join("published.pth"), folder.join(format!("imported-{role}.safetensors")));
        format!("{} {} --heads 2 {options}", checkpoint.display(), out.display())
    };
    let mut python = python("torch numpy safetensors").unwrap();
    let results = run_script(&mut python, "scripts/import_checkpoint.py", &names.map(line));
    assert!(results.iter().all(|(imported, _)| *imported), "{results:?}");

    let measured = names.map(|(_, role)| {
        let direct = knn(folder, &format!("{role}.safetensors"));
        assert_eq!(knn(folder, &format!("imported-{role}.safetensors")), direct, "{role}");
        direct
    });
    assert_ne!(measured[0], measured[1], "the two encoders can be told apart");
}
