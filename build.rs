//! Compiles `csrc`, and links programs so that they find libtorch at run time and keep its CUDA libraries.

use std::path::{Path, PathBuf};
use std::{env, fs, io};

fn main() -> Result<(), String> {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=csrc");
    if env::var_os("CARGO_FEATURE_DOC_ONLY").is_some() || env::var_os("DOCS_RS").is_some() {
        return Ok(());
    }
    let target = env::var("CARGO_CFG_TARGET_OS").map_err(|error| format!("CARGO_CFG_TARGET_OS: {error}"))?;
    if target == "windows" {
        let reason = "torch-sys does not export the folder of libtorch there, and csrc is written for GCC and Clang";
        return Err(format!("patchmix does not build for Windows: {reason}; build for Linux, in WSL 2"));
    }
    let library_folder = env::var("DEP_TCH_LIBTORCH_LIB").map(PathBuf::from).map_err(|_| {
        "torch-sys did not say where libtorch is, as with its feature doc-only; turn that off, or turn patchmix's \
         doc-only on"
    })?;

    // For the tests and benches here. The build script of a dependent reads DEP_PATCHMIX_LIBTORCH_LIB instead, because
    // link arguments do not pass from one package to another.
    println!("cargo::rustc-link-arg=-Wl,-rpath,{}", library_folder.display());
    println!("cargo::metadata=libtorch_lib={}", library_folder.display());

    let output = env::var("OUT_DIR").map_err(|error| format!("OUT_DIR: {error}"))?;
    embed_cuda_sources(Path::new(&output)).map_err(|error| format!("cannot write cuda_sources.h: {error}"))?;
    let include = include_folder(&library_folder)?;
    let has_cuda = library_folder.join("libtorch_cuda.so").exists();
    let mut sources = vec!["csrc/native.cpp"];
    if env::var_os("CARGO_FEATURE_PROFILE").is_some() {
        sources.push("csrc/profile.cpp");
    }
    if has_cuda {
        sources.push("csrc/keep_cuda.cpp");
    }
    let mut native = compiler(&include);
    native.include(include.join("torch/csrc/api/include")).include(&output);
    compile("patchmix_native", &sources, &mut native)?;
    if env::var_os("CARGO_FEATURE_DISTRIBUTED").is_some() {
        let nccl = has_cuda && compile_nccl(&library_folder, &include);
        compile_distributed(&include, nccl)?;
    }
    println!("cargo::rustc-link-lib={}", if is_apple() { "c++" } else { "stdc++" });
    Ok(())
}

/// Writes the CUDA sources, which are compiled at run time, into a header: each `NAME.cu` as `NAME_source`, all of
/// them as `cuda_sources`, and the files that they include as `cuda_headers`.
fn embed_cuda_sources(folder: &Path) -> io::Result<()> {
    let (mut sources, mut names, mut headers) = (String::new(), Vec::new(), String::new());
    let mut paths = fs::read_dir("csrc")?.map(|entry| Ok(entry?.path())).collect::<io::Result<Vec<PathBuf>>>()?;
    paths.sort(); // the same build everywhere
    for path in paths {
        let (Some(stem), Some(extension)) = (path.file_stem(), path.extension()) else { continue };
        let stem = stem.to_string_lossy();
        let text = || fs::read_to_string(&path).map(|text| format!("R\"CUDA({text})CUDA\""));
        if extension == "cu" {
            sources += &format!("inline constexpr CudaSource {stem}_source{{\"{stem}.cu\", {}}};\n", text()?);
            names.push(format!("{stem}_source"));
        } else if extension == "cuh" {
            headers += &format!("{{\"{stem}.cuh\", {}}},\n", text()?);
        }
    }
    let list = format!("inline constexpr CudaSource cuda_sources[] = {{{}}};\n", names.join(", "));
    let headers = format!("inline constexpr CudaSource cuda_headers[] = {{\n{headers}}};\n");
    fs::write(folder.join("cuda_sources.h"), format!("namespace patchmix {{\n{sources}{list}{headers}}}\n"))
}

/// Whether the target is an Apple system, with Apple's compiler and its C++ library.
fn is_apple() -> bool {
    env::var("CARGO_CFG_TARGET_VENDOR").is_ok_and(|vendor| vendor == "apple")
}

/// The folder of libtorch's headers, the same one that torch-sys uses.
fn include_folder(library_folder: &Path) -> Result<PathBuf, String> {
    println!("cargo::rerun-if-env-changed=LIBTORCH_INCLUDE");
    let root = env::var_os("LIBTORCH_INCLUDE").map(PathBuf::from);
    let root = root.or_else(|| library_folder.parent().map(Path::to_owned));
    let include = root.unwrap_or_default().join("include");
    if include.join("ATen").exists() {
        return Ok(include);
    }
    Err(format!("no libtorch headers in {}; set LIBTORCH_INCLUDE", include.display()))
}

/// A C++ compiler set up for libtorch.
fn compiler(include: &Path) -> cc::Build {
    println!("cargo::rerun-if-env-changed=LIBTORCH_CXX11_ABI");
    let cxx11_abi = env::var("LIBTORCH_CXX11_ABI").unwrap_or_else(|_| "1".to_owned());
    let mut compiler = cc::Build::new();
    compiler
        .cpp(true)
        .std("c++20")
        .opt_level(3) // these are inner loops, also in debug builds
        .debug(false) // which would double the time of compiling
        // Neither is looked at, and loops with either do not become vector instructions.
        .flag("-fno-math-errno")
        .flag("-fno-trapping-math")
        .flag("-fno-strict-aliasing") // pairs of bfloat16 are read as one number
        .define("_GLIBCXX_USE_CXX11_ABI", cxx11_abi.as_str())
        .include(include)
        .warnings(false) // libtorch's headers have many
        // cc would print the link line without +whole-archive, and the linker would drop keep_cuda.
        .cargo_metadata(false);
    // The threads that libtorch uses. Apple's compiler has no OpenMP; without it, our loops run in one thread.
    if !is_apple() {
        compiler.flag("-fopenmp");
    }
    compiler
}

/// Compiles `sources` to a library that is linked whole into every program that uses this crate.
fn compile(library: &str, sources: &[&str], compiler: &mut cc::Build) -> Result<(), String> {
    let compiled = compiler.files(sources).try_compile(library);
    compiled.map_err(|error| format!("cannot compile {}: {error}", sources.join(", ")))?;
    let output = env::var("OUT_DIR").map_err(|error| format!("OUT_DIR: {error}"))?;
    println!("cargo::rustc-link-search=native={output}");
    println!("cargo::rustc-link-lib=static:+whole-archive={library}");
    Ok(())
}

/// Compiles the process groups, with stubs for NCCL unless `nccl` was compiled.
fn compile_distributed(include: &Path, nccl: bool) -> Result<(), String> {
    let mut sources = vec!["csrc/distributed.cpp"];
    if !nccl {
        sources.push("csrc/no_nccl.cpp");
    }
    let mut compiler = compiler(include);
    compiler.include(include.join("torch/csrc/api/include")).include("csrc/stubs");
    compile("patchmix_distributed", &sources, &mut compiler)
}

/// Compiles the part that needs the headers of CUDA and NCCL, if they are where PyTorch's wheels put them: beside the
/// folder of libtorch. Returns whether it succeeded; groups over Gloo work without it.
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
        println!("cargo::warning=building without NCCL: {problem}");
    }
    compiled.is_ok()
}
