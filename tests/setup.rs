//! The set-up script: which libtorch it takes, and when. Nothing is downloaded; the cache holds empty stand-ins.
#![cfg(unix)]
#![allow(clippy::unwrap_used, clippy::expect_used)] // a test may panic, helpers included

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

/// A checkout with the set-up script, a cache, and a `cargo` that writes its arguments into a file.
struct Machine {
    folder: tempfile::TempDir,
}

impl Machine {
    /// With tch locked to `tch`.
    fn new(tch: &str) -> Machine {
        let machine = Machine { folder: tempfile::tempdir().unwrap() };
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/setup-libtorch.sh");
        for folder in ["checkout/scripts", "cache", "bin"] {
            fs::create_dir_all(machine.at(folder)).unwrap();
        }
        fs::copy(script, machine.at("checkout/scripts/setup-libtorch.sh")).unwrap();
        let lock = format!("[[package]]\nname = \"torch-sys\"\nversion = \"{tch}\"\n");
        fs::write(machine.at("checkout/Cargo.lock"), lock).unwrap();
        fs::write(machine.at("bin/cargo"), "#!/bin/sh\necho \"$@\" >>\"$0.calls\"\n").unwrap();
        fs::set_permissions(machine.at("bin/cargo"), fs::Permissions::from_mode(0o755)).unwrap();
        machine
    }

    fn at(&self, path: &str) -> PathBuf {
        self.folder.path().join(path)
    }

    /// Puts a stand-in for libtorch `version` at `path`.
    fn libtorch(&self, path: &str, version: &str, libraries: &[&str]) {
        fs::create_dir_all(self.at(path).join("lib")).unwrap();
        fs::write(self.at(path).join("version.py"), format!("__version__ = '{version}+cu130'\n")).unwrap();
        for library in libraries {
            fs::write(self.at(path).join("lib").join(library), "").unwrap();
        }
    }

    /// Both kinds of libtorch 2.11.0 in the cache.
    fn with_both() -> Machine {
        let machine = Machine::new("0.24.0");
        machine.libtorch("cache/torch-2.11.0-cpu/torch", "2.11.0", &["libtorch_cpu.so"]);
        machine.libtorch("cache/torch-2.11.0-cuda/torch", "2.11.0", &["libtorch_cpu.so", "libtorch_cuda.so"]);
        machine
    }

    /// Runs the script. Returns whether it succeeded, and what it said.
    fn set_up(&self, variables: &[(&str, &str)]) -> (bool, String) {
        let path = std::env::var("PATH").unwrap();
        let output = Command::new(self.at("checkout/scripts/setup-libtorch.sh"))
            .env_remove("LIBTORCH")
            .env_remove("LIBTORCH_USE_PYTORCH")
            .env_remove("PATCHMIX_LIBTORCH")
            .env("PATH", format!("{}:{path}", self.at("bin").display()))
            .env("PATCHMIX_CACHE", self.at("cache"))
            .envs(variables.iter().copied())
            .output()
            .unwrap();
        (output.status.success(), String::from_utf8(output.stderr).unwrap())
    }

    /// The name of the folder in the cache that is linked.
    fn linked(&self) -> String {
        let torch = fs::read_link(self.at("checkout/libtorch")).unwrap();
        torch.parent().unwrap().file_name().unwrap().to_str().unwrap().to_owned()
    }

    fn cargo_calls(&self) -> usize {
        fs::read_to_string(self.at("bin/cargo.calls")).unwrap_or_default().lines().count()
    }
}

#[test]
fn the_wanted_kind_is_linked_and_kept() {
    let machine = Machine::with_both();
    for kind in ["cpu", "cuda", "cpu"] {
        let (succeeded, said) = machine.set_up(&[("PATCHMIX_LIBTORCH", kind)]);
        assert!(succeeded && said.contains("linked"), "{said}");
        assert_eq!(machine.linked(), format!("torch-2.11.0-{kind}"));
        // A second run has nothing to do.
        assert_eq!(machine.set_up(&[("PATCHMIX_LIBTORCH", kind)]), (true, String::new()));
    }
}

/// cargo sees one `LIBTORCH` for both kinds, and would go on with programs linked for the other.
#[test]
fn another_kind_of_libtorch_makes_cargo_rebuild_what_is_linked_to_it() {
    let machine = Machine::with_both();
    machine.set_up(&[("PATCHMIX_LIBTORCH", "cpu")]);
    assert_eq!(machine.cargo_calls(), 0);
    machine.set_up(&[("PATCHMIX_LIBTORCH", "cuda")]);
    assert_eq!(machine.cargo_calls(), 2, "one each for dev and release");
    let calls = fs::read_to_string(machine.at("bin/cargo.calls")).unwrap();
    assert!(calls.lines().all(|call| call.starts_with("clean") && call.contains("torch-sys")), "{calls}");
}

/// What the driver asks for is taken on a new machine. Later, only a wish in words replaces what is there.
#[test]
fn libtorch_is_not_replaced_unasked() {
    let machine = Machine::with_both();
    assert!(machine.set_up(&[]).0);
    let by_driver = machine.linked();
    for kind in ["cuda", "cpu"] {
        machine.set_up(&[("PATCHMIX_LIBTORCH", kind)]);
        let (succeeded, said) = machine.set_up(&[]);
        assert!(succeeded);
        assert_eq!(machine.linked(), format!("torch-2.11.0-{kind}"));
        // A machine that has gained a GPU is told.
        let gained = by_driver.ends_with("cuda") && kind == "cpu";
        assert_eq!(said.contains("PATCHMIX_LIBTORCH=cuda make libtorch"), gained, "{said}");
    }
}

#[test]
fn a_kind_that_there_is_not_is_refused() {
    let (succeeded, said) = Machine::with_both().set_up(&[("PATCHMIX_LIBTORCH", "gpu")]);
    assert!(!succeeded);
    assert!(said.contains("PATCHMIX_LIBTORCH=gpu: choose cpu or cuda"), "{said}");
}

#[test]
fn the_version_is_that_of_the_locked_tch() {
    for (tch, wanted) in [("0.24.0", "2.11.0"), ("0.26.0", "2.13.0")] {
        let machine = Machine::new(tch);
        machine.libtorch("own", "2.0.0", &["libtorch_cpu.so"]);
        let own = machine.at("own");
        let (succeeded, said) = machine.set_up(&[("LIBTORCH", own.to_str().unwrap())]);
        assert!(!succeeded && said.contains(&format!("is libtorch 2.0.0, but this crate needs {wanted}")), "{said}");
        machine.libtorch("own", wanted, &["libtorch_cpu.so"]);
        assert!(machine.set_up(&[("LIBTORCH", own.to_str().unwrap())]).0);
    }
    let (succeeded, said) = Machine::new("0.99.0").set_up(&[]);
    assert!(!succeeded && said.contains("no libtorch is known for tch 0.99.0"), "{said}");
}

/// torch-sys has the version in its build script, and checks it only with LIBTORCH_USE_PYTORCH.
#[test]
fn the_script_and_the_locked_torch_sys_want_the_same_libtorch() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let metadata = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--offline", "--locked"])
        .current_dir(root)
        .output()
        .unwrap();
    let metadata: serde_json::Value = serde_json::from_slice(&metadata.stdout).unwrap();
    let torch_sys =
        metadata["packages"].as_array().unwrap().iter().find(|package| package["name"] == "torch-sys").unwrap();
    let manifest = Path::new(torch_sys["manifest_path"].as_str().unwrap());
    let build_script = fs::read_to_string(manifest.with_file_name("build.rs")).unwrap();
    let (_, version) = build_script.split_once("TORCH_VERSION: &str = \"").unwrap();
    let version = version.split('"').next().unwrap();

    let machine = Machine::new(torch_sys["version"].as_str().unwrap());
    machine.libtorch(&format!("cache/torch-{version}-cpu/torch"), version, &["libtorch_cpu.so"]);
    let (succeeded, said) = machine.set_up(&[("PATCHMIX_LIBTORCH", "cpu")]);
    assert!(succeeded && machine.linked() == format!("torch-{version}-cpu"), "{said}");
}

#[test]
fn a_link_of_ones_own_is_not_overwritten_by_a_folder() {
    let machine = Machine::with_both();
    symlink(machine.at("elsewhere"), machine.at("checkout/libtorch")).unwrap(); // left by an emptied cache
    assert!(machine.set_up(&[("PATCHMIX_LIBTORCH", "cpu")]).0);
    assert_eq!(machine.linked(), "torch-2.11.0-cpu");
    fs::remove_file(machine.at("checkout/libtorch")).unwrap();
    fs::create_dir(machine.at("checkout/libtorch")).unwrap();
    let (succeeded, said) = machine.set_up(&[("PATCHMIX_LIBTORCH", "cpu")]);
    assert!(!succeeded && said.contains("is not a link; move it away"), "{said}");
}
