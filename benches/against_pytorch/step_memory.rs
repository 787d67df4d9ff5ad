//! The peak memory of a step: images, weights, gradients, the optimizer's state, and what the backward pass needs.
//!
//! On a GPU this is what both allocators count: tensors, not cached blocks. On a CPU it is the memory of the process,
//! and each side runs in a process of its own, because memory that earlier work freed would hide what a step takes.

use std::env;
use std::process::{Command, Stdio};

use patchmix::contrast::HeadConfig;
use patchmix::vit::VitConfig;

use crate::device;
use crate::memory::{peak, restart_peak};
use crate::peer::Peer;
use crate::shape::Shape;
use crate::step::Step;

/// The peer's command, and the hidden argument of this program that does the same.
pub(crate) const COMMAND: &str = "step-memory";

/// Bytes; NaN where it failed.
pub(crate) struct Peaks {
    pub(crate) patchmix: f64,
    pub(crate) pytorch: f64,
}

/// The peaks of both sides, for a shape in `words` for the peer.
pub(crate) fn peaks(words: &str, peer: &mut Peer) -> Peaks {
    let command = format!("{COMMAND} {words}");
    if !device().is_cuda() {
        let pytorch = Peer::start(tch::get_num_threads()).seconds(&command);
        return Peaks { patchmix: in_own_process(&command), pytorch };
    }
    let patchmix = of_shape(&shape_in(words));
    let pytorch = peer.seconds(&command);
    peer.seconds("forget");
    Peaks { patchmix, pytorch }
}

pub(crate) fn in_own_process(command: &str) -> f64 {
    let program = env::current_exe().unwrap();
    let output = Command::new(program).args(command.split(' ')).stderr(Stdio::inherit()).output().unwrap();
    String::from_utf8_lossy(&output.stdout).trim().parse().unwrap_or(f64::NAN)
}

/// Prints the crate's peak on a CPU for the arguments after [`COMMAND`].
pub(crate) fn answer(words: &[String]) {
    let shape = shape_in(&words.join(" "));
    let encoder = VitConfig { depth: 1, width: 64, heads: 2, image_size: 8, patch_size: 4, ..shape.encoder.clone() };
    let small = Shape { encoder, heads: HeadConfig { hidden: 64, output: 64 }, batch: 4 };
    Step::new(&small).run(); // loads what libraries load late
    println!("{}", of_shape(&shape));
}

fn shape_in(words: &str) -> Shape {
    Shape::from_peer(words).unwrap_or_else(|| panic!("{COMMAND} {words}: not DEPTH WIDTH HEADS SIDE … WAY"))
}

/// The peak of a step after a warm-up step, besides what was in use before its model was made; as `step_memory` in
/// `scripts/peer/peer.py`.
fn of_shape(shape: &Shape) -> f64 {
    let before = restart_peak();
    let mut step = Step::new(shape);
    step.run();
    restart_peak();
    step.run();
    (peak() - before) as f64
}
