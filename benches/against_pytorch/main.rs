//! The crate beside plain PyTorch, in turns in one run: `cargo bench --bench against_pytorch`, or with the names of
//! parts behind it (`-- mix losses step views folder memory growth`).
//!
//! The peer is `scripts/peer/peer.py`, on the same libtorch and the same number of threads. PEER_PYTHONPATH names
//! further folders of Python packages: torchvision and pillow, for the views and the folder. Let nothing else run.
//!
//! DEVICE=cuda measures on the first GPU; there, `knobs issue trace loop` say where the time goes, and `compile` fills
//! torch.compile's cache for `step`. PATCHMIX_REHEARSE=1 goes through all of that on a CPU, with tiny sizes: it shows
//! that everything works, and its times mean nothing.
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
mod step_on_gpu;
mod trace;
mod views;
mod whole_loop;

use std::time::{Duration, Instant};

use peer::Peer;
use tch::Device;

type Part = (&'static str, fn(&mut Peer));

/// What runs where no part is named.
const USUAL: usize = 7;

const PARTS: [Part; 12] = [
    ("mix", mix::run),
    ("losses", losses::run),
    ("step", step::run),
    ("views", views::run),
    ("folder", folder::run),
    ("memory", memory::run),
    ("growth", growth::run),
    ("compile", step_on_gpu::compile),
    ("knobs", knobs::run),
    ("issue", issue::run),
    ("trace", trace::run),
    ("loop", whole_loop::run),
];

fn main() {
    let wanted: Vec<String> = std::env::args().skip(1).filter(|argument| !argument.starts_with("--")).collect();
    if let Some(unknown) = wanted.iter().find(|name| !PARTS.iter().any(|(part, _)| part == name)) {
        let parts = PARTS.map(|(part, _)| part).join(", ");
        eprintln!("no part {unknown}; there are {parts}");
        std::process::exit(2);
    }
    tch::manual_seed(0);
    let threads = tch::get_num_threads();
    println!("{:?}, {threads} threads; medians of repetitions in turns", device());
    let mut peer = Peer::start(threads);
    for (index, (part, run)) in PARTS.into_iter().enumerate() {
        if (wanted.is_empty() && index < USUAL) || wanted.iter().any(|name| name == part) {
            run(&mut peer);
            peer.seconds("forget");
        }
    }
}

/// Where both sides work.
fn device() -> Device {
    match std::env::var("DEVICE").as_deref() {
        Err(_) | Ok("cpu") => Device::Cpu,
        Ok("cuda") if tch::Cuda::is_available() => Device::Cuda(0),
        Ok(name) => panic!("DEVICE={name}: cpu, or cuda where there is a GPU"),
    }
}

/// Whether a GPU is measured, or a CPU goes through what is measured there.
fn as_on_gpu() -> bool {
    device().is_cuda() || is_rehearsal()
}

/// Whether all sizes are tiny, and no time is taken for good medians.
fn is_rehearsal() -> bool {
    std::env::var("PATCHMIX_REHEARSE").is_ok_and(|value| value == "1")
}

/// How long to repeat a case: a GPU is done with one much sooner than a CPU.
fn budget(seconds_on_cpu: u64) -> Duration {
    match (is_rehearsal(), device().is_cuda()) {
        (true, _) => Duration::ZERO,
        (false, true) => Duration::from_millis(150 * seconds_on_cpu),
        (false, false) => Duration::from_secs(seconds_on_cpu),
    }
}

/// The time that `work` takes, to the end of what it started on a GPU.
fn timed<T>(work: impl FnOnce() -> T) -> f64 {
    let synchronize = || {
        if let Device::Cuda(index) = device() {
            tch::Cuda::synchronize(index as i64)
        }
    };
    synchronize();
    let start = Instant::now();
    let result = work();
    synchronize();
    let seconds = start.elapsed().as_secs_f64();
    drop(result);
    seconds
}

/// Runs all contestants in turns, for at least three rounds after a first that does not count, and as many as `budget`
/// allows; their medians in seconds.
fn medians<const N: usize>(budget: Duration, mut contestants: [&mut dyn FnMut() -> f64; N]) -> [f64; N] {
    for run in &mut contestants {
        run();
    }
    let mut seconds = [const { Vec::new() }; N];
    let start = Instant::now();
    while seconds[0].len() < 3 || (start.elapsed() < budget && seconds[0].len() < 201) {
        for (run, seconds) in contestants.iter_mut().zip(&mut seconds) {
            // The threads of the one before spin for a while before they sleep.
            std::thread::sleep(Duration::from_millis(10));
            seconds.push(run());
        }
    }
    seconds.map(|mut seconds| {
        seconds.sort_by(f64::total_cmp);
        seconds[seconds.len() / 2]
    })
}

/// A row of a table, in Markdown.
fn row(cells: &[String]) {
    println!("| {} |", cells.join(" | "));
}

/// The heading of a table.
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
