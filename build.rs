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

    let include = include_folder(&library_folder)?;
    let has_cuda = library_folder.join("libtorch_cuda.so").exists();
    let mut sources = vec!["csrc/kernels.cpp", "csrc/backend.cpp", "csrc/add_norm.cpp"];
    if env::var_os("CARGO_FEATURE_PROFILE").is_some() {
        sources.push("csrc/profile.cpp");
    }
    if has_cuda {
        sources.push("csrc/keep_cuda.cpp");
    }
    compile("patchmix_native", &sources, compiler(&include).include(include.join("torch/csrc/api/include")))?;
    if env::var_os("CARGO_FEATURE_DISTRIBUTED").is_some() {
        let nccl = has_cuda && compile_nccl(&library_folder, &include);
        compile_distributed(&include, nccl)?;
    }
    println!("cargo::rustc-link-lib=stdc++");
    Ok(())
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

/// A compiler for what uses libtorch.
fn compiler(include: &Path) -> cc::Build {
    println!("cargo::rerun-if-env-changed=LIBTORCH_CXX11_ABI");
    let cxx11_abi = env::var("LIBTORCH_CXX11_ABI").unwrap_or_else(|_| "1".to_owned());
    let mut compiler = cc::Build::new();
    compiler
        .cpp(true)
        .std("c++17")
        .opt_level(3) // these are the inner loops, in debug builds too
        .flag("-fopenmp") // libtorch's own threads
        .define("_GLIBCXX_USE_CXX11_ABI", cxx11_abi.as_str())
        .include(include)
        .warnings(false) // libtorch's headers have theirs
        // The line that cc prints would leave out +whole-archive, without which the linker drops keep_cuda again.
        .cargo_metadata(false);
    compiler
}

/// Compiles `sources` and has them linked, whole, into whatever uses this crate.
fn compile(library: &str, sources: &[&str], compiler: &mut cc::Build) -> Result<(), String> {
    let compiled = compiler.files(sources).try_compile(library);
    compiled.map_err(|error| format!("cannot compile {}: {error}", sources.join(", ")))?;
    let output = env::var("OUT_DIR").map_err(|error| format!("OUT_DIR: {error}"))?;
    println!("cargo::rustc-link-search=native={output}");
    println!("cargo::rustc-link-lib=static:+whole-archive={library}");
    Ok(())
}

/// Process groups, over NCCL too if that is compiled.
fn compile_distributed(include: &Path, nccl: bool) -> Result<(), String> {
    let mut sources = vec!["csrc/distributed.cpp"];
    if !nccl {
        sources.push("csrc/no_nccl.cpp");
    }
    let mut compiler = compiler(include);
    compiler.include(include.join("torch/csrc/api/include")).include("csrc/stubs");
    compile("patchmix_distributed", &sources, &mut compiler)
}

/// Compiles what needs CUDA's and NCCL's headers, if they are where PyTorch's wheels have them: beside the folder of
/// libtorch. Whether it could; groups over Gloo need none of it.
fn compile_nccl(library_folder: &Path, include: &Path) -> bool {
    let wheels = library_folder.canonicalize().unwrap_or_default().join("../../nvidia");
    let folders: Vec<PathBuf> =
        wheels.read_dir().into_iter().flatten().flatten().map(|entry| entry.path().join("include")).collect();
    let has = |header: &str| folders.iter().any(|folder| folder.join(header).exists());
    if !["cuda_runtime_api.h", "nccl.h", "cublas_v2.h", "cusparse.h", "cusolverDn.h"].into_iter().all(has) {
        return false;
    }
    let mut compiler = compiler(include);
    compiler.include(include.join("torch/csrc/api/include")).include("csrc/stubs").include("csrc/stubs/cuda");
    compiler.includes(folders).define("USE_C10D_NCCL", None).cargo_warnings(false);
    let compiled = compile("patchmix_nccl", &["csrc/nccl.cpp"], &mut compiler);
    if let Err(problem) = &compiled {
        println!("cargo::warning=process groups will be without NCCL: {problem}");
    }
    compiled.is_ok()
}
