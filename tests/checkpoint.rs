//! Checkpoints: atomic writes, and damaged or foreign files.
#![allow(clippy::unwrap_used)] // a test may panic, helpers included

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use patchmix::Error;
use patchmix::checkpoint::Checkpoint;
use patchmix::contrast::{HeadConfig, Model};
use patchmix::optim::AdamW;
use patchmix::vit::{Precision, VitConfig};
use proptest::prelude::*;
use tch::nn::VarStore;
use tch::{Device, Kind, Tensor};

fn sample() -> Checkpoint {
    let mut checkpoint = Checkpoint::default();
    for kind in [Kind::Uint8, Kind::Int64, Kind::Half, Kind::BFloat16, Kind::Float, Kind::Double] {
        checkpoint.tensors.insert(format!("part.{kind:?}"), Tensor::arange(6, (kind, Device::Cpu)).view([2, 3]).tr());
    }
    checkpoint.tensors.insert("other.empty".into(), Tensor::zeros([0, 4], (Kind::Float, Device::Cpu)));
    checkpoint.tensors.insert("other.scalar".into(), Tensor::from(2.5));
    checkpoint.metadata.insert("epoch".into(), "7".into());
    checkpoint
}

#[test]
fn a_saved_checkpoint_is_loaded_unchanged() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.safetensors");
    let saved = sample();
    saved.save(&path).unwrap();
    let loaded = Checkpoint::load(&path).unwrap();
    assert_eq!(loaded.metadata, saved.metadata);
    assert_eq!(loaded.tensors.len(), saved.tensors.len());
    for (name, tensor) in &saved.tensors {
        assert_eq!(loaded.tensors[name].kind(), tensor.kind(), "{name}");
        assert_eq!(&loaded.tensors[name], tensor, "{name}");
    }
    assert_eq!(loaded.part("part").len(), 6);
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "no temporary file is left");
}

/// libtorch has tensors of zeros without storage, and views whose numbers are stored with the other sign.
#[test]
fn tensors_without_plain_storage_are_saved_as_what_they_hold() {
    let numbers = Tensor::arange(6, (Kind::Float, Device::Cpu)).view([2, 3]);
    let zeros = Tensor::internal_efficientzerotensor([2, 3], (Kind::Float, Device::Cpu));
    let mut saved = Checkpoint::default();
    let strange = [("negated", numbers.internal_neg_view()), ("zeros", zeros), ("turned", numbers.transpose(0, 1))];
    saved.insert_all("part", strange.map(|(name, tensor)| (name.to_owned(), tensor)));
    let loaded = Checkpoint::from_bytes(&saved.to_bytes().unwrap(), Path::new("")).unwrap();
    assert_eq!(loaded.tensors["part.negated"], -&numbers);
    assert_eq!(loaded.tensors["part.zeros"], Tensor::zeros([2, 3], (Kind::Float, Device::Cpu)));
    assert_eq!(loaded.tensors["part.turned"], numbers.transpose(0, 1));
}

#[test]
fn a_failed_save_leaves_the_old_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.safetensors");
    sample().save(&path).unwrap();
    let before = fs::read(&path).unwrap();
    // The name of the temporary file would be too long. That fails while the file is there, like a full disk.
    let long = folder.path().join(format!("{}.safetensors", "a".repeat(240)));
    fs::write(&long, &before).unwrap();
    assert!(matches!(Checkpoint::default().save(&long), Err(Error::Io { .. })));
    assert_eq!(fs::read(&long).unwrap(), before);
    let nowhere = folder.path().join("none/b.safetensors");
    assert!(matches!(sample().save(&nowhere), Err(Error::Io { path, .. }) if path == nowhere));
}

#[test]
fn missing_and_foreign_files_are_different_errors() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.safetensors");
    assert!(matches!(Checkpoint::load(&path), Err(Error::Io { .. })));
    for foreign in [&b""[..], b"PK\x03\x04 not safetensors", &[0xff; 64], &u64::MAX.to_le_bytes()] {
        fs::write(&path, foreign).unwrap();
        assert!(matches!(Checkpoint::load(&path), Err(Error::Checkpoint { .. })));
    }
}

#[test]
fn a_checkpoint_of_another_model_is_refused_and_changes_nothing() {
    let path = Path::new("run.safetensors");
    let mut checkpoint = Checkpoint::default();
    checkpoint.insert_all("model", [("a".to_owned(), Tensor::ones([2], (Kind::Float, Device::Cpu)))]);
    let zeros = |size: i64| Tensor::zeros([size], (Kind::Float, Device::Cpu));
    let (a, b) = (zeros(2), zeros(2));
    let missing = HashMap::from([("a".to_owned(), a.shallow_clone()), ("b".to_owned(), b)]);
    let Err(Error::Checkpoint { problem, .. }) = checkpoint.restore("model", missing, path) else { panic!() };
    assert!(problem.contains("model.b"), "{problem}");
    let misshapen = HashMap::from([("a".to_owned(), zeros(3))]);
    let Err(Error::Checkpoint { problem, .. }) = checkpoint.restore("model", misshapen, path) else { panic!() };
    assert!(problem.contains("[2]") && problem.contains("[3]"), "{problem}");
    assert_eq!(a, zeros(2));
    checkpoint.restore("model", HashMap::from([("a".to_owned(), a.shallow_clone())]), path).unwrap();
    assert_eq!(a, Tensor::ones([2], (Kind::Float, Device::Cpu)));
}

/// Positions of bytes, and the bits to flip in them.
fn bit_flips() -> impl Strategy<Value = Vec<(usize, u8)>> {
    prop::collection::vec((0..2000_usize, 0..8_u8), 0..4)
}

proptest! {
    /// Truncated, with flipped bits, or with another length of the header.
    #[test]
    fn a_damaged_file_is_an_error_or_other_numbers_but_never_a_panic(
        cut in 0..2000_usize,
        flips in bit_flips(),
        length in any::<Option<u64>>(),
    ) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.safetensors");
        sample().save(&path).unwrap();
        let mut bytes = fs::read(&path).unwrap();
        bytes.truncate(bytes.len().saturating_sub(cut));
        for (at, bit) in flips {
            if let Some(byte) = bytes.get_mut(at) {
                *byte ^= 1 << bit;
            }
        }
        if let (Some(length), Some(head)) = (length, bytes.get_mut(..8)) {
            head.copy_from_slice(&length.to_le_bytes());
        }
        fs::write(&path, bytes).unwrap();
        match Checkpoint::load(&path) {
            Ok(_) | Err(Error::Checkpoint { .. }) => {}
            Err(other) => prop_assert!(false, "{other}"),
        }
    }
}

/// An unhealthy step leaves weights and state as they are, bit for bit, whatever the gradients; a healthy
/// one is a plain step.
#[test]
fn an_unhealthy_step_changes_nothing() {
    let make = || {
        let store = VarStore::new(Device::Cpu);
        let weight = store.root().ones("weight", &[3, 2]);
        let optimizer = AdamW::new(&store).unwrap();
        (store, weight, optimizer)
    };
    let everything = |weight: &Tensor, optimizer: &AdamW| {
        let mut all = optimizer.state();
        all.push(("weight".to_owned(), weight.shallow_clone()));
        all.into_iter().map(|(name, tensor)| (name, tensor.detach().copy())).collect::<HashMap<_, _>>()
    };
    let ((_plain_store, plain, mut plain_optimizer), (_store, weight, mut optimizer)) = (make(), make());
    for (weight, optimizer) in [(&plain, &mut plain_optimizer), (&weight, &mut optimizer)] {
        optimizer.zero_grad().unwrap();
        (weight * weight * 3.0).sum(Kind::Float).backward();
        optimizer.step(0.1, 0.1).unwrap();
    }
    let healthy = |value: f32| Tensor::from(value);
    plain.grad().copy_(&plain.detach());
    weight.grad().copy_(&weight.detach());
    plain_optimizer.step(0.1, 0.1).unwrap();
    optimizer.step_if(&healthy(1.0), 0.1, 0.1).unwrap();
    assert_eq!(everything(&weight, &optimizer), everything(&plain, &plain_optimizer));

    let before = everything(&weight, &optimizer);
    for bad in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, 1.0] {
        let _ = weight.grad().fill_(bad);
        optimizer.step_if(&healthy(0.0), 0.1, 0.1).unwrap();
        assert_eq!(everything(&weight, &optimizer), before, "{bad}");
    }
    assert!(matches!(optimizer.step_if(&Tensor::from_slice(&[1.0, 1.0]), 0.1, 0.1), Err(Error::Shape { .. })));
    // A plain step spreads NaN from the gradient.
    let _ = weight.grad().fill_(f64::NAN);
    optimizer.step(0.1, 0.1).unwrap();
    assert!(weight.sum(Kind::Float).double_value(&[]).is_nan());
}

/// Five steps give the same bits as two and three with a checkpoint in between.
#[test]
fn an_optimizer_resumes_where_it_was_saved() {
    let vit = VitConfig {
        image_size: 8,
        patch_size: 4,
        width: 16,
        depth: 1,
        heads: 2,
        mlp_ratio: 2,
        drop_path: 0.0,
        precision: Precision::Full,
    };
    let head = HeadConfig { hidden: 8, output: 8 };
    let images = Tensor::randn([4, 3, 8, 8], (Kind::Float, Device::Cpu));
    let start = VarStore::new(Device::Cpu);
    let _model = Model::new(&start.root(), &vit, &head).unwrap();
    let fresh = || {
        let mut store = VarStore::new(Device::Cpu);
        let model = Model::new(&store.root(), &vit, &head).unwrap();
        store.copy(&start).unwrap();
        let optimizer = AdamW::new(&store).unwrap();
        (store, model, optimizer)
    };
    let train = |model: &Model, optimizer: &mut AdamW, steps: u64| {
        for _ in 0..steps {
            let query = model.predictor.forward(&model.network.forward(&images, true).unwrap(), true).unwrap();
            optimizer.zero_grad().unwrap();
            (query * &images.flatten(1, -1).narrow(1, 0, 8)).sum(Kind::Float).backward();
            optimizer.step(1e-2, 0.1).unwrap();
        }
    };
    let (straight_store, straight, mut optimizer) = fresh();
    train(&straight, &mut optimizer, 5);

    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.safetensors");
    let (store, model, mut optimizer) = fresh();
    train(&model, &mut optimizer, 2);
    let mut checkpoint = Checkpoint::default();
    checkpoint.insert_all("model", store.variables());
    checkpoint.insert_all("optimizer", optimizer.state());
    checkpoint.save(&path).unwrap();
    let (store, model, mut optimizer) = fresh();
    let checkpoint = Checkpoint::load(&path).unwrap();
    checkpoint.restore("model", store.variables(), &path).unwrap();
    optimizer.load_state(&checkpoint.part("optimizer"), 2).unwrap();
    train(&model, &mut optimizer, 3);

    let straight = straight_store.variables();
    for (name, variable) in store.variables() {
        assert_eq!(variable, straight[&name], "{name}");
    }
    let error = optimizer.load_state(&HashMap::new(), 2).unwrap_err();
    assert!(
        matches!(&error, Error::Weights { problem } if problem.starts_with("the optimizer state has no ")),
        "{error}"
    );
}
