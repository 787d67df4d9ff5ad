//! Benchmarks against plain PyTorch, both sides taking turns in one run: `cargo bench --bench against_pytorch`, with
//! the names of parts to run only those (`-- mix losses step views folder memory growth`).
//!
//! The PyTorch side is `scripts/peer/peer.py`, with the same libtorch and number of threads. PEER_PYTHONPATH adds
//! folders of Python packages: torchvision and pillow, for the views and the folder. Nothing else should run on the
//! machine.
//!
//! `compile` fills the cache of torch.compile for `step`, which otherwise takes minutes on its first rows; COMPILE=0
//! leaves the compiled peer out, and COMPILE=all compiles it for every row of `step` and for `growth`.
//!
//! DEVICE=cuda measures on the first GPU. There, `knobs issue trace loop` show where the time goes. PATCHMIX_REHEARSE=1
//! runs all of that on a CPU with tiny sizes, to test the benchmarks themselves; its times mean nothing.
#![allow(clippy::unwrap_used)] // a benchmark may panic

mod folder;
mod growth;
mod issue;
mod knobs;
mod losses;
mod memory;
mod mix;
mod peer;
mod shape;
mod step;
mod step_memory;
mod step_table;
mod trace;
mod views;
mod whole_loop;

use std::time::{Duration, Instant};

use peer::Peer;
use tch::Device;

type Part = (&'static str, fn(&mut Peer));

/// How many parts, from the first, run by default.
const DEFAULT_PARTS: usize = 7;

const PARTS: [Part; 12] = [
    ("mix", mix::run),
    ("losses", losses::run),
    ("step", step_table::run),
    ("views", views::run),
    ("folder", folder::run),
    ("memory", memory::run),
    ("growth", growth::run),
    ("compile", step_table::compile),
    ("knobs", knobs::run),
    ("issue", issue::run),
    ("trace", trace::run),
    ("loop", whole_loop::run),
];

fn main() {
    // As the programs do; the peer does the same.
    patchmix::backend::keep_freed_memory();
    let wanted: Vec<String> = std::env::args().skip(1).filter(|argument| !argument.starts_with("--")).collect();
    match wanted.first().map(String::as_str) {
        Some(step_memory::COMMAND) => return step_memory::answer(&wanted[1..]),
        Some(memory::COMMAND) => return memory::answer(&wanted[1..]),
        _ => {}
    }
    if let Some(unknown) = wanted.iter().find(|name| !PARTS.iter().any(|(part, _)| part == name)) {
        let parts = PARTS.map(|(part, _)| part).join(", ");
        eprintln!("unknown part {unknown}; choose from {parts}");
        std::process::exit(2);
    }
    tch::manual_seed(0);
    let threads = tch::get_num_threads();
    println!("{:?}, {threads} threads; medians, contestants taking turns", device());
    let mut peer = Peer::start(threads);
    for (index, (part, run)) in PARTS.into_iter().enumerate() {
        if (wanted.is_empty() && index < DEFAULT_PARTS) || wanted.iter().any(|name| name == part) {
            run(&mut peer);
            peer.seconds("forget");
        }
    }
}

/// The device of both sides.
fn device() -> Device {
    match std::env::var("DEVICE").as_deref() {
        Err(_) | Ok("cpu") => Device::Cpu,
        Ok("cuda") if tch::Cuda::is_available() => Device::Cuda(0),
        Ok(name) => panic!("DEVICE={name}: cpu, or cuda where there is a GPU"),
    }
}

/// Whether to run the GPU versions: on a GPU, or in a rehearsal.
fn as_on_gpu() -> bool {
    device().is_cuda() || is_rehearsal()
}

/// Whether sizes are tiny and repetitions few.
fn is_rehearsal() -> bool {
    std::env::var("PATCHMIX_REHEARSE").is_ok_and(|value| value == "1")
}

/// How long to repeat a case. A GPU needs less time for good medians.
fn budget(seconds_on_cpu: u64) -> Duration {
    match (is_rehearsal(), device().is_cuda()) {
        (true, _) => Duration::ZERO,
        (false, true) => Duration::from_millis(150 * seconds_on_cpu),
        (false, false) => Duration::from_secs(seconds_on_cpu),
    }
}

/// Waits for what is queued on a GPU.
fn synchronize() {
    if let Device::Cuda(index) = device() {
        tch::Cuda::synchronize(index as i64);
    }
}

/// The seconds that `work` takes, including work that it queues on a GPU.
fn timed<T>(work: impl FnOnce() -> T) -> f64 {
    synchronize();
    let start = Instant::now();
    let result = work();
    synchronize();
    let seconds = start.elapsed().as_secs_f64();
    drop(result);
    seconds
}

/// The median seconds of every contestant. They take turns, for at least three rounds after a warm-up round, and as
/// many as `budget` allows.
fn medians<const N: usize>(budget: Duration, mut contestants: [&mut dyn FnMut() -> f64; N]) -> [f64; N] {
    for run in &mut contestants {
        run();
    }
    let mut seconds = [const { Vec::new() }; N];
    let start = Instant::now();
    while seconds[0].len() < 3 || (start.elapsed() < budget && seconds[0].len() < 201) {
        for (run, seconds) in contestants.iter_mut().zip(&mut seconds) {
            rest();
            seconds.push(run());
        }
    }
    seconds.map(median)
}

/// The median seconds per step of every contestant. They take turns, each with a number of steps per turn. A contestant
/// that fails is not run again, and its median is NaN.
fn in_turns<const N: usize>(mut contestants: [&mut dyn FnMut(i64) -> f64; N]) -> [f64; N] {
    /// Seconds per turn of a contestant.
    const TURN: f64 = 0.4;
    // Untimed steps, in which kernels are loaded and the allocator fills its cache.
    let warm_up = if device().is_cuda() { 5 } else { 1 };
    let budget = budget(26);
    let first = contestants.each_mut().map(|run| if run(1).is_nan() { f64::NAN } else { run(warm_up) });
    let counts = first.map(|seconds| (TURN / seconds).clamp(1.0, 20.0) as i64);
    let mut seconds = [const { Vec::new() }; N];
    let start = Instant::now();
    while seconds[0].len() < 3 || start.elapsed() < budget {
        for (index, run) in contestants.iter_mut().enumerate() {
            rest();
            let failed = first[index].is_nan();
            seconds[index].push(if failed { f64::NAN } else { run(counts[index]) });
        }
    }
    seconds.map(median)
}

/// Waits until the threads of the previous contestant, which spin for a while, sleep.
fn rest() {
    std::thread::sleep(Duration::from_millis(10));
}

fn median(mut seconds: Vec<f64>) -> f64 {
    seconds.sort_by(f64::total_cmp);
    seconds[seconds.len() / 2]
}

/// Prints a row of a Markdown table.
fn row(cells: &[String]) {
    println!("| {} |", cells.join(" | "));
}

/// Prints the title and header of a table.
fn heading(title: &str, columns: &[&str]) {
    println!("\n{title}\n");
    row(&columns.iter().map(|&column| column.to_owned()).collect::<Vec<_>>());
    row(&vec!["---".to_owned(); columns.len()]);
}

/// Seconds as milliseconds.
fn milliseconds(seconds: f64) -> String {
    let value = seconds * 1e3;
    if value.is_nan() {
        return "-".to_owned();
    }
    if value < 10.0 { format!("{value:.2} ms") } else { format!("{value:.0} ms") }
}

/// A ratio, as `1.23 x`.
fn times(ratio: f64) -> String {
    if ratio.is_nan() {
        return "-".to_owned();
    }
    if ratio < 10.0 { format!("{ratio:.2} x") } else { format!("{ratio:.1} x") }
}
