//! The program and the person at the terminal: progress bars, and Ctrl-C.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use crate::Result;

/// A bar of `steps` steps with the time left.
pub(crate) fn progress(steps: u64, prefix: &str) -> ProgressBar {
    let bar = ProgressBar::new(steps);
    if let Ok(style) = ProgressStyle::with_template("{prefix} {bar:30} {pos}/{len}  {eta} left  {msg}") {
        bar.set_style(style);
    }
    bar.set_prefix(prefix.to_owned());
    bar
}

/// The line that says how to resume what was saved in `folder`. `subcommand` is empty or ends in a space.
pub(crate) fn resume_command(program: &str, subcommand: &str, folder: &Path) -> String {
    let folder = folder.display().to_string().replace('\'', "'\\''");
    format!("saved; resume with\n  cargo run --example {program} --release -- {subcommand}--resume --out '{folder}'")
}

/// The exit code of an interrupted program, as shells report it.
pub(crate) const INTERRUPTED: u8 = 130;

/// Launchers forward signals that the program already got.
const SAME_SIGNAL: Duration = Duration::from_secs(2);

/// A flag that SIGINT and SIGTERM raise; the first prints `doing`, another one later ends the program at once.
pub(crate) fn interruption(doing: &'static str) -> Result<Arc<AtomicBool>> {
    let flag = Arc::new(AtomicBool::new(false));
    let raised = Arc::clone(&flag);
    let mut first = None;
    ctrlc::set_handler(move || match first {
        None => {
            first = Some(Instant::now());
            raised.store(true, Ordering::Relaxed);
            eprintln!("\n{doing}; press Ctrl-C again to quit at once");
        }
        Some(first) if first.elapsed() < SAME_SIGNAL => {}
        Some(_) => std::process::exit(INTERRUPTED.into()),
    })?;
    Ok(flag)
}
