//! The script as a process of its own: full disks, interruptions, other versions of torch.

use std::process::Command;

use super::{CHECKPOINTS, MODULES, python};

/// An import in a folder of its own.
struct Import {
    succeeded: bool,
    /// Standard output and errors.
    said: String,
    /// Names of the files in the folder afterwards.
    files: Vec<String>,
}

/// Runs `command` in a shell, where `run FILE` imports a checkpoint to `out.safetensors` after the lines of Python
/// `before`. `None` without a Python for it.
fn import(before: &str, command: &str) -> Option<Import> {
    let checkpoints = CHECKPOINTS.as_ref()?;
    let python = python(MODULES)?;
    let folder = tempfile::tempdir().unwrap();
    let scripts = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts");
    let run = "runpy.run_path(sys.path[0] + '/import_checkpoint.py', run_name='__main__')";
    let script = format!("import os, runpy, signal, sys\nsys.path[0] = {scripts:?}\n{before}\n{run}\n");
    let program = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(program.path(), script).unwrap();
    let run = "run() { \"$PYTHON\" \"$PROGRAM\" \"$CHECKPOINTS/$1\" \"$OUT/out.safetensors\" --heads 3; }";
    let output = Command::new("sh")
        .args(["-c", &format!("{run}\n{command}")])
        .envs(python.get_envs().filter_map(|(name, value)| Some((name, value?))))
        .env("PYTHON", python.get_program())
        .envs([("PROGRAM", program.path()), ("CHECKPOINTS", checkpoints), ("OUT", folder.path())])
        .output()
        .unwrap();
    let names = folder.path().read_dir().unwrap().map(|entry| entry.unwrap().file_name());
    Some(Import {
        succeeded: output.status.success(),
        said: String::from_utf8([output.stdout, output.stderr].concat()).unwrap(),
        files: names.map(|name| name.into_string().unwrap()).collect(),
    })
}

/// Expects a failure with one line that has `words`, and the files `left`.
#[track_caller]
fn assert_refused(before: &str, command: &str, words: &str, left: &[&str]) {
    let Some(Import { succeeded, said, files }) = import(before, command) else { return };
    assert!(!succeeded && said.starts_with("error: ") && said.contains(words), "{command}: {said}");
    assert!(said.lines().count() == 1 && files == left, "{files:?}: {said}");
}

/// A limit on the size of files stands for the full disk.
#[test]
fn on_a_full_disk_no_file_is_left() {
    assert_refused("", "ulimit -f 16; run bare.pth", "cannot be written (File too large); name a file", &[]);
}

/// The encoder file is whole before anything is said of it.
#[cfg(target_os = "linux")]
#[test]
fn an_import_whose_description_cannot_be_printed_succeeds() {
    for command in ["run bare.pth >/dev/full", "run bare.pth >&-"] {
        let Some(import) = import("", command) else { return };
        assert!(import.succeeded && import.said.is_empty(), "{command}: {}", import.said);
        assert_eq!(import.files, ["out.safetensors"], "{command}");
    }
}

#[test]
fn a_file_that_another_program_made_meanwhile_is_kept() {
    let before = "import safetensors.torch\nsave = safetensors.torch.save\ndef meanwhile(*values, **options):\n    \
                  open(sys.argv[2], 'x').close()\n    return save(*values, **options)\n\
                  safetensors.torch.save = meanwhile";
    let kept = r#"run bare.pth || { test ! -s "$OUT/out.safetensors" || echo overwritten; false; }"#;
    assert_refused(before, kept, "out.safetensors: exists; name another file", &["out.safetensors"]);
}

#[test]
fn a_file_system_without_hard_links_will_do() {
    let before = "def link(*_, **__):\n    raise PermissionError(1, 'Operation not permitted')\nos.link = link";
    let Some(import) = import(before, "run bare.pth") else { return };
    assert!(import.succeeded && import.files == ["out.safetensors"], "{:?}: {}", import.files, import.said);
}

/// A Python with stand-ins for torch and safetensors, of which one cannot be imported, and one with neither.
#[test]
fn a_missing_package_is_named_in_one_line_with_the_command_that_installs_it() {
    let Some(mut without) = python("") else { return };
    let refused = |python: &mut Command, words: &str| {
        let output = python.args(["scripts/import_checkpoint.py", "a.pth", "b.safetensors"]).output().unwrap();
        let said = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
        assert!(!output.status.success() && said.starts_with("error: ") && said.contains(words), "{said}");
        assert!(said.lines().count() == 1 && said.ends_with("; pip install torch numpy safetensors\n"), "{said}");
    };
    refused(without.arg("-S").env("PYTHONPATH", ""), "No module named 'safetensors'");
    for (missing, error) in [("torch", "ImportError"), ("safetensors", "ImportError"), ("torch", "OSError")] {
        let folder = tempfile::tempdir().unwrap();
        for module in ["torch", "safetensors"] {
            let text = if module == missing { format!("raise {error}('{module} is not here')") } else { String::new() };
            std::fs::create_dir(folder.path().join(module)).unwrap();
            std::fs::write(folder.path().join(module).join("__init__.py"), text).unwrap();
            std::fs::write(folder.path().join(module).join("torch.py"), "").unwrap();
        }
        let mut python = python("").unwrap();
        refused(python.env("PYTHONPATH", folder.path()), &format!("{missing} is not here"));
    }
}

#[test]
fn an_interrupted_import_ends_with_a_line_and_leaves_no_file() {
    let kill = "os.kill(os.getpid(), signal.SIGINT)";
    for at in ["torch.load", "safetensors.torch.save"] {
        let before = format!("import safetensors.torch, torch\n{at} = lambda *_, **__: {kill}");
        assert_refused(&before, "run bare.pth", "error: interrupted\n", &[]);
    }
    // While torch is being imported, which takes seconds.
    let find = format!("find_spec = lambda self, name, *_: {kill} if name == 'torch' else None");
    let before = format!("class Finder:\n    {find}\nsys.meta_path.insert(0, Finder())");
    assert_refused(&before, "run bare.pth", "error: interrupted\n", &[]);
}

/// Versions before 2.10 have known holes in `weights_only=True`. A safetensors file has no code in any version.
#[test]
fn an_old_torch_reads_no_pickles() {
    let before = "import torch\ntorch.__version__ = torch.torch_version.TorchVersion('2.9.1+cu126')";
    let words = "torch 2.9.1+cu126 does not read such a file safely";
    for file in ["bare.pth", "single/old.pth", "single/zip.safetensors"] {
        assert_refused(before, &format!("run {file}"), words, &[]);
    }
    let Some(import) = import(before, "run single/timm.pth") else { return };
    assert!(import.succeeded && import.files == ["out.safetensors"], "{}", import.said);
}

/// Files are named by whoever made them, in any bytes.
#[test]
fn names_of_files_do_not_steer_the_terminal() {
    assert_refused("", r#"run "$(printf 'none\033[2J\377')""#, r"none\x1b[2J\udcff: no such file", &[]);
}
