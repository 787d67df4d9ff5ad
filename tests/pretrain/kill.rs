//! A run that is killed without warning loses no more than the steps since its last checkpoint.

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::Stdio;
use std::thread::sleep;
use std::time::Duration;

use super::resume::{assert_same_end, checkpoints};
use super::{TINY, command, run_well};

/// Kills in a row, each at another moment of a run that saves at every step, which it does while the next step is under
/// way: while a checkpoint or the manifest is written, while pictures are drawn, before the first checkpoint.
const KILLS: u32 = 20;

#[test]
fn a_run_killed_twenty_times_ends_as_the_undisturbed_one() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let options = format!("{TINY} --epochs 80 --knn-every 8 --save-every 1 --momentum-encoder 0.9");
    run_well(folder, &format!("{options} --out straight"));

    let mut random = 0x2545_f491_4f6c_dd1d_u64;
    let mut killed = 0;
    for attempt in 0..4 * KILLS {
        if killed == KILLS {
            break;
        }
        let line = format!("{options} --resume-if-begun --out killed");
        let mut child = command(folder, &line).stderr(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
        // Loading libtorch takes as long as the machine is busy, and writes nothing.
        let mut said = BufReader::new(child.stderr.take().unwrap()).lines();
        assert!(said.any(|line| line.unwrap().starts_with("images")), "it begins");
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(attempt.into());
        sleep(Duration::from_millis((random >> 33) % 1000));
        if child.try_wait().unwrap().is_some() {
            break; // it came to its end first
        }
        child.kill().unwrap();
        child.wait().unwrap();
        killed += 1;
    }
    println!("survived {killed} kills of {KILLS}");
    assert!(!checkpoints(&folder.join("killed")).is_empty(), "no kill came while it trained");
    assert!(killed >= KILLS / 2, "the run ended after {killed} kills: too short a run for this test");
    run_well(folder, "--resume --out killed");
    assert_same_end(&folder.join("straight"), &folder.join("killed"));
    for entry in fs::read_dir(folder.join("killed")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|end| end == "png") {
            image::open(&path).unwrap();
        }
    }
}
