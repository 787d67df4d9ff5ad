//! PyTorch checkpoints, converted to encoder files by `scripts/import_checkpoint.py`.
#![allow(clippy::unwrap_used)] // a test may panic, helpers included

mod common;

use std::path::Path;

use common::python::{python, run_script};
use common::{Golden, assert_close, fixtures, golden_shape};
use patchmix::augment::{IMAGENET_MEAN, IMAGENET_STD};
use patchmix::vit::{EncoderFile, Pooling};
use tch::Device;
use tch::nn::VarStore;

const MODULES: &str = "torch numpy safetensors";

/// Saves the published model of `vit_state` in the forms of public checkpoints: complete, encoder only, and
/// unsupported.
const CHECKPOINTS: &str = r#"
import argparse, os, sys, torch, safetensors.torch
state, folder = safetensors.torch.load_file(sys.argv[1]), sys.argv[2]
state |= {name.replace("base_", "momentum_"): 2 * tensor for name, tensor in state.items() if name.startswith("base_")}
base = {name.removeprefix("base_encoder."): tensor for name, tensor in state.items() if name.startswith("base_")}
bare = {name: tensor for name, tensor in base.items() if not name.startswith("head.")}
parallel = {"module." + name: tensor for name, tensor in state.items()}
save = lambda value, name: torch.save(value, os.path.join(folder, name))
class Foreign: pass
args = argparse.Namespace(lr=1.0)
save({"epoch": 8, "state_dict": parallel, "args": args, "optimizer": {"state": {}}}, "published.pth")
save({"model": bare | {"head.weight": torch.ones(10, 48)}}, "classifier.pth")
save({name: tensor.double() for name, tensor in bare.items()}, "bare.pth")
safetensors.torch.save_file(bare, os.path.join(folder, "plain.safetensors"))
save({"state_dict": parallel, "args": Foreign()}, "foreign.pth")
save({"model": bare | {"norm.bias": torch.ones(49)}}, "misshapen.pth")
save({"model": bare | {"blocks.0.ls1.gamma": torch.ones(48)}}, "scaled.pth")
save({"model": {name: tensor for name, tensor in bare.items() if "blocks.1.mlp" not in name}}, "missing.pth")
save([1, 2], "list.pth")
"#;

fn checkpoints(folder: &Path) -> Option<()> {
    let state = fixtures().join("vit_state.safetensors");
    let output = python(MODULES)?.args(["-c", CHECKPOINTS]).arg(state).arg(folder).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Some(())
}

/// For each checkpoint, encoder file and options: whether the script imports it, and its output.
fn import(folder: &Path, cases: &[(&str, &str, &str)]) -> Vec<(bool, String)> {
    let line = |&(name, out, options): &(&str, &str, &str)| {
        format!("{} {} {options}", folder.join(name).display(), folder.join(out).display())
    };
    let lines: Vec<String> = cases.iter().map(line).collect();
    run_script(&mut python(MODULES).unwrap(), "scripts/import_checkpoint.py", &lines)
}

#[test]
fn a_published_checkpoint_gives_the_published_features() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    if checkpoints(folder).is_none() {
        return;
    }
    let golden = Golden::read("vit_io.safetensors");
    let options = "--heads 4 --source momentum --pooling patch-mean --mean 0.5 0.5 0.25 --std 0.5 0.125 1";
    let cases = [
        ("published.pth", "1.safetensors", "--heads 3"),
        ("classifier.pth", "2.safetensors", "--heads 3"),
        ("bare.pth", "3.safetensors", "--heads 3"),
        ("plain.safetensors", "4.safetensors", "--heads 3"),
        ("published.pth", "momentum.safetensors", options),
    ];
    let results = import(folder, &cases);
    assert!(results.iter().all(|(imported, _)| *imported), "{results:?}");
    for ((name, out, _), (_, text)) in cases[..4].iter().zip(results) {
        assert_eq!(text.contains("of base_encoder.head"), *name == "published.pth", "{text}");
        let file = EncoderFile::load(&folder.join(out)).unwrap();
        assert_eq!(file.config, golden_shape().0);
        assert_eq!((file.mean, file.std, file.pooling), (IMAGENET_MEAN, IMAGENET_STD, Pooling::ClassToken));
        assert!(text.contains(&file.timm()), "{text}");
        let store = VarStore::new(Device::Cpu);
        let encoder = file.to_vit(&store.root()).unwrap();
        assert_close(name, &encoder.tokens(golden.tensor("x"), false).unwrap(), golden.tensor("features"), 1e-5);
    }
    // The momentum encoder, with other options.
    let file = EncoderFile::load(&folder.join("momentum.safetensors")).unwrap();
    assert_eq!((file.config.heads, file.pooling), (4, Pooling::PatchMean));
    assert_eq!((file.mean, file.std), ([0.5, 0.5, 0.25], [0.5, 0.125, 1.0]));
    let doubled = Golden::read("vit_state.safetensors").tensor("base_encoder.pos_embed") * 2.0;
    assert_eq!(file.tensors["pos_embed"], doubled);
}

#[test]
fn an_unsupported_checkpoint_is_refused_in_one_line() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    if checkpoints(folder).is_none() {
        return;
    }
    std::fs::write(folder.join("text.pth"), "no checkpoint").unwrap();
    let cases = [
        ("foreign.pth", "--heads 3", "__main__.Foreign"),
        ("misshapen.pth", "--heads 3", "norm.bias has shape (49,)"),
        ("scaled.pth", "--heads 3", "blocks.0.ls1.gamma has no place"),
        ("missing.pth", "--heads 3", "has no blocks.1.mlp.fc1.weight"),
        ("list.pth", "--heads 3", "has no weights"),
        ("text.pth", "--heads 3", "is no checkpoint"),
        ("none.pth", "--heads 3", "no such file"),
        ("bare.pth", "--heads 5", "--heads 5"),
        ("bare.pth", "--arch vit-small", "width 384 and 12 blocks, the file width 48 and 2 blocks"),
        ("bare.pth", "--heads 3 --source momentum", "no momentum encoder"),
        ("bare.pth", "", "--heads --arch is required"),
    ];
    let results = import(folder, &cases.map(|(name, options, _)| (name, "out.safetensors", options)));
    for ((name, options, words), (imported, text)) in cases.into_iter().zip(results) {
        assert!(!imported && text.contains(words), "{name} {options}: {text}");
        assert_eq!(text.matches("error: ").count(), 1, "{name} {options}: {text}");
    }
    assert!(!folder.join("out.safetensors").exists());
}
