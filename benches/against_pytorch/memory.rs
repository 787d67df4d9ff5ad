//! The peak memory of the three losses, without their inputs.

use std::fs;

use patchmix::backend;

use crate::losses::{Batch, WIDTH};
use crate::peer::Peer;
use crate::{device, heading, is_rehearsal, milliseconds, row, timed, times};

pub(crate) fn run(peer: &mut Peer) {
    if device().is_cuda() {
        return on_gpu(peer);
    }
    heading("Memory of the three losses, forward and backward, width 256", &["rows", "peak without inputs", "time"]);
    let sizes: &[i64] = if is_rehearsal() { &[256] } else { &[2048, 8192, 32768] };
    for &rows in sizes {
        let batch = Batch::new(rows);
        let before = resident("VmRSS");
        fs::write("/proc/self/clear_refs", "5").unwrap(); // resets the peak
        let seconds = timed(|| batch.losses());
        let peak = resident("VmHWM");
        row(&[rows.to_string(), format!("{} MB", peak.saturating_sub(before) / 1000), milliseconds(seconds)]);
    }
}

/// As counted by the allocators: only tensors, not cached blocks.
fn on_gpu(peer: &mut Peer) {
    let columns = ["rows", "patchmix", "PyTorch, dense", "PyTorch / patchmix"];
    heading("Peak GPU memory of the three losses without their inputs, forward and backward, width 256", &columns);
    for rows in [2048, 8192, 32768] {
        let batch = Batch::new(rows);
        backend::reset_peak_memory(device()).unwrap();
        let before = backend::peak_memory(device()).unwrap(); // starts at what is allocated
        timed(|| batch.losses());
        let ours = (backend::peak_memory(device()).unwrap() - before) as f64;
        let pytorch = peer.seconds(&format!("memory {rows} {WIDTH}")); // bytes
        peer.seconds("forget");
        let megabytes =
            |bytes: f64| if bytes.is_nan() { "failed".to_owned() } else { format!("{:.0} MB", bytes / 1e6) };
        row(&[rows.to_string(), megabytes(ours), megabytes(pytorch), times(pytorch / ours)]);
    }
}

/// A line of `/proc/self/status`, in kilobytes.
fn resident(line: &str) -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let found = status.lines().find_map(|text| text.strip_prefix(line)?.strip_prefix(':')).unwrap();
    found.split_whitespace().next().unwrap().parse().unwrap()
}
