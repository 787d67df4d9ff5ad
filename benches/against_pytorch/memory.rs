//! The peak memory of the three losses, without their inputs.

use std::fs;

use patchmix::backend;

use crate::losses::{Batch, WIDTH};
use crate::peer::Peer;
use crate::{device, heading, is_rehearsal, row, step_memory, timed, times};

/// The hidden argument of this program for the peak of some rows, in a process of its own: memory that earlier work
/// freed would hide what the losses take.
pub(crate) const COMMAND: &str = "losses-memory";

pub(crate) fn run(peer: &mut Peer) {
    if device().is_cuda() {
        return on_gpu(peer);
    }
    heading("Memory of the three losses, forward and backward, width 256", &["rows", "peak without inputs"]);
    let sizes: &[i64] = if is_rehearsal() { &[256] } else { &[2048, 8192, 32768] };
    for rows in sizes {
        let peak = step_memory::in_own_process(&format!("{COMMAND} {rows}"));
        row(&[rows.to_string(), megabytes(peak)]);
    }
}

/// Prints the peak on a CPU for the number of rows after [`COMMAND`].
pub(crate) fn answer(words: &[String]) {
    let batch = Batch::new(words[0].parse().unwrap());
    let before = restart_peak();
    batch.losses();
    println!("{}", peak() - before);
}

fn on_gpu(peer: &mut Peer) {
    let columns = ["rows", "patchmix", "PyTorch, dense", "PyTorch / patchmix"];
    heading("Peak GPU memory of the three losses without their inputs, forward and backward, width 256", &columns);
    for rows in [2048, 8192, 32768] {
        let batch = Batch::new(rows);
        let before = restart_peak();
        timed(|| batch.losses());
        let ours = (peak() - before) as f64;
        let pytorch = peer.seconds(&format!("memory {rows} {WIDTH}")); // bytes
        peer.seconds("forget");
        row(&[rows.to_string(), megabytes(ours), megabytes(pytorch), times(pytorch / ours)]);
    }
}

/// Bytes as megabytes.
pub(crate) fn megabytes(bytes: f64) -> String {
    if bytes.is_nan() { "-".to_owned() } else { format!("{:.0} MB", bytes / 1e6) }
}

/// Lets the next [`peak`] start at the bytes in use now, which it returns. On a GPU they are those of tensors, not of
/// cached blocks; on a CPU those of the whole process.
pub(crate) fn restart_peak() -> i64 {
    if device().is_cuda() {
        backend::reset_peak_memory(device()).unwrap();
        return peak();
    }
    let before = resident("VmRSS");
    fs::write("/proc/self/clear_refs", "5").unwrap();
    before
}

/// The most bytes in use since [`restart_peak`].
pub(crate) fn peak() -> i64 {
    if device().is_cuda() { backend::peak_memory(device()).unwrap() } else { resident("VmHWM") }
}

/// A line of `/proc/self/status`, in bytes.
fn resident(line: &str) -> i64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let found = status.lines().find_map(|text| text.strip_prefix(line)?.strip_prefix(':')).unwrap();
    1024 * found.split_whitespace().next().unwrap().parse::<i64>().unwrap()
}
