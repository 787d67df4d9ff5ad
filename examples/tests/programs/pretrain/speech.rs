//! A run whose words find nobody who reads them: its work is saved all the same.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::process::{Command, Stdio};

use super::resume::{assert_same_end, checkpoints};
use super::{TINY, command, run_well};
use crate::support::{closed_pipe, command_in, error_text, metrics, program};

/// The programs without an argument of their own.
const PROGRAMS: [&str; 5] = ["pretrain_cifar", "pretrain_imagenet", "evaluate", "pictures", "export_encoder"];

/// Both outputs of a run that nobody reads, or that are on a disk without space.
#[test]
fn a_run_that_cannot_print_trains_and_saves_all_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let options = format!("{TINY} --epochs 2 --knn-every 1");
    run_well(folder, &format!("{options} --out heard"));
    let full = || Stdio::from(File::options().write(true).open("/dev/full").unwrap());
    let outputs = [("unread", closed_pipe as fn() -> Stdio)].into_iter().chain(
        Path::new("/dev/full").exists().then_some(("full", full as fn() -> Stdio)), // Linux has it
    );
    for (out, output) in outputs {
        let mut run = command(folder, &format!("{options} --out {out}"));
        let status = run.stdout(output()).stderr(output()).status().unwrap();
        assert_eq!(status.code(), Some(0), "{out}");
        assert_same_end(&folder.join("heard"), &folder.join(out));
        // Refused with the same code as where the reason can be read.
        let mut again = command(folder, &format!("{options} --out {out}"));
        assert_eq!(again.stdout(output()).stderr(output()).status().unwrap().code(), Some(1), "{out}");
    }
}

/// The reader of a log goes away in the middle, as a `tee` that is killed. From then on, every line fails.
#[test]
fn a_log_that_dies_ends_no_run() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let (mut reader, writer) = io::pipe().unwrap();
    let mut run = command(folder, &format!("{TINY} --epochs 20 --out here"));
    let mut child = run.stdout(writer.try_clone().unwrap()).stderr(writer).spawn().unwrap();
    drop(run); // its copies of the writer
    read_until(&mut reader, "epoch  1/20");
    drop(reader);
    assert_eq!(child.wait().unwrap().code(), Some(0));
    assert_eq!(metrics(&folder.join("here")).len(), 20);
}

/// Reads until a text has come.
#[track_caller]
fn read_until(reader: &mut impl Read, expected: &str) {
    let (mut text, mut bytes) = (String::new(), [0; 4096]);
    while !text.contains(expected) {
        let count = reader.read(&mut bytes).unwrap_or(0);
        assert!(count > 0, "it ended: {text}");
        text += &String::from_utf8_lossy(&bytes[..count]);
    }
}

#[test]
fn help_and_refusals_that_nobody_reads_end_with_their_codes() {
    let folder = tempfile::tempdir().unwrap();
    for name in PROGRAMS {
        for (option, code) in [("--help", 0), ("--version", 0), ("--nonsense", 2)] {
            let output = command_in(folder.path(), name, option).stdout(closed_pipe()).output().unwrap();
            assert_eq!(output.status.code(), Some(code), "{name} {option}");
            assert!(!error_text(&output).contains("panicked"), "{name} {option}: {}", error_text(&output));
            let status = command_in(folder.path(), name, option).stdout(closed_pipe()).stderr(closed_pipe()).status();
            assert_eq!(status.unwrap().code(), Some(code), "{name} {option}");
        }
    }
}

/// The terminal of a run is closed: it gets SIGHUP, and whatever it prints or draws from then on fails.
#[cfg(target_os = "linux")]
#[test]
fn a_terminal_that_hangs_up_loses_nothing() {
    use std::os::unix::fs::OpenOptionsExt;

    use nix::fcntl::OFlag;
    use nix::pty::{grantpt, posix_openpt, ptsname_r, unlockpt};

    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let options = format!("{TINY} --epochs 24 --knn-every 12");
    run_well(folder, &format!("{options} --out straight"));

    // Only the test has the other end, and no program that it starts.
    let mut terminal = posix_openpt(OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC).unwrap();
    grantpt(&terminal).and_then(|()| unlockpt(&terminal)).unwrap();
    let (name, mut options_of_slave) = (ptsname_r(&terminal).unwrap(), File::options());
    options_of_slave.read(true).write(true).custom_flags(OFlag::O_NOCTTY.bits());
    let slave = || Stdio::from(options_of_slave.open(&name).unwrap());
    let mut run = Command::new("setsid"); // the terminal is its own
    // Whoever runs the tests may have ignored the signal.
    run.args(["--ctty", "env", "--default-signal=HUP"]).arg(program("pretrain_cifar"));
    run.args(format!("{options} --out here").split_whitespace()).current_dir(folder);
    let mut child = run.stdin(slave()).stdout(slave()).stderr(slave()).spawn().unwrap();
    drop(run);
    read_until(&mut terminal, "epoch  2/24");
    drop(terminal);
    assert_eq!(child.wait().unwrap().code(), Some(130));
    assert!(metrics(&folder.join("here")).len() < 24, "it ended before the terminal did");
    let newest = checkpoints(&folder.join("here"))[0].clone();
    let output = run_well(folder, "--resume --out here");
    assert!(error_text(&output).contains(newest.file_name().unwrap().to_str().unwrap()));
    assert_same_end(&folder.join("straight"), &folder.join("here"));
}

#[cfg(unix)]
#[test]
fn a_run_that_ignores_hang_ups_stays_so() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let (mut reader, writer) = io::pipe().unwrap();
    let mut run = Command::new("sh");
    run.args(["-c", "trap '' HUP; exec \"$0\" \"$@\""]).arg(program("pretrain_cifar")); // as nohup
    run.args(format!("{TINY} --epochs 100000 --out here").split_whitespace()).current_dir(folder);
    let mut child = run.stdout(Stdio::null()).stderr(writer).spawn().unwrap();
    drop(run);
    read_until(&mut reader, "epoch      1/100000");
    let process = child.id().to_string();
    let send =
        |signal: &str| assert!(Command::new("kill").args([signal, process.as_str()]).status().unwrap().success());
    send("-HUP");
    // A run that minds the signal ends within a step: it has no more than the epoch at hand to go.
    let after = metrics(&folder.join("here")).len() + 3;
    read_until(&mut reader, &format!("epoch {after:>6}/100000"));
    assert!(child.try_wait().unwrap().is_none(), "it goes on");
    send("-TERM");
    io::copy(&mut reader, &mut io::sink()).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(130));
}
