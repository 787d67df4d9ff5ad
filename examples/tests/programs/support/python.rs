//! Python, for comparisons with other implementations.

use std::path::{Path, PathBuf};
use std::process::Command;

/// Python in the root of the repository, if it has all of `modules`; otherwise prints that the test is skipped.
///
/// `PATCHMIX_PYTHON` names another program than `python3`. The torch of the set-up script is found as well.
pub(crate) fn python(modules: &str) -> Option<Command> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let program = std::env::var("PATCHMIX_PYTHON").unwrap_or_else(|_| "python3".to_owned());
    let mut folders: Vec<PathBuf> = std::env::var_os("PYTHONPATH").iter().flat_map(std::env::split_paths).collect();
    folders.extend(root.join("libtorch").canonicalize().iter().filter_map(|torch| torch.parent()).map(Path::to_owned));
    let path = std::env::join_paths(folders).unwrap();
    let command = || {
        let mut command = Command::new(&program);
        command.current_dir(root).env("PYTHONPATH", &path);
        command
    };
    // Found without being imported, which takes seconds.
    let find = "import importlib.util, sys; sys.exit(not all(map(importlib.util.find_spec, sys.argv[1].split())))";
    if command().args(["-c", find, modules]).output().is_ok_and(|output| output.status.success()) {
        return Some(command());
    }
    eprintln!("skipped: {program} does not have all of {modules}");
    None
}

/// Runs a script once for each line of arguments, in one process; returns whether it succeeded and what it printed.
pub(crate) fn run_script(python: &mut Command, script: &str, lines: &[String]) -> Vec<(bool, String)> {
    const DRIVER: &str = "
import contextlib, io, json, runpy, sys
script, lines = sys.argv[1], sys.argv[2:]
for line in lines:
    sys.argv, said, code = [script, *line.split()], io.StringIO(), None
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        try:
            runpy.run_path(script, run_name='__main__')
        except SystemExit as end:
            code = end.code
            print(code if isinstance(code, str) else '', end='')
    print(json.dumps([not code, said.getvalue()]))
";
    let output = python.args(["-c", DRIVER, script]).args(lines).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let printed = String::from_utf8(output.stdout).unwrap();
    printed.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}
