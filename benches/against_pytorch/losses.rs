//! The three losses, forward and backward: sparse targets in tiles, against dense ones in PyTorch.

use std::fs;
use std::time::Duration;

use patchmix::{MixPlan, MixTargets, loss};
use tch::{Kind, Tensor};

use crate::peer::Peer;
use crate::{device, heading, medians, milliseconds, row, timed, times};

const WIDTH: i64 = 256;

pub(crate) fn run(peer: &mut Peer) {
    heading(
        "The three losses, forward and backward, width 256",
        &["rows", "patchmix", "PyTorch, dense", "patchmix / PyTorch"],
    );
    for rows in [512, 2048, 8192] {
        let batch = Batch::new(rows);
        let case = format!("losses {rows} {WIDTH}");
        let [ours, pytorch] =
            medians(Duration::from_secs(10), [&mut || timed(|| batch.losses()), &mut || peer.seconds(&case)]);
        row(&[rows.to_string(), milliseconds(ours), milliseconds(pytorch), times(ours / pytorch)]);
    }
}

/// The most memory that the losses take beside their inputs.
pub(crate) fn memory(_peer: &mut Peer) {
    if device().is_cuda() {
        println!("\nmemory: of the CPU only");
        return;
    }
    heading("Memory of the three losses, forward and backward, width 256", &["rows", "beside the inputs", "time"]);
    for rows in [2048, 8192, 32768] {
        let batch = Batch::new(rows);
        let before = resident("VmRSS");
        fs::write("/proc/self/clear_refs", "5").unwrap(); // the peak from here on
        let seconds = timed(|| batch.losses());
        let peak = resident("VmHWM");
        row(&[rows.to_string(), format!("{} MB", peak.saturating_sub(before) / 1000), milliseconds(seconds)]);
    }
}

struct Batch {
    queries: [Tensor; 2],
    keys: [Tensor; 3],
    targets: MixTargets,
}

impl Batch {
    fn new(rows: i64) -> Batch {
        let random = |_| Tensor::randn([rows, WIDTH], (Kind::Float, device()));
        Batch {
            queries: [0, 1].map(random).map(|query| query.set_requires_grad(true)),
            keys: [0, 1, 2].map(random),
            targets: MixPlan::random(256, 2, 1).unwrap().targets(rows, Kind::Float, device()).unwrap(),
        }
    }

    fn losses(&self) -> Vec<Tensor> {
        let origin = loss::origin_to_origin(&self.queries[0], &self.keys[1], 0.2).unwrap();
        let mix_to_origin = loss::mix_to_origin(&self.queries[1], &self.keys[0], &self.targets, 0.2).unwrap();
        let mix_to_mix = loss::mix_to_mix(&self.queries[1], &self.keys[2], &self.targets, 0.2).unwrap();
        let total = origin + (mix_to_origin + mix_to_mix) / 2.0;
        Tensor::run_backward(&[total], &self.queries, false, false)
    }
}

/// A line of the process's memory, in kilobytes.
pub(crate) fn resident(line: &str) -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let found = status.lines().find_map(|text| text.strip_prefix(line)?.strip_prefix(':')).unwrap();
    found.split_whitespace().next().unwrap().parse().unwrap()
}
