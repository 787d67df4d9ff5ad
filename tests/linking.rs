//! Programs find libtorch, with its CUDA half where it has one: our own, and one that is made of the README's code.
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

/// The code blocks of the README in `language`, as they are printed.
fn readme_blocks(language: &str) -> Vec<String> {
    let readme = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md")).unwrap();
    let mut blocks = Vec::new();
    let mut lines = readme.lines();
    while let Some(line) = lines.next() {
        if line.strip_prefix("```").is_some_and(|info| info.split(',').next() == Some(language)) {
            blocks.push(lines.by_ref().take_while(|line| *line != "```").map(|line| format!("{line}\n")).collect());
        }
    }
    blocks
}

/// The `Cargo.toml` of package `name` with these dependencies.
fn manifest(name: &str, dependencies: &str) -> String {
    format!(
        "[package]\nname = \"{name}\"\nversion = \"0.1.0\"\nedition = \"2024\"\n\n{dependencies}\n\
         [profile.dev.build-override]\ndebug = false\n"
    )
}

/// Builds package `name` in `folder`, in our own target folder, where most dependencies are compiled already. Returns
/// its program.
fn build(name: &str, folder: &Path) -> PathBuf {
    fs::copy(Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.lock"), folder.join("Cargo.lock")).unwrap();
    let target: PathBuf = env::current_exe().unwrap().ancestors().nth(3).unwrap().to_owned();
    let libtorch =
        env::var_os("LIBTORCH").unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("libtorch").into());
    let build = Command::new(env!("CARGO"))
        .args(["build", "--offline"])
        .current_dir(folder)
        .env("CARGO_TARGET_DIR", &target)
        .env("LIBTORCH", libtorch)
        .output()
        .unwrap();
    assert!(build.status.success(), "{}", String::from_utf8_lossy(&build.stderr));
    target.join("debug").join(name)
}

/// Runs `program` as a user does who has set no search path. Returns whether it succeeded, its output and its errors.
fn run(program: &Path) -> (bool, String, String) {
    let output = Command::new(program).env_remove("LD_LIBRARY_PATH").output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.success(), text(output.stdout), text(output.stderr))
}

/// The version of tch that is locked here, for which libtorch was set up.
fn locked_tch() -> String {
    let lock = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.lock")).unwrap();
    let (_, rest) = lock.split_once("name = \"tch\"\nversion = \"").unwrap();
    rest.split('"').next().unwrap().to_owned()
}

/// A package of a user who copies every block of the README's section: `Cargo.toml`, `build.rs`, and the code.
#[test]
fn a_package_made_of_the_readme_builds_and_runs() {
    load_libtorch();
    let crate_folder = Path::new(env!("CARGO_MANIFEST_DIR"));
    let package = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| fs::write(package.path().join(name), text).unwrap();

    let [dependencies] = readme_blocks("toml").try_into().unwrap();
    let published = "patchmix = \"0.1\"\n";
    assert!(dependencies.contains(published), "{dependencies}");
    let local = dependencies.replace(published, &format!("patchmix = {{ path = {crate_folder:?} }}\n"));
    let local = local.replace("tch = \"0.24\"", &format!("tch = \"{}\"", locked_tch()));
    write("Cargo.toml", &manifest("downstream", &local));

    fs::create_dir(package.path().join("src")).unwrap();
    let (mut build_script, mut program) = (String::new(), String::new());
    for (number, block) in readme_blocks("rust").into_iter().enumerate() {
        if block.contains("DEP_PATCHMIX_LIBTORCH_LIB") {
            build_script = block;
        } else if block.contains("fn main()") {
            program += &block;
        } else {
            write(&format!("src/part_{number}.rs"), &block);
            program.insert_str(0, &format!("#[allow(dead_code)]\nmod part_{number};\n"));
        }
    }
    write("src/main.rs", &program);

    // The message that the README quotes, unless the system itself finds a libtorch.
    let (succeeded, _, said) = run(&build("downstream", package.path()));
    if !succeeded {
        assert!(said.contains("error while loading shared libraries: libtorch"), "{said}");
        assert!(said.contains(".so: cannot open shared object file"), "{said}");
    }

    write("build.rs", &build_script);
    let program = build("downstream", package.path());
    let (succeeded, said, problem) = run(&program);
    assert!(succeeded, "{problem}");
    assert_eq!(said, "[8, 64, 192] [8, 8] [8, 8]\n");
    if libtorch_has_cuda() {
        let needed = needed_libraries(&program);
        assert!(needed.iter().any(|name| name == CUDA), "{needed:?}");
    }
}

/// A package whose only dependency is this crate.
#[test]
fn a_program_that_only_adds_the_crate_loads_the_cuda_half() {
    load_libtorch();
    if !libtorch_has_cuda() {
        return;
    }
    let package = tempfile::tempdir().unwrap();
    let dependencies = format!("[dependencies]\npatchmix = {{ path = {:?} }}\n", env!("CARGO_MANIFEST_DIR"));
    fs::write(package.path().join("Cargo.toml"), manifest("only-patchmix", &dependencies)).unwrap();
    fs::create_dir(package.path().join("src")).unwrap();
    let program = "fn main() { println!(\"{:?}\", patchmix::MixPlan::random(4, 2, 1)); }\n";
    fs::write(package.path().join("src/main.rs"), program).unwrap();
    let needed = needed_libraries(&build("only-patchmix", package.path()));
    assert!(needed.iter().any(|name| name == CUDA), "{needed:?}");
}
