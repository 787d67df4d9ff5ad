//! The program and the person at the terminal: lines that are printed, progress bars, and signals to stop.

use std::fmt::Arguments;
use std::io::Write;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
use patchmix::files::printable;

use crate::Result;

/// Prints a line of results to standard output.
macro_rules! say {
    ($($text:tt)*) => { $crate::terminal::print_to(&mut std::io::stdout(), format_args!($($text)*)) };
}

/// Prints a line about what is going on to standard error.
macro_rules! log {
    ($($text:tt)*) => { $crate::terminal::print_to(&mut std::io::stderr(), format_args!($($text)*)) };
}

pub(crate) use {log, say};

/// Prints a line, without the characters that steer a terminal. An error is ignored: that a pipe is closed, a log's
/// disk full or a terminal gone must not end the work that the line is about.
pub(crate) fn print_to(stream: &mut impl Write, text: Arguments<'_>) {
    let text = text.to_string();
    let lines: Vec<String> = text.split('\n').map(printable).collect();
    // In one piece, as other processes may print too.
    let _ = stream.write_all((lines.join("\n") + "\n").as_bytes());
    let _ = stream.flush();
}

/// A path as it is printed: one line, without the characters that steer a terminal.
pub(crate) fn shown(path: &Path) -> String {
    printable(path.display())
}

/// A bar of `steps` steps with the time left.
pub(crate) fn progress(steps: u64, prefix: &str) -> ProgressBar {
    let bar = ProgressBar::new(steps);
    if let Ok(style) = ProgressStyle::with_template("{prefix} {bar:30} {pos}/{len}  {eta} left  {msg}") {
        bar.set_style(style);
    }
    bar.set_prefix(prefix.to_owned());
    bar
}

/// The command that resumes what was saved in `folder`, on a line of its own. `subcommand` is empty or ends in a space.
pub(crate) fn resume_command(program: &str, subcommand: &str, folder: &Path) -> String {
    let folder = folder.display().to_string().replace('\'', "'\\''");
    format!("\n  cargo run --example {program} --release -- {subcommand}--resume --out '{folder}'")
}

/// The exit code of an interrupted program, as shells report it.
pub(crate) const INTERRUPTED: u8 = 130;

/// Launchers forward signals that the program already got.
const SAME_SIGNAL: Duration = Duration::from_secs(2);

/// Raised by a signal that asks the program to stop.
static STOP: AtomicBool = AtomicBool::new(false);

/// A flag that SIGINT, SIGTERM and SIGHUP raise. The first of the former two prints `doing`, another one later ends the
/// program at once. A terminal that hangs up never does: whoever closes it does not ask for that. A SIGHUP that is
/// ignored, as under `nohup`, stays so.
pub(crate) fn interruption(doing: &'static str) -> Result<&'static AtomicBool> {
    let is_ignored = matches!(at_hang_up(SigHandler::SigIgn)?, SigHandler::SigIgn);
    let mut first = None;
    ctrlc::set_handler(move || match first {
        None => {
            first = Some(Instant::now());
            STOP.store(true, Ordering::Relaxed);
            log!("\n{doing}; press Ctrl-C again to quit at once");
        }
        Some(first) if first.elapsed() < SAME_SIGNAL => {}
        Some(_) => std::process::exit(INTERRUPTED.into()),
    })?;
    // Last, as the call above takes this signal too.
    at_hang_up(if is_ignored { SigHandler::SigIgn } else { SigHandler::Handler(hung_up) })?;
    Ok(&STOP)
}

extern "C" fn hung_up(_: i32) {
    STOP.store(true, Ordering::Relaxed);
}

/// Sets what SIGHUP does; returns what it did before.
fn at_hang_up(handler: SigHandler) -> Result<SigHandler> {
    let action = SigAction::new(handler, SaFlags::SA_RESTART, SigSet::empty());
    // SAFETY: `hung_up`, the only handler, does no more than to store an atomic.
    Ok(unsafe { sigaction(Signal::SIGHUP, &action) }?.handler())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_printed_cannot_steer_the_terminal() {
        let mut printed = Vec::new();
        print_to(&mut printed, format_args!("saved\n  {}", "a\u{1b}[2Jb"));
        assert_eq!(String::from_utf8(printed).unwrap(), "saved\n  a\\u{1b}[2Jb\n");
    }
}
