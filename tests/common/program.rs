//! The examples as programs.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The binary of an example, built if it is not there or not the newest.
pub(crate) fn build_example(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"));
    let target = std::env::current_exe().unwrap().ancestors().nth(3).unwrap().to_owned();
    let build = Command::new(env!("CARGO"))
        .args(["build", "--quiet", "--offline", "--example", name])
        .args(if cfg!(feature = "distributed") { &["--features", "distributed"][..] } else { &[] })
        .current_dir(folder)
        .env("CARGO_TARGET_DIR", &target)
        .status()
        .unwrap();
    assert!(build.success());
    target.join("debug/examples").join(name)
}

/// A program with options as one would type them, in `folder`.
pub(crate) fn command_in(folder: &Path, program: &Path, options: &str) -> Command {
    let mut command = Command::new(program);
    command.args(options.split_whitespace()).current_dir(folder).stdin(Stdio::null());
    command
}
