//! Golden files and comparisons of tensors; Python for tests that need it.
#![allow(dead_code, unreachable_pub)] // every test binary uses another part
#![allow(clippy::unwrap_used)]

pub(crate) mod python;

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use patchmix::SoftTarget;
use patchmix::contrast::HeadConfig;
use patchmix::vit::{Precision, VitConfig};
use tch::{Device, Kind, Tensor};

/// A file of numbers from the published implementation.
pub struct Golden {
    pub name: String,
    tensors: HashMap<String, Tensor>,
    metadata: HashMap<String, String>,
}

impl Golden {
    pub fn read(name: &str) -> Golden {
        let path = fixtures().join(name);
        let bytes = std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let (_, header) = safetensors::SafeTensors::read_metadata(&bytes).unwrap();
        let metadata = header.metadata().clone().unwrap_or_default();
        let tensors = Tensor::read_safetensors(&path).unwrap().into_iter().collect();
        Golden { name: name.to_owned(), tensors, metadata }
    }

    /// All files whose names start with `prefix`, at least one.
    pub fn all(prefix: &str) -> Vec<Golden> {
        let mut names: Vec<String> = std::fs::read_dir(fixtures())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| name.starts_with(prefix))
            .collect();
        names.sort();
        assert!(!names.is_empty(), "no fixture starts with {prefix}");
        names.iter().map(|name| Golden::read(name)).collect()
    }

    pub fn has(&self, key: &str) -> bool {
        self.tensors.contains_key(key)
    }

    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    pub fn tensor(&self, key: &str) -> &Tensor {
        self.tensors.get(key).unwrap_or_else(|| panic!("{} has no {key}", self.name))
    }

    pub fn number(&self, key: &str) -> f64 {
        self.tensor(key).double_value(&[])
    }

    pub fn integers(&self, key: &str) -> Vec<i64> {
        self.tensor(key).flatten(0, -1).try_into().unwrap()
    }

    pub fn numbers(&self, key: &str) -> Vec<f64> {
        self.tensor(key).flatten(0, -1).to_kind(Kind::Double).try_into().unwrap()
    }

    pub fn setting<T: std::str::FromStr>(&self, key: &str) -> T {
        let text = self.metadata.get(key).unwrap_or_else(|| panic!("{} has no setting {key}", self.name));
        text.parse().ok().unwrap_or_else(|| panic!("{}: {key} = {text}", self.name))
    }
}

pub fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures")
}

/// The largest absolute difference of two tensors of the same shape.
pub fn largest_difference(a: &Tensor, b: &Tensor) -> f64 {
    assert_eq!(a.size(), b.size(), "shapes");
    if a.numel() == 0 {
        return 0.0;
    }
    (a.to_kind(Kind::Double) - b.to_kind(Kind::Double)).abs().max().double_value(&[])
}

/// Fails unless `a` and `b` agree to `tolerance` in every element. NaN never agrees.
#[track_caller]
pub fn assert_close(what: &str, a: &Tensor, b: &Tensor, tolerance: f64) {
    let difference = largest_difference(a, b);
    assert!(difference <= tolerance, "{what}: differs by {difference:e}, allowed {tolerance:e}");
}

/// A target as a matrix, in double precision on the CPU.
pub fn dense(target: &SoftTarget) -> Tensor {
    target.dense(Kind::Double, Device::Cpu).unwrap()
}

/// The shape of the published model in `vit_state`.
pub fn golden_shape() -> (VitConfig, HeadConfig) {
    let vit = VitConfig {
        image_size: 16,
        patch_size: 4,
        width: 48,
        depth: 2,
        heads: 3,
        mlp_ratio: 4,
        drop_path: 0.0,
        precision: Precision::Full,
    };
    (vit, HeadConfig { hidden: 64, output: 32 })
}
