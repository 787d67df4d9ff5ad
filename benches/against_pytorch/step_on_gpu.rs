//! A training step on a GPU: the crate, PyTorch eager, and PyTorch compiled, in three precisions.

use std::time::{Duration, Instant};

use patchmix::backend;
use patchmix::vit::Precision;

use crate::peer::Peer;
use crate::shape::Shape;
use crate::step::Step;
use crate::{heading, is_rehearsal, milliseconds, row, timed, times};

/// Untimed steps, in which kernels are loaded and the allocator fills its cache.
const WARM_UP: i64 = 5;
/// Seconds per turn of a contestant, and for all turns together.
const TURN: f64 = 0.4;
const BUDGET: Duration = Duration::from_secs(4);

/// A precision, and its patch and batch sizes. Both sides have to fit on the GPU together, so the batch for patch 2 is
/// smaller in float32.
struct Case {
    name: &'static str,
    precision: Precision,
    way: &'static str,
    tf32: bool,
    /// Whether to measure compiled PyTorch too, which takes a minute per size to compile.
    compiled: bool,
    sizes: [(i64, i64); 2],
}

const CASES: [Case; 3] = [
    Case {
        name: "bfloat16",
        precision: Precision::BFloat16,
        way: "bf16",
        tf32: true,
        compiled: true,
        sizes: [(2, 512), (4, 512)],
    },
    Case {
        name: "TF32",
        precision: Precision::Full,
        way: "fused",
        tf32: true,
        compiled: false,
        sizes: [(2, 256), (4, 512)],
    },
    Case {
        name: "float32",
        precision: Precision::Full,
        way: "fused",
        tf32: false,
        compiled: false,
        sizes: [(2, 256), (4, 512)],
    },
];

pub(crate) fn run(peer: &mut Peer) {
    heading(
        "A step on 32 pixels, ViT-T with the published heads",
        &[
            "patch",
            "batch",
            "precision",
            "patchmix",
            "PyTorch",
            "PyTorch, compiled",
            "PyTorch / patchmix",
            "compiled / patchmix",
            "images/s",
        ],
    );
    for case in &CASES {
        for (patch, batch) in case.sizes {
            let shape = Shape::tiny(patch, batch, case.precision);
            case.set_tf32(peer);
            let [eager, compiled] = ["", "-compiled"].map(|how| format!("{} {}{how}", shape.for_peer(), case.way));
            let mut step = Step::new(shape.encoder, shape.heads, shape.batch);
            let mut ours = |count| timed(|| (0..count).for_each(|_| step.run())) / count as f64;
            // Two contestants share the peer.
            let peer = std::cell::RefCell::new(&mut *peer);
            let ask = |count: i64, words: &str| peer.borrow_mut().seconds(&format!("step {count} {words}"));
            let [ours, pytorch, compiled] =
                in_turns([
                    &mut ours,
                    &mut |count| ask(count, &eager),
                    &mut |count| match case.compiled && is_compiling() {
                        true => ask(count, &compiled),
                        false => f64::NAN,
                    },
                ]);
            peer.borrow_mut().seconds("forget");
            row(&[
                patch.to_string(),
                shape.batch.to_string(),
                case.name.to_owned(),
                milliseconds(ours),
                milliseconds(pytorch),
                milliseconds(compiled),
                times(pytorch / ours),
                times(compiled / ours),
                format!("{:.0}", shape.batch as f64 / ours),
            ]);
        }
    }
    CASES[CASES.len() - 1].set_tf32(peer);
}

/// Whether compiled PyTorch is measured at all. COMPILE=0 turns it off, to save the minutes.
fn is_compiling() -> bool {
    std::env::var("COMPILE").map_or(true, |value| value != "0")
}

impl Case {
    fn set_tf32(&self, peer: &mut Peer) {
        backend::allow_tf32(self.tf32).unwrap();
        peer.seconds(&format!("tf32 {}", i64::from(self.tf32)));
    }
}

/// Fills the cache of torch.compile for [`run`], with one process per size.
pub(crate) fn compile(_peer: &mut Peer) {
    std::thread::scope(|scope| {
        for case in CASES.iter().filter(|case| case.compiled) {
            for (patch, batch) in case.sizes {
                scope.spawn(move || {
                    let mut peer = Peer::start(tch::get_num_threads());
                    let shape = Shape::tiny(patch, batch, case.precision);
                    let start = Instant::now();
                    let first = peer.seconds(&format!("step 1 {} {}-compiled", shape.for_peer(), case.way));
                    let result = if first.is_nan() { "failed" } else { "compiled" };
                    println!("{result} in {:.0} s: {}, patch {patch}", start.elapsed().as_secs_f64(), case.name);
                });
            }
        }
    });
}

/// The median seconds per step of every contestant. They take turns, each with a number of steps per turn. A contestant
/// that fails is not run again, and its median is NaN.
pub(crate) fn in_turns<const N: usize>(mut contestants: [&mut dyn FnMut(i64) -> f64; N]) -> [f64; N] {
    let (warm_up, budget) = if is_rehearsal() { (1, Duration::ZERO) } else { (WARM_UP, BUDGET) };
    let first = contestants.each_mut().map(|run| if run(1).is_nan() { f64::NAN } else { run(warm_up) });
    let counts = first.map(|seconds| (TURN / seconds).clamp(1.0, 20.0) as i64);
    let mut seconds = [const { Vec::new() }; N];
    let start = Instant::now();
    while seconds[0].len() < 3 || start.elapsed() < budget {
        for (index, run) in contestants.iter_mut().enumerate() {
            let failed = first[index].is_nan();
            seconds[index].push(if failed { f64::NAN } else { run(counts[index]) });
        }
    }
    seconds.map(|mut seconds| {
        seconds.sort_by(f64::total_cmp);
        seconds[seconds.len() / 2]
    })
}
