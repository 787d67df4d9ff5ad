//! Programs link the CUDA half of libtorch: our own, and any that adds this crate to its `Cargo.toml`.
//!
//! The linker drops a library if no symbol of it is used, and then `tch::Cuda::is_available()` is false on a machine
//! with a GPU. The header of a binary lists the libraries it loads, so the test needs no GPU.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::expect_used)] // a test may panic, helpers included

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

const CUDA: &str = "libtorch_cuda.so";

/// The names of the shared libraries that `binary` needs.
fn needed_libraries(binary: &Path) -> Vec<String> {
    let output = Command::new("readelf").arg("--dynamic").arg("--wide").arg(binary).output().expect("readelf");
    assert!(output.status.success(), "readelf {}", binary.display());
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let names = text
        .lines()
        .filter(|line| line.contains("(NEEDED)"))
        .map(|line| line.split_once('[').unwrap().1.trim_end_matches(']').to_owned());
    names.collect()
}

/// Whether the libtorch that this test is linked with has a CUDA half; prints a note if not.
fn libtorch_has_cuda() -> bool {
    let maps = fs::read_to_string("/proc/self/maps").unwrap();
    let cpu = maps.split_whitespace().find(|word| word.ends_with("libtorch_cpu.so"));
    let folder = Path::new(cpu.expect("libtorch_cpu.so is loaded")).parent().unwrap();
    let found = folder.join(CUDA).exists();
    if !found {
        println!("skipped: the libtorch in {} has no CUDA half", folder.display());
    }
    found
}

/// Uses libtorch, so that this program loads it.
fn load_libtorch() {
    assert_eq!(tch::Tensor::from(1.0).numel(), 1);
    let _ = patchmix::MixPlan::random(1, 1, 1).unwrap();
}

#[test]
fn our_own_programs_load_the_cuda_half() {
    load_libtorch();
    if libtorch_has_cuda() {
        let needed = needed_libraries(&env::current_exe().unwrap());
        assert!(needed.iter().any(|name| name == CUDA), "{needed:?}");
    }
}

/// Builds a one-line program in a package of its own whose only dependency is this crate.
#[test]
fn a_program_that_only_adds_the_crate_loads_the_cuda_half() {
    load_libtorch();
    if !libtorch_has_cuda() {
        return;
    }
    let crate_folder = Path::new(env!("CARGO_MANIFEST_DIR"));
    let package = tempfile::tempdir().unwrap();
    let manifest = format!(
        "[package]\nname = \"downstream\"\nversion = \"0.1.0\"\nedition = \"2024\"\n\n[dependencies]\n\
         patchmix = {{ path = {crate_folder:?} }}\n\n[profile.dev.build-override]\ndebug = false\n"
    );
    fs::write(package.path().join("Cargo.toml"), manifest).unwrap();
    fs::create_dir(package.path().join("src")).unwrap();
    let program = "fn main() { println!(\"{:?}\", patchmix::MixPlan::random(4, 2, 1)); }\n";
    fs::write(package.path().join("src/main.rs"), program).unwrap();
    fs::copy(crate_folder.join("Cargo.lock"), package.path().join("Cargo.lock")).unwrap();

    // In our own target folder, where most dependencies are compiled already.
    let target: PathBuf = env::current_exe().unwrap().ancestors().nth(3).unwrap().to_owned();
    let libtorch = env::var_os("LIBTORCH").unwrap_or_else(|| crate_folder.join("libtorch").into());
    let build = Command::new(env!("CARGO"))
        .args(["build", "--offline"])
        .current_dir(package.path())
        .env("CARGO_TARGET_DIR", &target)
        .env("LIBTORCH", libtorch)
        .output()
        .unwrap();
    assert!(build.status.success(), "{}", String::from_utf8_lossy(&build.stderr));
    let program = target.join("debug/downstream");
    let needed = needed_libraries(&program);
    assert!(needed.iter().any(|name| name == CUDA), "{needed:?}");
}
