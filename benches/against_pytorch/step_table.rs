//! A table of training steps: PyTorch eager, PyTorch compiled, and the crate, in several precisions.

use std::cell::RefCell;
use std::env;
use std::time::Instant;

use patchmix::backend;
use patchmix::vit::Precision;

use crate::memory::megabytes;
use crate::peer::Peer;
use crate::shape::Shape;
use crate::step::Step;
use crate::{as_on_gpu, growth, heading, in_turns, milliseconds, row, step_memory, timed, times};

/// A precision, and its patch and batch sizes.
struct Case {
    name: &'static str,
    precision: Precision,
    /// What the peer does, as in `scripts/peer/model.py`.
    way: &'static str,
    tf32: bool,
    /// Whether to compile the peer by default, which takes a minute or more per size.
    compiled: bool,
    sizes: [(i64, i64); 2],
}

const ON_CPU: [Case; 3] = [
    Case {
        name: "float32, peer's attention plain",
        precision: Precision::Full,
        way: "plain",
        tf32: false,
        compiled: false,
        sizes: [(4, 64), (2, 16)],
    },
    Case {
        name: "float32, peer's attention fused",
        precision: Precision::Full,
        way: "fused",
        tf32: false,
        compiled: true,
        sizes: [(4, 64), (2, 16)],
    },
    Case {
        name: "bfloat16",
        precision: Precision::BFloat16,
        way: "bf16",
        tf32: false,
        compiled: true,
        sizes: [(4, 64), (2, 16)],
    },
];

/// Both sides have to fit on the GPU together, so the batch for patch 2 is smaller in float32.
const ON_GPU: [Case; 3] = [
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

fn cases() -> &'static [Case] {
    if as_on_gpu() { &ON_GPU } else { &ON_CPU }
}

pub(crate) fn run(peer: &mut Peer) {
    let columns = [&["patch", "batch", "precision"][..], &Measured::COLUMNS].concat();
    heading("A step on 32 pixels, ViT-T with the published heads", &columns);
    for case in cases() {
        for (patch, batch) in case.sizes {
            let shape = Shape::tiny(patch, batch, case.precision);
            allow_tf32(case.tf32, peer);
            let measured = Measured::new(&shape, case.way, is_compiling(case.compiled), peer);
            let start = [patch.to_string(), shape.batch.to_string(), case.name.to_owned()];
            row(&[&start[..], &measured.cells()].concat());
        }
    }
    allow_tf32(false, peer);
}

/// Whether to compile a peer that is compiled `by_default`. COMPILE=0 compiles none, to save the minutes, and
/// COMPILE=all all of them. TORCHINDUCTOR_CACHE_DIR keeps the result.
pub(crate) fn is_compiling(by_default: bool) -> bool {
    match env::var("COMPILE").as_deref() {
        Err(_) | Ok("" | "1") => by_default,
        Ok("0") => false,
        Ok("all") => true,
        Ok(other) => panic!("COMPILE={other}: 0, 1 or all"),
    }
}

/// Lets float32 products of both sides round their inputs to TF32.
pub(crate) fn allow_tf32(allowed: bool, peer: &mut Peer) {
    backend::allow_tf32(allowed).unwrap();
    peer.allow_tf32(allowed);
}

/// A step of one shape: seconds, and bytes of memory at its peak. NaN for what failed or was not measured.
pub(crate) struct Measured {
    pub(crate) seconds: f64,
    eager: f64,
    compiled: f64,
    memory: step_memory::Peaks,
    batch: i64,
}

impl Measured {
    pub(crate) const COLUMNS: [&str; 8] = [
        "PyTorch",
        "PyTorch, compiled",
        "patchmix",
        "PyTorch / patchmix",
        "compiled / patchmix",
        "images/s",
        "memory, PyTorch",
        "memory, patchmix",
    ];

    pub(crate) fn new(shape: &Shape, way: &str, is_compiling: bool, peer: &mut Peer) -> Measured {
        let words = format!("{} {way}", shape.for_peer());
        let mut step = Step::new(shape);
        let mut ours = |count| timed(|| (0..count).for_each(|_| step.run())) / count as f64;
        // Two contestants share the peer.
        let shared = RefCell::new(&mut *peer);
        let ask = |count: i64, how: &str| shared.borrow_mut().seconds(&format!("step {count} {words}{how}"));
        let [seconds, eager, compiled] = in_turns([&mut ours, &mut |count| ask(count, ""), &mut |count| {
            if is_compiling { ask(count, "-compiled") } else { f64::NAN }
        }]);
        drop(step);
        peer.seconds("forget");
        Measured { seconds, eager, compiled, memory: step_memory::peaks(&words, peer), batch: shape.batch }
    }

    pub(crate) fn cells(&self) -> Vec<String> {
        vec![
            milliseconds(self.eager),
            milliseconds(self.compiled),
            milliseconds(self.seconds),
            times(self.eager / self.seconds),
            times(self.compiled / self.seconds),
            per_second(self.batch as f64 / self.seconds),
            megabytes(self.memory.pytorch),
            megabytes(self.memory.patchmix),
        ]
    }
}

fn per_second(rate: f64) -> String {
    if rate < 100.0 { format!("{rate:.1}") } else { format!("{rate:.0}") }
}

/// Fills the cache of torch.compile for [`run`] and [`growth::run`], with one process per size.
pub(crate) fn compile(_peer: &mut Peer) {
    /// As many steps fit on a GPU of 80 GB side by side.
    const AT_ONCE: usize = 4;
    let mut jobs = Vec::new();
    for case in cases().iter().filter(|case| is_compiling(case.compiled)) {
        for (patch, batch) in case.sizes {
            let name = format!("{}, patch {patch}", case.name);
            jobs.push(Job { name, shape: Shape::tiny(patch, batch, case.precision), way: case.way, tf32: case.tf32 });
        }
    }
    if growth::is_compiling() {
        let large = growth::shapes().into_iter();
        jobs.extend(large.map(|(name, shape)| Job { name: name.to_owned(), shape, way: "bf16", tf32: true }));
    }
    if jobs.is_empty() {
        println!("nothing to compile");
    }
    for jobs in jobs.chunks(AT_ONCE) {
        std::thread::scope(|scope| jobs.iter().for_each(|job| drop(scope.spawn(|| job.run()))));
    }
}

struct Job {
    name: String,
    shape: Shape,
    way: &'static str,
    tf32: bool,
}

impl Job {
    fn run(&self) {
        let mut peer = Peer::start(tch::get_num_threads());
        let start = Instant::now();
        peer.allow_tf32(self.tf32); // the cache depends on it
        let first = peer.seconds(&format!("step 1 {} {}-compiled", self.shape.for_peer(), self.way));
        let result = if first.is_nan() { "failed" } else { "compiled" };
        println!("{result} in {:.0} s: {}", start.elapsed().as_secs_f64(), self.name);
    }
}
