//! Links programs so that they find libtorch when they run, and so that they keep its CUDA half.

use std::env;
use std::path::{Path, PathBuf};

fn main() -> Result<(), String> {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=csrc");
    if env::var_os("CARGO_FEATURE_DOC_ONLY").is_some() || env::var_os("DOCS_RS").is_some() {
        return Ok(());
    }
    let library_folder = PathBuf::from(
        env::var("DEP_TCH_LIBTORCH_LIB")
            .map_err(|_| "torch-sys did not say where libtorch is; run `make libtorch`, or set LIBTORCH".to_owned())?,
    );

    // For the tests, examples and benches here. A dependent's build script reads DEP_PATCHMIX_LIBTORCH_LIB instead,
    // since link arguments do not pass from one package to another.
    println!("cargo::rustc-link-arg=-Wl,-rpath,{}", library_folder.display());
    println!("cargo::metadata=libtorch_lib={}", library_folder.display());

    if library_folder.join("libtorch_cuda.so").exists() {
        keep_cuda(Path::new("csrc/keep_cuda.cpp"))?;
    }
    Ok(())
}

/// Compiles `source` and has it linked, whole, into whatever uses this crate.
fn keep_cuda(source: &Path) -> Result<(), String> {
    cc::Build::new()
        .cpp(true)
        .std("c++17")
        .file(source)
        // The line that cc prints would leave out +whole-archive, without which the linker drops the file again.
        .cargo_metadata(false)
        .try_compile("patchmix_keep_cuda")
        .map_err(|error| format!("cannot compile {}: {error}", source.display()))?;
    let output = env::var("OUT_DIR").map_err(|error| format!("OUT_DIR: {error}"))?;
    println!("cargo::rustc-link-search=native={output}");
    println!("cargo::rustc-link-lib=static:+whole-archive=patchmix_keep_cuda");
    Ok(())
}
