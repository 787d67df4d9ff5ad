//! The programs: built once, then run with options as one would type them.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::LazyLock;

/// The folder of the binaries. Building them all takes one call of cargo, whichever test comes first.
static BINARIES: LazyLock<PathBuf> = LazyLock::new(|| {
    let target = std::env::current_exe().unwrap().ancestors().nth(3).unwrap().to_owned();
    let mut build = Command::new(env!("CARGO"));
    // What cargo says of this package only. Build scripts of dependencies run again whenever it comes or goes.
    let of_package =
        |name: &str| name == "OUT_DIR" || ["CARGO_PKG_", "CARGO_MANIFEST_"].iter().any(|start| name.starts_with(start));
    for (name, _) in std::env::vars().filter(|(name, _)| of_package(name)) {
        build.env_remove(name);
    }
    let build = build
        .args(["build", "--quiet", "--offline", "--examples"])
        .args(if cfg!(feature = "distributed") { &["--features", "distributed"][..] } else { &[] })
        // From the root, as `cargo test` there: with the same features, the library is not compiled again.
        .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(".."))
        .env("CARGO_TARGET_DIR", &target)
        .output()
        .unwrap();
    assert!(build.status.success(), "{}", error_text(&build));
    target.join("debug/examples")
});

/// The binary of a program.
pub(crate) fn program(name: &str) -> PathBuf {
    BINARIES.join(name)
}

/// A program with options, in `folder`.
pub(crate) fn command_in(folder: &Path, name: &str, options: &str) -> Command {
    let mut command = Command::new(program(name));
    command.args(options.split_whitespace()).current_dir(folder).stdin(Stdio::null());
    command
}

/// An output that nobody reads: every write to it fails.
pub(crate) fn closed_pipe() -> Stdio {
    let (_, writer) = std::io::pipe().unwrap();
    writer.into()
}

/// What a program wrote to standard error.
pub(crate) fn error_text(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// Expects that a program failed with a single line of error that contains all of `named`, and without a panic.
#[track_caller]
pub(crate) fn assert_refused(options: &str, output: &Output, named: &[&str]) {
    let text = error_text(output);
    assert!(!output.status.success(), "{options}: was accepted");
    assert!(!text.contains("panicked"), "{options}: {text}");
    let lines: Vec<&str> = text.lines().filter(|line| line.starts_with("error")).collect();
    assert_eq!(lines.len(), 1, "{options}: {text}");
    for named in named {
        assert!(lines[0].contains(named), "{options}: {named} is not in: {text}");
    }
}
