//! The whole training loop of `pretrain_cifar`, against a single step and against PyTorch with its data loader.
//!
//! PRETRAIN_CIFAR is the path of the program, by default where `cargo build --release --example pretrain_cifar` puts
//! it. DATA is a folder with the .bin files of CIFAR-10; without it, the images are built in.

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::thread::available_parallelism;

use patchmix::vit::Precision;

use crate::peer::Peer;
use crate::shape::Shape;
use crate::step::Step;
use crate::{device, heading, in_turns, is_rehearsal, row, timed, times};

pub(crate) fn run(peer: &mut Peer) {
    let shape = Shape::tiny(2, 512, Precision::BFloat16);
    let workers = available_parallelism().map_or(1, usize::from);
    let program = program_images_per_second(&shape);

    let mut step = Step::new(&shape);
    let [alone] = in_turns([&mut |count| timed(|| (0..count).for_each(|_| step.run())) / count as f64]);
    drop(step);
    let alone = shape.batch as f64 / alone;

    let steps = if is_rehearsal() { 2 } else { 20 };
    let seconds = peer.seconds(&format!("loop {} {steps} {workers}", shape.for_peer()));
    let pytorch = (steps * shape.batch) as f64 / seconds;

    heading(
        "The whole loop, images per second: ViT-T/2 on 32 pixels in bfloat16",
        &[
            "step alone",
            "pretrain_cifar",
            "loop / step",
            "PyTorch with its loader",
            "loader processes",
            "patchmix / PyTorch",
        ],
    );
    row(&[
        format!("{alone:.0}"),
        format!("{program:.0}"),
        format!("{:.0} %", 100.0 * program / alone),
        format!("{pytorch:.0}"),
        workers.to_string(),
        times(program / pytorch),
    ]);
}

/// Images per second in the second epoch, from the program's metrics.csv.
fn program_images_per_second(shape: &Shape) -> f64 {
    let program = std::env::var_os("PRETRAIN_CIFAR").map_or_else(
        || PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/target/release/examples/pretrain_cifar")),
        PathBuf::from,
    );
    let place = tempfile::tempdir().unwrap();
    let run = place.path().join("run");
    let images = if is_rehearsal() { 4 * shape.batch } else { 20 * shape.batch };
    let mut command = Command::new(&program);
    command.args(["--recipe", "vit-tiny", "--precision", "bf16", "--epochs", "2", "--warmup-epochs", "1"]);
    command.args(["--knn-every", "2", "--knn-images", "500", "--batch-size", &shape.batch.to_string()]);
    command.args(["--limit", &images.to_string(), "--device", if device().is_cuda() { "cuda" } else { "cpu" }]);
    command.arg("--out").arg(&run);
    match std::env::var_os("DATA") {
        Some(data) => command.args(["--dataset", "cifar10", "--data"]).arg(data),
        None => command.args(["--dataset", "builtin"]),
    };
    if is_rehearsal() {
        let (encoder, heads) = (&shape.encoder, &shape.heads);
        for (option, value) in [
            ("--width", encoder.width),
            ("--depth", encoder.depth),
            ("--heads", encoder.heads),
            ("--patch-size", encoder.patch_size),
            ("--hidden", heads.hidden),
            ("--out-dim", heads.output),
        ] {
            command.arg(option).arg(value.to_string());
        }
        command.args(["--arch", "custom"]);
    }
    let done = command.stdout(Stdio::null()).status();
    let done = done.unwrap_or_else(|error| panic!("{}: {error}; build it, or set PRETRAIN_CIFAR", program.display()));
    assert!(done.success(), "{} failed; see its message above", program.display());
    let metrics = std::fs::read_to_string(run.join("metrics.csv")).unwrap();
    let (header, last) = (metrics.lines().next().unwrap(), metrics.lines().last().unwrap());
    let column = header.split(',').position(|name| name == "images_per_second").unwrap();
    last.split(',').nth(column).unwrap().parse().unwrap()
}
