//! The set-up script: which libtorch it takes, when, and what it keeps. Nothing is downloaded: libraries are empty
//! files, and stand-ins take the place of `cargo` and of `pip`.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::expect_used)] // a test may panic, helpers included

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Stands in for Python: `pip install` makes the files of a wheel; a program on stdin runs in the real one.
const PYTHON: &str = r#"#!/bin/bash
case "$*" in
*"version_info"*) echo 12 ;;
*"pip --version"*) ;;
- | "- "*) exec REAL "$@" ;;
*"pip install"*)
    echo "$@" >>"$0.calls"
    while [ $# -gt 0 ]; do
        case $1 in
        --target) site=$2 ;;
        --requirement) cat "$2" >>"$0.calls" && requirements=1 ;;
        esac
        shift
    done
    mkdir -p "$site"
    cd "$site"
    if [ -n "${requirements:-}" ]; then
        mkdir -p nvidia/cu13/lib nvidia/cu13/include sympy triton
        touch nvidia/cu13/lib/lib{cudart.so.13,cupti.so.13,nvperf_host.so} nvidia/cu13/include/cuda.h sympy/__init__.py
        exit
    fi
    mkdir -p torch/lib torch/include torch/share torch/nn torch.libs torchgen torch-2.11.0.dist-info
    touch torch/__init__.py torch/lib/lib{c10,c10_cuda,torch,torch_cpu,torch_cuda,torch_cuda_linalg,torch_python}.so
    touch torch/lib/libgomp.so.1 torch/include/torch.h torch.libs/libopenblas.so
    echo "__version__ = '2.11.0+cu130'" >torch/version.py
    cat >torch-2.11.0.dist-info/METADATA <<'END'
Metadata-Version: 2.1
Name: torch
Version: 2.11.0
Requires-Dist: sympy>=1.13.3
Requires-Dist: cuda-toolkit[cublas,cudart,cupti]==13.0.2; platform_system == "Linux"
Requires-Dist: nvidia-nccl-cu13==2.28.9; platform_system == "Linux"
Requires-Dist: triton==3.6.0; platform_system == "Linux"
Requires-Dist: optree>=0.13.0; extra == "optree"
END
    ;;
*) exit 1 ;;
esac
"#;

/// A checkout with the set-up script, a cache, and programs that write their arguments into a file.
struct Machine {
    folder: tempfile::TempDir,
}

impl Machine {
    /// With tch locked to `tch`, without an NVIDIA driver.
    fn new(tch: &str) -> Machine {
        let machine = Machine { folder: tempfile::tempdir().unwrap() };
        for folder in ["checkout/scripts", "checkout/target", "cache", "bin"] {
            fs::create_dir_all(machine.at(folder)).unwrap();
        }
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/setup-libtorch.sh");
        let script = fs::read_to_string(script).unwrap();
        let driver = machine.at("driver").display().to_string();
        let paths = ["/proc/driver/nvidia/version", "/usr/lib/wsl/lib/libcuda.so.1"];
        assert!(paths.iter().all(|path| script.contains(path)), "{paths:?}");
        let script = paths.iter().fold(script, |script, path| script.replace(path, &driver));
        fs::write(machine.at("checkout/scripts/setup-libtorch.sh"), script).unwrap();
        let lock = format!("[[package]]\nname = \"torch-sys\"\nversion = \"{tch}\"\n");
        fs::write(machine.at("checkout/Cargo.lock"), lock).unwrap();
        let real = Command::new("sh").args(["-c", "command -v python3"]).output().unwrap().stdout;
        let python = PYTHON.replace("REAL", String::from_utf8(real).unwrap().trim());
        let df = "#!/bin/sh\necho Filesystem\necho disk 0 0 99999999 0% /\n"; // the real disk may be small
        let cargo = "#!/bin/sh\necho \"$@\" >>\"$0.calls\"\n";
        for (name, text) in [("cargo", cargo), ("df", df), ("python3", &python)] {
            fs::write(machine.at("bin").join(name), text).unwrap();
            fs::set_permissions(machine.at("bin").join(name), fs::Permissions::from_mode(0o755)).unwrap();
        }
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
        let mut command = Command::new("bash");
        for unset in ["LIBTORCH", "LIBTORCH_USE_PYTORCH", "LIBTORCH_BYPASS_VERSION_CHECK", "PATCHMIX_LIBTORCH", "CXX"] {
            command.env_remove(unset);
        }
        let output = command
            .arg(self.at("checkout/scripts/setup-libtorch.sh"))
            .env_remove("CARGO_TARGET_DIR")
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

    /// What `program` was called with, a line each.
    fn calls(&self, program: &str) -> String {
        fs::read_to_string(self.at("bin").join(format!("{program}.calls"))).unwrap_or_default()
    }

    /// All files below `folder` of the cache, sorted.
    fn files(&self, folder: &str) -> Vec<String> {
        let list =
            Command::new("find").args([".", "!", "-type", "d"]).current_dir(self.at("cache").join(folder)).output();
        let list = String::from_utf8(list.unwrap().stdout).unwrap();
        let mut names: Vec<String> = list.lines().map(|name| name.trim_start_matches("./").to_owned()).collect();
        names.sort();
        names
    }
}

/// Without CUDA: what `libtorch_cpu.so` links to, headers, and the version. An interrupted run leaves nothing behind.
#[test]
fn without_a_driver_only_what_the_cpu_needs_is_fetched_and_kept() {
    let machine = Machine::new("0.24.0");
    machine.libtorch("cache/torch-2.11.0-cpu.partial/site/torch", "1.0", &["left-by-an-interrupted-run.so"]);
    let (succeeded, said) = machine.set_up(&[]);
    assert!(succeeded && machine.linked() == "torch-2.11.0-cpu", "{said}");
    let calls = machine.calls("python3");
    assert!(calls.contains("--no-deps torch==2.11.0"), "{calls}");
    assert!(calls.contains("cuda-toolkit[cudart,cupti]==13.0.2") && !calls.contains("nccl"), "{calls}");
    assert_eq!(
        machine.files("torch-2.11.0-cpu"),
        [
            "nvidia/cu13/lib/libcudart.so.13",
            "nvidia/cu13/lib/libcupti.so.13",
            "torch-2.11.0.dist-info/METADATA",
            "torch.libs/libopenblas.so",
            "torch/include/torch.h",
            "torch/lib/libc10.so",
            "torch/lib/libgomp.so.1",
            "torch/lib/libtorch.so",
            "torch/lib/libtorch_cpu.so",
            "torch/version.py",
        ]
    );
    let libtorch = fs::read_link(machine.at("cache/torch-2.11.0-cpu/torch/lib/libtorch.so")).unwrap();
    assert_eq!(libtorch, Path::new("libtorch_cpu.so"));
    assert!(!machine.at("cache/torch-2.11.0-cpu.partial").exists());
}

#[test]
fn with_a_driver_cuda_and_what_python_needs_are_fetched_but_no_triton() {
    let machine = Machine::new("0.24.0");
    fs::write(machine.at("driver"), "").unwrap();
    let (succeeded, said) = machine.set_up(&[]);
    assert!(succeeded && machine.linked() == "torch-2.11.0-cuda", "{said}");
    let calls = machine.calls("python3");
    for wanted in ["sympy>=1.13.3", "cuda-toolkit[cublas,cudart,cupti]==13.0.2", "nvidia-nccl-cu13==2.28.9"] {
        assert!(calls.contains(wanted), "{calls}");
    }
    assert!(!calls.contains("triton") && !calls.contains("optree"), "{calls}");
    let files = machine.files("torch-2.11.0-cuda");
    assert!(files.contains(&"torch/lib/libtorch_cuda.so".to_owned()), "{files:?}");
    assert!(files.contains(&"torch/__init__.py".to_owned()), "{files:?}");
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
    fs::remove_file(machine.at("bin/cargo.calls")).unwrap();
    machine.set_up(&[("PATCHMIX_LIBTORCH", "cpu")]);
    assert_eq!(machine.calls("cargo"), "", "the same libtorch");
    fs::remove_file(machine.at("checkout/libtorch")).unwrap(); // forgotten, but what it was linked to is not
    machine.set_up(&[("PATCHMIX_LIBTORCH", "cuda")]);
    let calls = machine.calls("cargo");
    assert_eq!(calls.lines().count(), 2, "one each for dev and release");
    assert!(calls.lines().all(|call| call.starts_with("clean") && call.contains("torch-sys")), "{calls}");
}

/// A machine that gains a GPU is told, each time.
#[test]
fn libtorch_is_not_replaced_unasked() {
    let machine = Machine::with_both();
    assert!(machine.set_up(&[]).0);
    assert_eq!(machine.linked(), "torch-2.11.0-cpu");
    assert_eq!(machine.set_up(&[]), (true, String::new()));
    fs::write(machine.at("driver"), "").unwrap();
    for _ in 0..2 {
        let (succeeded, said) = machine.set_up(&[]);
        assert!(succeeded && said.contains("run: PATCHMIX_LIBTORCH=cuda make libtorch"), "{said}");
        assert_eq!(machine.linked(), "torch-2.11.0-cpu");
    }
    machine.set_up(&[("PATCHMIX_LIBTORCH", "cuda")]);
    fs::remove_file(machine.at("driver")).unwrap();
    assert_eq!(machine.set_up(&[]), (true, String::new()), "CUDA works without a GPU");
    assert_eq!(machine.linked(), "torch-2.11.0-cuda");
}

#[test]
fn an_unknown_kind_is_refused() {
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

/// torch-sys has the version in its build script.
#[test]
fn the_script_and_the_locked_torch_sys_want_the_same_libtorch() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    // Sources for other platforms may never have been fetched.
    let rustc = Command::new("rustc").arg("-vV").current_dir(root).output().unwrap();
    let rustc = String::from_utf8(rustc.stdout).unwrap();
    let host = rustc.lines().find_map(|line| line.strip_prefix("host: ")).unwrap();
    let metadata = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--offline", "--locked", "--filter-platform", host])
        .current_dir(root)
        .output()
        .unwrap();
    assert!(metadata.status.success(), "{}", String::from_utf8_lossy(&metadata.stderr));
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
fn a_link_into_an_emptied_cache_is_replaced_and_a_folder_is_not() {
    let machine = Machine::with_both();
    symlink(machine.at("elsewhere"), machine.at("checkout/libtorch")).unwrap(); // left by an emptied cache
    assert!(machine.set_up(&[("PATCHMIX_LIBTORCH", "cpu")]).0);
    assert_eq!(machine.linked(), "torch-2.11.0-cpu");
    fs::remove_file(machine.at("checkout/libtorch")).unwrap();
    fs::create_dir(machine.at("checkout/libtorch")).unwrap();
    let (succeeded, said) = machine.set_up(&[("PATCHMIX_LIBTORCH", "cpu")]);
    assert!(!succeeded && said.contains("is not a link; move it away"), "{said}");
}
