//! The PyTorch process that runs the same cases.

use std::env;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use crate::device;

/// `scripts/peer/peer.py`, running for the whole benchmark.
pub(crate) struct Peer {
    process: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Peer {
    pub(crate) fn start(threads: i32) -> Peer {
        let mut process = Command::new(env::var("PYTHON").unwrap_or_else(|_| "python3".into()))
            .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/peer/peer.py"))
            .arg(threads.to_string())
            .arg(if device().is_cuda() { "cuda" } else { "cpu" })
            .env("PYTHONPATH", python_path())
            // As `keep_freed_memory` on this side.
            .env("MALLOC_MMAP_MAX_", "0")
            .env("MALLOC_TRIM_THRESHOLD_", (1_i64 << 40).to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let input = process.stdin.take().unwrap();
        let output = BufReader::new(process.stdout.take().unwrap());
        Peer { process, input, output }
    }

    /// Lets float32 products on a GPU round their inputs to TF32.
    pub(crate) fn allow_tf32(&mut self, allowed: bool) {
        self.seconds(&format!("tf32 {}", i64::from(allowed)));
    }

    /// The seconds that the peer takes for one run of a case; NaN if it fails, which the peer explains on stderr.
    pub(crate) fn seconds(&mut self, case: &str) -> f64 {
        writeln!(self.input, "{case}").unwrap();
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        line.trim().parse().unwrap_or_else(|_| panic!("the peer exited during {case}; see its message above"))
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The folder of the torch wheel whose libtorch this program uses, if it has Python's half, and the folders of
/// PEER_PYTHONPATH.
fn python_path() -> String {
    let libtorch = env::var("LIBTORCH").unwrap_or_default();
    let torch = Path::new(&libtorch).canonicalize().ok().filter(|torch| torch.join("__init__.py").exists());
    let wheel = torch.as_deref().and_then(Path::parent).map(|folder| folder.display().to_string());
    let more = env::var("PEER_PYTHONPATH").ok().filter(|more| !more.is_empty());
    wheel.into_iter().chain(more).collect::<Vec<_>>().join(":")
}
