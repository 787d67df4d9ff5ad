//! Compiles `csrc`, and links programs so that they find libtorch when they run and keep its CUDA half.

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

    let mut sources = vec!["csrc/kernels.cpp"];
    if library_folder.join("libtorch_cuda.so").exists() {
        sources.push("csrc/keep_cuda.cpp");
    }
    compile(&sources, &include_folder(&library_folder)?)
}

/// libtorch's headers: where torch-sys looks for them, too.
fn include_folder(library_folder: &Path) -> Result<PathBuf, String> {
    println!("cargo::rerun-if-env-changed=LIBTORCH_INCLUDE");
    let root = env::var_os("LIBTORCH_INCLUDE").map(PathBuf::from);
    let root = root.or_else(|| library_folder.parent().map(Path::to_owned));
    let include = root.unwrap_or_default().join("include");
    match include.join("ATen").exists() {
        true => Ok(include),
        false => Err(format!("libtorch's headers are not in {}; set LIBTORCH_INCLUDE", include.display())),
    }
}

/// Compiles `sources` and has them linked, whole, into whatever uses this crate.
fn compile(sources: &[&str], include: &Path) -> Result<(), String> {
    println!("cargo::rerun-if-env-changed=LIBTORCH_CXX11_ABI");
    let cxx11_abi = env::var("LIBTORCH_CXX11_ABI").unwrap_or_else(|_| "1".to_owned());
    cc::Build::new()
        .cpp(true)
        .std("c++17")
        .opt_level(3) // these are the inner loops, in debug builds too
        .flag("-fopenmp") // libtorch's own threads
        .define("_GLIBCXX_USE_CXX11_ABI", cxx11_abi.as_str())
        .include(include)
        .warnings(false) // libtorch's headers have theirs
        .files(sources)
        // The line that cc prints would leave out +whole-archive, without which the linker drops keep_cuda again.
        .cargo_metadata(false)
        .try_compile("patchmix_native")
        .map_err(|error| format!("cannot compile {}: {error}", sources.join(", ")))?;
    let output = env::var("OUT_DIR").map_err(|error| format!("OUT_DIR: {error}"))?;
    println!("cargo::rustc-link-search=native={output}");
    println!("cargo::rustc-link-lib=static:+whole-archive=patchmix_native");
    println!("cargo::rustc-link-lib=stdc++");
    Ok(())
}
