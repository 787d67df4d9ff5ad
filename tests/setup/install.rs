//! What is fetched, and what of it is kept.

use std::fs;
use std::path::Path;

use super::machine::Machine;

/// Without CUDA: what `libtorch_cpu.so` links to, headers, and the version. An interrupted run leaves nothing behind.
#[test]
fn without_a_driver_only_what_the_cpu_needs_is_fetched_and_kept() {
    let machine = Machine::new("0.24.0");
    machine.libtorch("cache/torch-2.11.0-cpu.partial/site/torch", "1.0", &["left-by-an-interrupted-run.so"]);
    let (succeeded, said) = machine.set_up(&[]);
    assert!(succeeded && machine.linked() == "torch-2.11.0-cpu", "{said}");
    let calls = machine.calls("python3");
    assert!(calls.contains("torch==2.11.0 ") && calls.contains("nvidia-cuda-cupti==13.0.85"), "{calls}");
    assert!(!calls.contains("nccl") && !calls.contains("sympy"), "{calls}");
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
    for wanted in ["sympy==", "nvidia-cublas==", "nvidia-cuda-cupti==13.0.85", "nvidia-nccl-cu13==2.28.9"] {
        assert!(calls.contains(wanted), "{calls}");
    }
    assert!(!calls.contains("triton") && !calls.contains("optree"), "{calls}");
    let files = machine.files("torch-2.11.0-cuda");
    assert!(files.contains(&"torch/lib/libtorch_cuda.so".to_owned()), "{files:?}");
    assert!(files.contains(&"torch/__init__.py".to_owned()), "{files:?}");
}

/// pip takes these files and no others, whatever the index serves.
#[test]
fn every_wheel_is_pinned_to_its_hash() {
    let machine = Machine::new("0.24.0");
    assert!(machine.set_up(&[("PATCHMIX_LIBTORCH", "cuda")]).0);
    let calls = machine.calls("python3");
    let (command, requirements) = calls.split_once('\n').unwrap();
    for option in ["--require-hashes", "--only-binary :all:", "--no-deps"] {
        assert!(command.contains(option), "{command}");
    }
    let is_hash = |word: &str| {
        let digest = word.strip_prefix("--hash=sha256:").unwrap_or_default();
        digest.len() == 64 && digest.bytes().all(|byte| byte.is_ascii_hexdigit())
    };
    let entries = requirements.replace("\\\n", "");
    let entries: Vec<&str> = entries.lines().filter(|line| !line.starts_with('#')).collect();
    assert!(entries.len() > 20, "{requirements}");
    for entry in entries {
        let (package, hashes) = entry.split_once("--hash").unwrap();
        assert!(package.contains("==") && format!("--hash{hashes}").split_whitespace().all(is_hash), "{entry}");
    }
}

/// Only `scripts/check-tch.sh` asks for such versions.
#[test]
fn a_version_without_hashes_is_fetched_with_a_word() {
    let machine = Machine::new("0.26.0");
    let (succeeded, said) = machine.set_up(&[]);
    assert!(succeeded && said.contains("no hashes are known for torch 2.13.0: the package index is trusted"), "{said}");
    assert_eq!(machine.linked(), "torch-2.13.0-cpu");
    let calls = machine.calls("python3");
    assert!(calls.contains("--no-deps torch==2.13.0") && calls.contains("--only-binary :all:"), "{calls}");
    assert!(calls.contains("cuda-toolkit[cudart,cupti]==13.0.2") && !calls.contains("nccl"), "{calls}");
}
