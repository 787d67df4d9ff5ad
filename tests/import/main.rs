//! PyTorch checkpoints, converted to encoder files by `scripts/import_checkpoint.py`.
#![allow(clippy::unwrap_used)] // a test may panic, helpers included

#[path = "../common/mod.rs"]
mod common;

mod cases;
mod process;
mod refused;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use common::python::{python, run_script};
use common::{Golden, assert_close, fixtures, golden_shape};
use patchmix::augment::{IMAGENET_MEAN, IMAGENET_STD};
use patchmix::vit::{EncoderFile, Pooling};
use tch::nn::VarStore;
use tch::{Device, Kind, Tensor};

const MODULES: &str = "torch numpy safetensors";

/// The folder of the checkpoints that `checkpoints.py` saves, if there is a Python for it. They are made of the
/// published model of `vit_state`; a momentum encoder has twice its weights.
static CHECKPOINTS: LazyLock<Option<PathBuf>> = LazyLock::new(|| {
    let mut python = python(MODULES)?;
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("import-checkpoints");
    if folder.exists() {
        fs::remove_dir_all(&folder).unwrap();
    }
    fs::create_dir_all(&folder).unwrap();
    let arguments = [Path::new("tests/import/checkpoints.py"), &fixtures().join("vit_state.safetensors"), &folder];
    let output = python.args(arguments).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Some(folder)
});

/// For each checkpoint and options, whether the script imports it to `folder`, where the results are numbered, and its
/// output.
fn import(folder: &Path, cases: &[(&str, &str)]) -> Vec<(bool, String)> {
    let checkpoints = CHECKPOINTS.as_deref().unwrap();
    let line = |(index, (name, options)): (usize, &(&str, &str))| {
        let (checkpoint, out) = (checkpoints.join(name), folder.join(format!("{index}.safetensors")));
        format!("{} {} {options}", checkpoint.display(), out.display())
    };
    let lines: Vec<String> = cases.iter().enumerate().map(line).collect();
    run_script(&mut python(MODULES).unwrap(), "scripts/import_checkpoint.py", &lines)
}

/// For each checkpoint and options, the encoder file and the output of an import, which must succeed.
#[track_caller]
fn imported(cases: &[(&str, &str)]) -> Vec<(EncoderFile, String)> {
    let folder = tempfile::tempdir().unwrap();
    let mut files = Vec::new();
    for (index, (imported, text)) in import(folder.path(), cases).into_iter().enumerate() {
        assert!(imported, "{:?}: {text}", cases[index]);
        files.push((EncoderFile::load(&folder.path().join(format!("{index}.safetensors"))).unwrap(), text));
    }
    files
}

/// Expects the weights of `vit_state`, changed by `change`.
#[track_caller]
fn assert_weights(what: &str, file: &EncoderFile, change: impl Fn(&Tensor) -> Tensor) {
    let state = Golden::read("vit_state.safetensors");
    assert_eq!(file.config, golden_shape().0, "{what}");
    for (name, tensor) in &file.tensors {
        assert_eq!(*tensor, change(state.tensor(&format!("base_encoder.{name}"))), "{what}: {name}");
    }
}

#[test]
fn of_a_published_checkpoint_the_momentum_encoder_is_taken_where_there_is_one() {
    if CHECKPOINTS.is_none() {
        return;
    }
    let cases = [
        ("tiny.pth", "--heads 3"),
        ("small.pth", "--heads 3 --encoder trained"),
        ("small.pth", "--heads 3"),
        ("small.pth", "--heads 3 --encoder momentum"),
    ];
    let golden = Golden::read("vit_io.safetensors");
    let mut files = imported(&cases);
    for (file, text) in files.drain(2..) {
        assert!(text.contains("encoder   momentum encoder, state_dict.module.momentum_encoder\n"), "{text}");
        assert!(text.contains(&format!("{} tensors of base_encoder, ", file.tensors.len())), "{text}");
        assert_weights("momentum", &file, |tensor| tensor * 2.0);
    }
    for (file, text) in files {
        assert!(text.contains("encoder   trained encoder, state_dict.module.base_encoder\n"), "{text}");
        assert!(text.contains("tensors of base_encoder.head, ") && text.contains(" tensors of predictor"), "{text}");
        assert!(text.contains("1 tensors of optimizer") && text.contains(&file.timm()), "{text}");
        assert_eq!((file.mean, file.std, file.pooling), (IMAGENET_MEAN, IMAGENET_STD, Pooling::ClassToken));
        assert_weights("trained", &file, Tensor::shallow_clone);
        let store = VarStore::new(Device::Cpu);
        let encoder = file.to_vit(&store.root()).unwrap();
        assert_close("tokens", &encoder.tokens(golden.tensor("x"), false).unwrap(), golden.tensor("features"), 1e-5);
    }
}

#[test]
fn an_encoder_is_found_behind_any_prefix_and_in_any_container() {
    let Some(checkpoints) = &*CHECKPOINTS else { return };
    let in_folder = |folder: &str| -> Vec<String> {
        let names = fs::read_dir(checkpoints.join(folder)).unwrap().map(|entry| entry.unwrap().file_name());
        names.map(|name| format!("{folder}/{}", name.into_string().unwrap())).collect()
    };
    let (single, pairs) = (in_folder("single"), in_folder("pair"));
    let mut cases: Vec<_> = single.iter().map(|name| (name.as_str(), "--heads 3")).collect();
    cases.extend(pairs.iter().flat_map(|name| [(name.as_str(), "--heads 3 --encoder trained"), (name, "--heads 3")]));
    for ((name, options), (file, _)) in cases.iter().zip(imported(&cases)) {
        let momentum = name.starts_with("pair/") && !options.contains("trained");
        assert_weights(name, &file, |tensor| if momentum { tensor * 2.0 } else { tensor.shallow_clone() });
    }
}

#[test]
fn weights_of_any_precision_become_float32_and_options_say_what_the_weights_do_not_show() {
    if CHECKPOINTS.is_none() {
        return;
    }
    let options = "--heads 4 --pooling patch-mean --mean 0.5 0.5 0.25 --std 0.5 0.125 1";
    let cases = [
        ("float16.pth", "--heads 3"),
        ("bfloat16.pth", "--heads 3"),
        ("float64.pth", "--heads 3"),
        ("bare.pth", options),
    ];
    let mut files = imported(&cases);
    let (file, _) = files.pop().unwrap();
    assert_eq!((file.config.heads, file.pooling), (4, Pooling::PatchMean));
    assert_eq!((file.mean, file.std), ([0.5, 0.5, 0.25], [0.5, 0.125, 1.0]));
    let kinds = [("float16", Kind::Half), ("bfloat16", Kind::BFloat16), ("float64", Kind::Double)];
    for ((name, kind), (file, text)) in kinds.into_iter().zip(files) {
        assert!(text.contains(&format!("converted {name} to float32")), "{text}");
        assert_weights(name, &file, |tensor| tensor.to_kind(kind).to_kind(Kind::Float));
    }
}

/// The weights at the top level, and twice these under another prefix.
#[test]
fn of_several_encoders_a_prefix_chooses_one() {
    if CHECKPOINTS.is_none() {
        return;
    }
    let cases = [
        ("above.pth", "--heads 3 --prefix="),
        ("above.pth", "--heads 3 --prefix backbone"),
        ("two.pth", "--heads 3 --prefix backbone"),
    ];
    for ((name, options), (file, text)) in cases.iter().zip(imported(&cases)) {
        let twice = *name == "above.pth" && options.ends_with("backbone");
        assert_weights(options, &file, |tensor| if twice { tensor * 2.0 } else { tensor.shallow_clone() });
        let at = if options.ends_with("backbone") { "backbone\n" } else { "the top level\n" };
        assert!(text.contains(&format!("encoder   trained encoder, {at}")), "{text}");
    }
}

/// The published features of images of other sizes: an encoder that was imported for such images has its positions
/// interpolated as the published code does on the way.
#[test]
fn positions_are_interpolated_for_another_image_size() {
    if CHECKPOINTS.is_none() {
        return;
    }
    let golden = Golden::read("vit_io.safetensors");
    let crops = golden.keys().filter_map(|key| key.strip_prefix("crop_").filter(|size| !size.contains('/')));
    let squares = crops.map(|size| size.split_once('x').unwrap()).filter(|(height, width)| height == width);
    let patch_size = golden_shape().0.patch_size;
    let sizes: Vec<i64> =
        squares.map(|(side, _)| side.parse().unwrap()).filter(|side| side % patch_size == 0).collect();
    assert!(!sizes.is_empty());
    let options: Vec<String> = sizes.iter().map(|size| format!("--heads 3 --image-size {size}")).collect();
    let cases: Vec<_> = options.iter().map(|options| ("bare.pth", options.as_str())).collect();
    for (size, (file, text)) in sizes.into_iter().zip(imported(&cases)) {
        let side = size / patch_size;
        assert!(text.contains(&format!("interpolated to {side} x {side}")), "{text}");
        assert_eq!(file.config.image_size, size);
        let key = format!("crop_{size}x{size}");
        assert_close(&key, &file.tensors["pos_embed"], golden.tensor(&format!("{key}/pos")), 1e-6);
        let store = VarStore::new(Device::Cpu);
        let tokens = file.to_vit(&store.root()).unwrap().tokens(golden.tensor(&key), false).unwrap();
        assert_close(&key, &tokens, golden.tensor(&format!("{key}/features")), 1e-5);
    }
}

/// Sixteen positions can be those of 2 x 8 patches: bicubic, by (4 + 0.1) / 2 rows and (4 + 0.1) / 8 columns.
#[test]
fn a_grid_that_is_no_square_is_made_one() {
    if CHECKPOINTS.is_none() {
        return;
    }
    let cases =
        ["--heads 3 --image-size 16", "--heads 3 --grid 2 8 --image-size 16"].map(|options| ("bare.pth", options));
    let [(taken, assumed), (file, text)] = imported(&cases).try_into().unwrap();
    assert!(assumed.contains("4 x 4 of 4 px, taken as a square; --grid names another shape\n"), "{assumed}");
    assert_weights("a square", &taken, Tensor::shallow_clone);
    assert!(text.contains("2 x 8 of 4 px, positions interpolated to 4 x 4\n"), "{text}");
    let positions = Golden::read("vit_state.safetensors").tensor("base_encoder.pos_embed").shallow_clone();
    let grid = positions.narrow(1, 1, 16).view([1, 2, 8, -1]).permute([0, 3, 1, 2]);
    let square = grid.upsample_bicubic2d([4, 4], false, 4.1 / 2.0, 4.1 / 8.0).flatten(2, 3).transpose(1, 2);
    let expected = Tensor::cat(&[positions.narrow(1, 0, 1), square], 1);
    assert_close("positions", &file.tensors["pos_embed"], &expected, 1e-6);
}
