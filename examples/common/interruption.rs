//! Ctrl-C, and what is done about it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::Result;

/// A flag that SIGINT and SIGTERM raise, saying what happens now. A second signal ends the program at once.
pub(crate) fn interruption(doing: &'static str) -> Result<Arc<AtomicBool>> {
    let flag = Arc::new(AtomicBool::new(false));
    let raised = Arc::clone(&flag);
    ctrlc::set_handler(move || {
        if raised.swap(true, Ordering::Relaxed) {
            std::process::exit(130);
        }
        eprintln!("\n{doing}; once more to leave at once");
    })?;
    Ok(flag)
}
