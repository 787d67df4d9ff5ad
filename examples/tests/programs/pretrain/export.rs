//! The encoder of a run in a file of its own, and timm's outputs with it.

use std::path::Path;
use std::process::Output;

use patchmix::checkpoint::Checkpoint;
use patchmix::contrast::{HeadConfig, Model};
use patchmix::vit::{EncoderFile, Pooling, Precision, VitConfig};
use tch::Device;
use tch::nn::VarStore;

use super::{TINY, run_well};
use crate::support::{command_in, error_text, python, run_script};

/// The encoder of [`TINY`].
const SHAPE: VitConfig = VitConfig {
    image_size: 32,
    patch_size: 8,
    width: 16,
    depth: 2,
    heads: 2,
    mlp_ratio: 4,
    drop_path: 0.0,
    precision: Precision::Full,
};

fn export(folder: &Path, options: &str) -> Output {
    command_in(folder, "export_encoder", options).output().unwrap()
}

#[track_caller]
fn export_well(folder: &Path, options: &str) -> (EncoderFile, String) {
    let output = export(folder, options);
    assert!(output.status.success(), "{options}: {}", error_text(&output));
    let out = options.split_whitespace().skip_while(|word| *word != "--out").nth(1).unwrap();
    (EncoderFile::load(&folder.join(out)).unwrap(), String::from_utf8(output.stdout).unwrap())
}

#[test]
fn the_encoder_of_a_run_is_written_as_it_was_trained() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    run_well(folder, &format!("{TINY} --epochs 2 --knn-every 1 --momentum-encoder 0.5 --out run"));
    let (file, printed) = export_well(folder, "--checkpoint run --out exported.safetensors");
    assert_eq!((&file.config, file.pooling), (&SHAPE, Pooling::ClassToken));
    let of = "momentum encoder, last checkpoint, epoch 2 of";
    for words in ["width 16", "30 tensors", "9,968 parameters", of, &file.timm()] {
        assert!(printed.contains(words), "{words}: {printed}");
    }

    // The same features as the encoder in the whole model that was saved.
    let last = folder.join("run/checkpoints/epoch-00002-batch-000000.safetensors");
    let saved = Checkpoint::load(&last).unwrap();
    let images = tch::Tensor::rand([3, 3, 32, 32], (tch::Kind::Float, Device::Cpu));
    let cases = [
        ("momentum", "--out default.safetensors"),
        ("momentum", "--encoder momentum --out momentum.safetensors"),
        ("model", "--encoder trained --out trained.safetensors"),
    ];
    for (part, options) in cases {
        let (file, _) = export_well(folder, &format!("--checkpoint run {options}"));
        let own = VarStore::new(Device::Cpu);
        let encoder = file.to_vit(&own.root()).unwrap();
        let store = VarStore::new(Device::Cpu);
        let whole = Model::new(&store.root(), &SHAPE, &HeadConfig { hidden: 16, output: 8 }).unwrap().network.encoder;
        let variables = store.variables().into_iter().filter(|(name, _)| name.starts_with("encoder."));
        saved.restore(part, variables.collect(), &last).unwrap();
        assert_eq!(encoder.tokens(&images, false).unwrap(), whole.tokens(&images, false).unwrap(), "{options}");
    }

    // A checkpoint of the run by its own name, and an encoder file with another pooling.
    let newest = "run/checkpoints/epoch-00002-batch-000000.safetensors";
    let (_, printed) = export_well(folder, &format!("--checkpoint {newest} --out newest.safetensors"));
    assert!(printed.contains("epoch 2 of"), "{printed}");
    let options = "--checkpoint exported.safetensors --pooling patch-mean --out mean.safetensors";
    let (mean, _) = export_well(folder, options);
    assert_eq!((mean.pooling, mean.tensors), (Pooling::PatchMean, file.tensors));
}

#[test]
fn what_cannot_be_exported_is_refused_in_one_line() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    run_well(folder, &format!("{TINY} --epochs 1 --out run"));
    export_well(folder, "--checkpoint run --out there.safetensors");
    for (options, words) in [
        ("--checkpoint run --encoder momentum --out new.safetensors", "its run had none"),
        ("--checkpoint there.safetensors --encoder momentum --out new.safetensors", "holds one encoder"),
        ("--checkpoint there.safetensors --best --out new.safetensors", "is one checkpoint"),
        ("--checkpoint run --out there.safetensors", "there.safetensors: exists already"),
        ("--checkpoint nowhere --out new.safetensors", "nowhere"),
        ("--checkpoint . --out new.safetensors", "name the folder of a run"),
        ("--checkpoint run/config.json --out new.safetensors", "not a whole safetensors file"),
        ("--checkpoint run --out new.pth", "must end in .safetensors"),
        ("--checkpoint run --out nowhere/new.safetensors", "nowhere/new.safetensors"),
    ] {
        let output = export(folder, options);
        let error = error_text(&output);
        assert!(!output.status.success() && error.contains(words) && error.lines().count() == 1, "{options}: {error}");
        assert!(!folder.join("new.safetensors").exists());
    }
}

/// A checkpoint and its folder may come from somebody else.
#[test]
fn what_a_checkpoint_is_called_does_not_steer_the_terminal() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    run_well(folder, &format!("{TINY} --epochs 1 --out run"));
    let saved = "run/checkpoints/epoch-00001-batch-000000.safetensors";
    let mut checkpoint = Checkpoint::load(&folder.join(saved)).unwrap();
    checkpoint.metadata.insert("epoch".to_owned(), "1\u{1b}[2J\nof".to_owned());
    checkpoint.save(&folder.join("run/checkpoints/\u{1b}c.safetensors")).unwrap();
    let options = "--checkpoint run/checkpoints/\u{1b}c.safetensors --out \u{1b}d.safetensors --reference \u{1b}e";
    let (_, printed) = export_well(folder, options);
    assert!(printed.contains(r"epoch 1\u{1b}[2J\nof of run/checkpoints/\u{1b}c.safetensors"), "{printed}");
    let output = export(folder, "--checkpoint \u{1b}d.safetensors --best --out new.safetensors");
    let again = export(folder, "--checkpoint run --out \u{1b}d.safetensors");
    for text in [printed, error_text(&output), error_text(&again)] {
        assert!(!text.contains('\u{1b}') && text.contains(r"\u{1b}d.safetensors"), "{text}");
    }

    let manifest = folder.join("run/checkpoints/manifest.json");
    let text = std::fs::read_to_string(&manifest).unwrap();
    std::fs::write(&manifest, text.replace("epoch-00001-batch-000000", "../../\u{9b}d")).unwrap();
    let error = error_text(&export(folder, "--checkpoint run --out new.safetensors"));
    assert!(error.contains(r#"manifest.json: "../../\u{9b}d.safetensors" is not the name of"#), "{error}");
}

#[test]
fn timm_computes_the_same_features_and_maps() {
    let Some(mut python) = python("torch torchvision timm safetensors") else { return };
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    run_well(folder, &format!("{TINY} --epochs 2 --out run"));
    for pooling in ["class-token", "patch-mean"] {
        let files = format!("--out {pooling}.safetensors --reference {pooling}-reference.safetensors");
        export_well(folder, &format!("--checkpoint run --pooling {pooling} {files}"));
    }
    let path = |name: &str| format!("{}.safetensors", folder.join(name).display());
    let lines = [
        format!("{} --reference {}", path("class-token"), path("class-token-reference")),
        format!("{} --reference {}", path("patch-mean"), path("patch-mean-reference")),
        format!("{} --reference {}", path("class-token"), path("patch-mean-reference")),
        format!("{} --model vit_small_patch16_224", path("class-token")),
        format!("{} --model deit_tiny_patch16_224", path("class-token")),
    ];
    let results = run_script(&mut python, "scripts/check_timm.py", &lines);
    for (passed, printed) in &results[..2] {
        assert!(*passed && printed.matches("equal ").count() == 5, "{printed}");
    }
    // Differences are reported, and a model whose name stands for another number of heads is refused.
    let words = ["DIFFERENT  features", "has 6 heads, the encoder 2", "has 3 heads, the encoder 2"];
    for ((passed, printed), words) in results[2..].iter().zip(words) {
        assert!(!passed && printed.contains(words), "{printed}");
    }
}

/// The published ViT-S has twelve heads; timm's model of that name has six.
#[test]
fn the_published_small_vit_names_its_twelve_heads() {
    let (mean, std, pooling) = ([0.5; 3], [0.5; 3], Pooling::ClassToken);
    let file = EncoderFile { config: VitConfig::small(32, 2), mean, std, pooling, tensors: [].into() };
    assert!(file.timm().contains("embed_dim=384, depth=12, num_heads=12, "), "{}", file.timm());
}
