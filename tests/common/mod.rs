//! Golden files, comparisons of tensors, and Python for tests that need it.
#![allow(dead_code, unreachable_pub)] // every test binary uses another part
#![allow(clippy::unwrap_used)]

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::Command;

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

/// Python, run in the root of the repository, if it has all of `modules`; else prints that the test is skipped.
/// `PATCHMIX_PYTHON` replaces `python3`. The torch installed by the set-up script is found too.
pub fn python(modules: &str) -> Option<Command> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let program = std::env::var("PATCHMIX_PYTHON").unwrap_or_else(|_| "python3".to_owned());
    let mut folders: Vec<PathBuf> = std::env::var_os("PYTHONPATH").iter().flat_map(std::env::split_paths).collect();
    folders.extend(root.join("libtorch").canonicalize().iter().filter_map(|torch| torch.parent()).map(Path::to_owned));
    let path = std::env::join_paths(folders).unwrap();
    let command = || {
        let mut command = Command::new(&program);
        command.current_dir(root).env("PYTHONPATH", &path);
        command
    };
    // Looks for the modules without importing them, which would take seconds.
    let find = "import importlib.util, sys; sys.exit(not all(map(importlib.util.find_spec, sys.argv[1].split())))";
    if command().args(["-c", find, modules]).output().is_ok_and(|output| output.status.success()) {
        return Some(command());
    }
    eprintln!("skipped: {program} lacks one of {modules}");
    None
}

/// Runs a script once per line of arguments, in one process. Returns whether each run succeeded, and its output.
pub fn run_script(python: &mut Command, script: &str, lines: &[String]) -> Vec<(bool, String)> {
    const DRIVER: &str = "
import contextlib, io, json, runpy, sys
script, lines = sys.argv[1], sys.argv[2:]
for line in lines:
    sys.argv, text, code = [script, *line.split()], io.StringIO(), None
    with contextlib.redirect_stdout(text), contextlib.redirect_stderr(text):
        try:
            runpy.run_path(script, run_name='__main__')
        except SystemExit as end:
            code = end.code
            print(code if isinstance(code, str) else '', end='')
    print(json.dumps([not code, text.getvalue()]))
";
    let output = python.args(["-c", DRIVER, script]).args(lines).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let results = String::from_utf8(output.stdout).unwrap();
    results.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}
