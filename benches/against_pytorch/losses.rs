//! The three losses, forward and backward: sparse targets and tiles, against dense targets in PyTorch.

use patchmix::{MixPlan, MixTargets, loss};
use tch::{Kind, Tensor};

use crate::peer::Peer;
use crate::{budget, device, heading, is_rehearsal, medians, milliseconds, row, timed, times};

pub(crate) const WIDTH: i64 = 256;

pub(crate) fn run(peer: &mut Peer) {
    heading(
        "The three losses, forward and backward, width 256",
        &["rows", "patchmix", "PyTorch, dense", "patchmix / PyTorch"],
    );
    let sizes: &[i64] = match (is_rehearsal(), device().is_cuda()) {
        (true, _) => &[64, 256],
        (false, true) => &[512, 2048, 8192, 32768],
        (false, false) => &[512, 2048, 8192],
    };
    for &rows in sizes {
        let batch = Batch::new(rows);
        let case = format!("losses {rows} {WIDTH}");
        let [ours, pytorch] = medians(budget(10), [&mut || timed(|| batch.losses()), &mut || peer.seconds(&case)]);
        row(&[rows.to_string(), milliseconds(ours), milliseconds(pytorch), times(ours / pytorch)]);
    }
}

/// The inputs of the three losses.
pub(crate) struct Batch {
    queries: [Tensor; 2],
    keys: [Tensor; 3],
    targets: MixTargets,
}

impl Batch {
    pub(crate) fn new(rows: i64) -> Batch {
        let random = |_| Tensor::randn([rows, WIDTH], (Kind::Float, device()));
        Batch {
            queries: [0, 1].map(random).map(|query| query.set_requires_grad(true)),
            keys: [0, 1, 2].map(random),
            targets: MixPlan::random(256, 2, 1).unwrap().targets(rows).unwrap(),
        }
    }

    pub(crate) fn losses(&self) -> Vec<Tensor> {
        let origin = loss::origin_to_origin(&self.queries[0], &self.keys[1], 0.2).unwrap();
        let mix_to_origin =
            loss::mix_to_origin(&self.queries[1], &self.keys[0], &self.targets.mix_to_origin, 0.2).unwrap();
        let mix_to_mix = loss::mix_to_mix(&self.queries[1], &self.keys[2], &self.targets.mix_to_mix, 0.2).unwrap();
        let total = origin + (mix_to_origin + mix_to_mix) / 2.0;
        Tensor::run_backward(&[total], &self.queries, false, false)
    }
}
