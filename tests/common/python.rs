//! Python, for comparisons with other implementations.

use std::path::{Path, PathBuf};
use std::process::Command;

/// Python, run in the root of the repository, if it has all of `modules`; else prints that the test is skipped.
/// `PATCHMIX_PYTHON` replaces `python3`. The torch installed by the set-up script is found too, if it is a whole one.
pub(crate) fn python(modules: &str) -> Option<Command> {
    let package = Path::new(env!("CARGO_MANIFEST_DIR")); // the root itself, or a folder in it
    let root = package.ancestors().find(|folder| folder.join("scripts").is_dir()).unwrap();
    let program = std::env::var("PATCHMIX_PYTHON").unwrap_or_else(|_| "python3".to_owned());
    let mut folders: Vec<PathBuf> = std::env::var_os("PYTHONPATH").iter().flat_map(std::env::split_paths).collect();
    let torch = root.join("libtorch").canonicalize().ok().filter(|torch| torch.join("__init__.py").exists());
    folders.extend(torch.iter().filter_map(|torch| torch.parent()).map(Path::to_owned));
    let path = std::env::join_paths(folders).unwrap();
    let command = || {
        let mut command = Command::new(&program);
        command.current_dir(root).env("PYTHONPATH", &path);
        command
    };
    // Looks for the modules without importing them, which would take seconds.
    let find = "import importlib.util, sys; sys.exit(not all(map(importlib.util.find_spec, sys.argv[1].split())))";
    if command().args(["-c", find, modules]).output().is_ok_and(|output| output.status.success()) {
        return Some(command());
    }
    eprintln!("skipped: {program} lacks one of {modules}");
    None
}

/// Runs a script once per line of arguments, in one process. Returns whether each run succeeded, and its output.
pub(crate) fn run_script(python: &mut Command, script: &str, lines: &[String]) -> Vec<(bool, String)> {
    const DRIVER: &str = "
import contextlib, io, json, os, runpy, sys
script, lines = sys.argv[1], sys.argv[2:]
sys.path.insert(0, os.path.dirname(script))
for line in lines:
    sys.argv, text, code = [script, *line.split()], io.StringIO(), None
    with contextlib.redirect_stdout(text), contextlib.redirect_stderr(text):
        try:
            runpy.run_path(script, run_name='__main__')
        except SystemExit as end:
            code = end.code
            print(code if isinstance(code, str) else '', end='')
    print(json.dumps([not code, text.getvalue()]))
";
    let output = python.args(["-c", DRIVER, script]).args(lines).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let results = String::from_utf8(output.stdout).unwrap();
    results.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}
