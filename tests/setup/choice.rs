//! Which libtorch is taken: its version, its kind, and when it is replaced.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use super::machine::Machine;

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
