//! Ctrl-C, and what is done about it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::Result;

/// A launcher hands signals on that its programs have received too: the same one comes twice.
const SAME_SIGNAL: Duration = Duration::from_secs(2);

/// A flag that SIGINT and SIGTERM raise, saying what happens now. Another signal, a while later, ends the program at once.
pub(crate) fn interruption(doing: &'static str) -> Result<Arc<AtomicBool>> {
    let flag = Arc::new(AtomicBool::new(false));
    let raised = Arc::clone(&flag);
    let mut first = None;
    ctrlc::set_handler(move || match first {
        None => {
            first = Some(Instant::now());
            raised.store(true, Ordering::Relaxed);
            eprintln!("\n{doing}; once more to leave at once");
        }
        Some(first) if first.elapsed() < SAME_SIGNAL => {}
        Some(_) => std::process::exit(130),
    })?;
    Ok(flag)
}
