//! A machine for the set-up script: stand-ins for `cargo`, Python and `df`.

use std::fs;
use std::os::unix::fs::PermissionsExt;
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
        --requirement) cat "$2" >>"$0.calls" && wanted+=" $(cat "$2")" ;;
        torch==*) wanted+=" $1" ;;
        esac
        shift
    done
    mkdir -p "$site"
    cd "$site"
    if [[ $wanted = *cud* ]]; then
        mkdir -p nvidia/cu13/lib nvidia/cu13/include sympy triton
        touch nvidia/cu13/lib/lib{cudart.so.13,cupti.so.13,nvperf_host.so} nvidia/cu13/include/cuda.h sympy/__init__.py
    fi
    [[ $wanted =~ torch==([0-9.]+) ]] || exit 0
    version=${BASH_REMATCH[1]}
    mkdir -p torch/lib torch/include torch/share torch/nn torch.libs torchgen torch-$version.dist-info
    touch torch/__init__.py torch/lib/lib{c10,c10_cuda,torch,torch_cpu,torch_cuda,torch_cuda_linalg,torch_python}.so
    touch torch/lib/libgomp.so.1 torch/include/torch.h torch.libs/libopenblas.so
    echo "__version__ = '$version+cu130'" >torch/version.py
    cat >torch-$version.dist-info/METADATA <<END
Metadata-Version: 2.1
Name: torch
Version: $version
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
pub(crate) struct Machine {
    folder: tempfile::TempDir,
}

impl Machine {
    /// With tch locked to `tch`, without an NVIDIA driver.
    pub(crate) fn new(tch: &str) -> Machine {
        let machine = Machine { folder: tempfile::tempdir().unwrap() };
        for folder in ["checkout/scripts", "checkout/target", "cache", "bin"] {
            fs::create_dir_all(machine.at(folder)).unwrap();
        }
        let scripts = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts");
        fs::copy(scripts.join("libtorch-hashes.txt"), machine.at("checkout/scripts/libtorch-hashes.txt")).unwrap();
        let script = fs::read_to_string(scripts.join("setup-libtorch.sh")).unwrap();
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

    pub(crate) fn at(&self, path: &str) -> PathBuf {
        self.folder.path().join(path)
    }

    /// Puts a stand-in for libtorch `version` at `path`.
    pub(crate) fn libtorch(&self, path: &str, version: &str, libraries: &[&str]) {
        fs::create_dir_all(self.at(path).join("lib")).unwrap();
        fs::write(self.at(path).join("version.py"), format!("__version__ = '{version}+cu130'\n")).unwrap();
        for library in libraries {
            fs::write(self.at(path).join("lib").join(library), "").unwrap();
        }
    }

    /// Both kinds of libtorch 2.11.0 in the cache.
    pub(crate) fn with_both() -> Machine {
        let machine = Machine::new("0.24.0");
        machine.libtorch("cache/torch-2.11.0-cpu/torch", "2.11.0", &["libtorch_cpu.so"]);
        machine.libtorch("cache/torch-2.11.0-cuda/torch", "2.11.0", &["libtorch_cpu.so", "libtorch_cuda.so"]);
        machine
    }

    /// Runs the script. Returns whether it succeeded, and what it said.
    pub(crate) fn set_up(&self, variables: &[(&str, &str)]) -> (bool, String) {
        let output = self.command().envs(variables.iter().copied()).output().unwrap();
        (output.status.success(), String::from_utf8(output.stderr).unwrap())
    }

    /// The script, with the cache of this machine.
    pub(crate) fn command(&self) -> Command {
        let path = std::env::var("PATH").unwrap();
        let mut command = Command::new("bash");
        for unset in ["LIBTORCH", "LIBTORCH_USE_PYTORCH", "LIBTORCH_BYPASS_VERSION_CHECK", "PATCHMIX_LIBTORCH", "CXX"] {
            command.env_remove(unset);
        }
        command
            .arg(self.at("checkout/scripts/setup-libtorch.sh"))
            .env_remove("CARGO_TARGET_DIR")
            .env("PATH", format!("{}:{path}", self.at("bin").display()))
            .env("PATCHMIX_CACHE", self.at("cache"));
        command
    }

    /// Lets `id` tell the script that another user runs it.
    pub(crate) fn become_user(&self, user: u32) {
        let id = self.at("bin/id");
        fs::write(&id, format!("#!/bin/sh\necho {user}\n")).unwrap();
        fs::set_permissions(&id, fs::Permissions::from_mode(0o755)).unwrap();
    }

    /// The name of the folder in the cache that is linked.
    pub(crate) fn linked(&self) -> String {
        let torch = fs::read_link(self.at("checkout/libtorch")).unwrap();
        torch.parent().unwrap().file_name().unwrap().to_str().unwrap().to_owned()
    }

    /// What `program` was called with, a line each.
    pub(crate) fn calls(&self, program: &str) -> String {
        fs::read_to_string(self.at("bin").join(format!("{program}.calls"))).unwrap_or_default()
    }

    /// All files below `folder` of the cache, sorted.
    pub(crate) fn files(&self, folder: &str) -> Vec<String> {
        let list =
            Command::new("find").args([".", "!", "-type", "d"]).current_dir(self.at("cache").join(folder)).output();
        let list = String::from_utf8(list.unwrap().stdout).unwrap();
        let mut names: Vec<String> = list.lines().map(|name| name.trim_start_matches("./").to_owned()).collect();
        names.sort();
        names
    }
}
