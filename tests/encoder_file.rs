//! Encoder files: round trips, and errors that name the tensor or setting that is wrong.
#![allow(clippy::unwrap_used)] // a test may panic, helpers included

mod common;

use std::collections::HashMap;
use std::path::Path;

use common::{Golden, assert_close, golden_shape};
use patchmix::augment::{IMAGENET_MEAN, IMAGENET_STD};
use patchmix::checkpoint::Checkpoint;
use patchmix::vit::{EncoderFile, Pooling, Vit, VitConfig};
use patchmix::{Error, Result};
use tch::nn::VarStore;
use tch::{Device, Kind, Tensor};

/// The encoder file of the published model in `vit_state`.
fn golden_file() -> EncoderFile {
    let state = Golden::read("vit_state.safetensors");
    let tensors = state.keys().filter(|key| !key.contains(".head.")).filter_map(|key| {
        let name = key.strip_prefix("base_encoder.")?;
        Some((name.to_owned(), state.tensor(key).shallow_clone()))
    });
    let tensors = tensors.collect();
    let (mean, std, pooling) = (IMAGENET_MEAN, IMAGENET_STD, Pooling::ClassToken);
    EncoderFile { config: golden_shape().0, mean, std, pooling, tensors }
}

#[test]
fn a_file_contains_everything_needed_to_use_the_encoder() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("encoder.safetensors");
    let written = EncoderFile { pooling: Pooling::PatchMean, std: [0.25, 0.1, 1.0 / 3.0], ..golden_file() };
    written.save(&path).unwrap();
    let read = EncoderFile::load(&path).unwrap();
    assert_eq!((&read.config, read.mean, read.std), (&written.config, written.mean, written.std));
    assert_eq!(read.pooling, Pooling::PatchMean);
    assert_eq!(read.tensors, written.tensors);

    // Under any path, with the published numbers.
    let golden = Golden::read("vit_io.safetensors");
    let store = VarStore::new(Device::Cpu);
    let vit = read.to_vit(&(store.root() / "somewhere" / "deep")).unwrap();
    assert_close("tokens", &vit.tokens(golden.tensor("x"), false).unwrap(), golden.tensor("features"), 1e-5);
    assert!(store.trainable_variables().iter().all(Tensor::requires_grad));
}

/// The list of expected shapes is that of the model itself.
#[test]
fn the_variables_of_any_model_make_a_file() {
    let folder = tempfile::tempdir().unwrap();
    for (patch_size, depth, mlp_ratio) in [(2, 1, 3), (8, 3, 1)] {
        let config = VitConfig { patch_size, depth, mlp_ratio, ..golden_shape().0 };
        let store = VarStore::new(Device::Cpu);
        Vit::new(&store.root(), &config).unwrap();
        let file = EncoderFile { config, tensors: store.variables(), ..golden_file() };
        file.save(&folder.path().join("encoder.safetensors")).unwrap();
        let named: i64 = file.tensors.values().map(|tensor| tensor.numel() as i64).sum();
        assert_eq!(named, store.trainable_variables().iter().map(|tensor| tensor.numel() as i64).sum::<i64>());
    }
}

#[test]
fn weights_of_any_precision_are_written_as_float() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("encoder.safetensors");
    for kind in [Kind::BFloat16, Kind::Half, Kind::Double] {
        let mut file = golden_file();
        file.tensors.values_mut().for_each(|tensor| *tensor = tensor.to_kind(kind));
        file.save(&path).unwrap();
        let read = EncoderFile::load(&path).unwrap();
        for (name, tensor) in &read.tensors {
            assert_eq!(tensor.kind(), Kind::Float);
            assert_eq!(*tensor, file.tensors[name].to_kind(Kind::Float), "{name}");
        }
        // And loaded into a model of that kind.
        let mut store = VarStore::new(Device::Cpu);
        store.set_kind(kind);
        read.to_vit(&store.root()).unwrap();
    }
}

#[test]
fn two_models_under_one_path_are_refused() {
    let store = VarStore::new(Device::Cpu);
    golden_file().to_vit(&store.root()).unwrap();
    assert!(matches!(golden_file().to_vit(&store.root()), Err(Error::Weights { .. })));
    golden_file().to_vit(&(store.root() / "second")).unwrap();
}

/// Changes the tensors of a valid file and expects an error with these words from saving, using and loading it.
#[track_caller]
fn assert_misfit(change: impl Fn(&mut HashMap<String, Tensor>), words: &[&str]) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("encoder.safetensors");
    golden_file().save(&path).unwrap();
    let mut foreign = Checkpoint::load(&path).unwrap();
    change(&mut foreign.tensors);
    foreign.save(&path).unwrap();
    let mut file = golden_file();
    change(&mut file.tensors);
    let store = VarStore::new(Device::Cpu);
    let results: [Result<()>; 3] = [file.save(&path), file.to_vit(&store.root()).map(drop), load(&path)];
    assert!(store.variables().is_empty());
    for (result, is_typed) in results.into_iter().zip([is_weights, is_weights, is_checkpoint]) {
        let error = result.unwrap_err();
        assert!(is_typed(&error), "{error:?}");
        words.iter().for_each(|word| assert!(error.to_string().contains(word), "{error}"));
    }
}

fn is_weights(error: &Error) -> bool {
    matches!(error, Error::Weights { .. })
}

fn is_checkpoint(error: &Error) -> bool {
    matches!(error, Error::Checkpoint { .. })
}

fn load(path: &Path) -> Result<()> {
    EncoderFile::load(path).map(drop)
}

#[test]
fn missing_unexpected_and_misshapen_tensors_are_named() {
    assert_misfit(|tensors| drop(tensors.remove("blocks.1.mlp.fc2.bias")), &["blocks.1.mlp.fc2.bias", "missing"]);
    let extra = |tensors: &mut HashMap<_, _>| drop(tensors.insert("head.weight".to_owned(), Tensor::from(1.0)));
    assert_misfit(extra, &["head.weight", "not part"]);
    let longer =
        |tensors: &mut HashMap<_, _>| drop(tensors.insert("norm.bias".to_owned(), Tensor::from_slice(&[0.0; 49])));
    assert_misfit(longer, &["norm.bias", "[49]", "[48]"]);
    let integers = |tensors: &mut HashMap<String, Tensor>| {
        tensors.entry("norm.bias".to_owned()).and_modify(|tensor| *tensor = tensor.to_kind(Kind::Int64));
    };
    assert_misfit(integers, &["norm.bias", "Int64"]);
}

#[test]
fn invalid_metadata_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("encoder.safetensors");
    golden_file().save(&path).unwrap();
    let good = Checkpoint::load(&path).unwrap();
    let with = |name: &str, text: Option<&str>| {
        let mut metadata = good.metadata.clone();
        match text {
            Some(text) => metadata.insert(name.to_owned(), text.to_owned()),
            None => metadata.remove(name),
        };
        let tensors = good.tensors.iter().map(|(name, tensor)| (name.clone(), tensor.shallow_clone())).collect();
        Checkpoint { tensors, metadata }.save(&path).unwrap();
        let error = load(&path).unwrap_err();
        assert!(is_checkpoint(&error), "{error:?}");
        error.to_string()
    };
    for name in ["image_size", "patch_size", "width", "depth", "heads", "mlp_ratio", "mean", "std", "pooling"] {
        assert!(with(name, None).contains(&format!("has no {name}")), "{name}");
        assert!(with(name, Some("many")).contains("many"), "{name}");
    }
    // A small file that claims a large model is refused before any allocation for it.
    for (name, text, word) in [
        ("width", "3072", "[3072]"),
        ("depth", "2048", "blocks.10"),
        ("depth", "-1", "depth"),
        ("heads", "5", "heads"),
        ("image_size", "9223372036854775807", "image_size"),
        ("std", "0 0 0", "std"),
        ("mean", "0 0 NaN", "mean"),
        ("mean", "0 0", "0 0"),
        ("format", "patchmix-encoder 2", "patchmix-encoder 1"),
    ] {
        let error = with(name, Some(text));
        assert!(error.contains(word), "{error}");
    }
    // Without metadata it is a plain file of weights, which does not contain the number of heads.
    Checkpoint { tensors: good.tensors, metadata: HashMap::new() }.save(&path).unwrap();
    assert!(load(&path).unwrap_err().to_string().contains("heads"));
}

/// The last block's tokens after the norm are `tokens`; the first block's are those of an encoder of depth 1.
#[test]
fn intermediate_tokens_are_those_of_the_forward_pass() {
    let x = Golden::read("vit_io.safetensors").tensor("x").shallow_clone();
    let store = VarStore::new(Device::Cpu);
    let vit = golden_file().to_vit(&store.root()).unwrap();
    let tokens = vit.tokens(&x, false).unwrap();
    let all = vit.intermediate(&x, &[1, 0, 1], true).unwrap();
    assert_eq!(all.len(), 2);
    assert_close("last block", &all[1], &tokens, 1e-5); // sum and norm are one operation in a pass
    // The same encoder without its second block.
    let mut first = EncoderFile { config: VitConfig { depth: 1, ..golden_shape().0 }, ..golden_file() };
    first.tensors.retain(|name, _| !name.starts_with("blocks.1."));
    let store = VarStore::new(Device::Cpu);
    let short = first.to_vit(&store.root()).unwrap();
    assert_eq!(all[0], short.tokens(&x, false).unwrap());
    let plain = vit.intermediate(&x, &[0], false).unwrap();
    let [weight, bias] = ["norm.weight", "norm.bias"].map(|name| golden_file().tensors[name].shallow_clone());
    assert_close("norm", &plain[0].layer_norm([48], Some(weight), Some(bias), 1e-6, true), &all[0], 1e-6);
    for block in [-1, 2, i64::MAX] {
        assert!(matches!(vit.intermediate(&x, &[0, block], true), Err(Error::Value { name: "blocks", .. })));
    }
}

/// Features of an encoder file on pixels `[B, 3, H, W]` in `0..=1`.
fn features(file: &EncoderFile, pixels: &Tensor) -> Tensor {
    let store = VarStore::new(Device::Cpu);
    let channels = |numbers: [f64; 3]| Tensor::from_slice(&numbers).to_kind(Kind::Float).view([1, 3, 1, 1]);
    let images = (pixels - channels(file.mean)) / channels(file.std);
    file.to_vit(&store.root()).unwrap().features(&images, file.pooling, false).unwrap()
}

#[test]
fn an_encoder_for_another_image_size_has_the_features_of_the_interpolated_one() {
    let file = golden_file();
    tch::manual_seed(7);
    for patches in [1, 3, 7, 20] {
        let size = patches * file.config.patch_size;
        let pixels = Tensor::rand([2, 3, size, size], (Kind::Float, Device::Cpu));
        let adapted = file.for_image_size(size).unwrap();
        assert_eq!(adapted.config, VitConfig { image_size: size, ..file.config.clone() });
        assert_eq!(features(&adapted, &pixels), features(&file, &pixels), "{patches} patches a side");
    }
    let same = file.for_image_size(file.config.image_size).unwrap();
    assert_eq!(same.tensors, file.tensors);
    assert!(matches!(file.for_image_size(file.config.patch_size + 1), Err(Error::PatchSize { .. })));
}

#[test]
fn an_encoder_for_another_normalization_has_the_same_features() {
    let file = golden_file();
    tch::manual_seed(8);
    let size = file.config.image_size;
    let pixels = Tensor::rand([2, 3, size, size], (Kind::Float, Device::Cpu));
    for (mean, std) in [([0.5; 3], [0.5; 3]), ([0.0; 3], [1.0; 3]), ([0.1, 0.2, 0.9], [0.3, 2.0, 0.125])] {
        let adapted = file.for_normalization(mean, std).unwrap();
        assert_eq!((adapted.mean, adapted.std), (mean, std));
        assert_close("features", &features(&adapted, &pixels), &features(&file, &pixels), 1e-5);
    }
    let same = file.for_normalization(file.mean, file.std).unwrap();
    assert_eq!(same.tensors, file.tensors);
    assert!(file.for_normalization([0.5; 3], [0.5, 0.0, 0.5]).is_err());
}
