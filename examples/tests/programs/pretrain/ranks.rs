//! Runs of several processes: they train one model, end together, and lose nothing.

use std::fs::{self, File};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, ExitStatus, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use super::ablations::VARIANTS;
use super::resume::{assert_same_end, checkpoints};
use super::watching::EVERYTHING;
use super::{TINY, command, run_well};
use crate::support::{error_text, metrics, program, python, read_json};

/// Long enough for a run that goes well on a busy machine.
const PATIENCE: Duration = Duration::from_secs(90);

/// The processes of a run; they end with the test at the latest.
struct Ranks(Vec<Child>);

impl Drop for Ranks {
    fn drop(&mut self) {
        for rank in &mut self.0 {
            let _ = rank.kill();
            let _ = rank.wait();
        }
    }
}

impl Ranks {
    /// Starts ranks of the program that meet at a free port.
    fn start(folder: &Path, count: usize, options: &str) -> Ranks {
        Ranks::start_each(folder, &vec![options.to_owned(); count])
    }

    /// Starts a rank for each of the options.
    fn start_each(folder: &Path, options: &[String]) -> Ranks {
        let count = options.len();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port().to_string();
        let variables = |rank: usize| {
            let (rank, count, address) = (rank.to_string(), count.to_string(), "127.0.0.1".to_owned());
            [("RANK", rank.clone()), ("LOCAL_RANK", rank), ("WORLD_SIZE", count), ("MASTER_ADDR", address)]
        };
        let start = |rank: usize| {
            let log = File::create(folder.join(format!("rank-{rank}.txt"))).unwrap();
            let mut command = command(folder, &options[rank]);
            command.envs(variables(rank)).env("MASTER_PORT", &port).stdout(Stdio::null()).stderr(log);
            command.spawn().unwrap()
        };
        Ranks((0..count).map(start).collect())
    }

    /// Waits for the end of all ranks; the exit status and the standard error of each.
    #[track_caller]
    fn end(mut self, folder: &Path) -> Vec<(ExitStatus, String)> {
        let started = Instant::now();
        let ended = (0..self.0.len()).map(|rank| {
            loop {
                let text = || fs::read_to_string(folder.join(format!("rank-{rank}.txt"))).unwrap();
                if let Some(status) = self.0[rank].try_wait().unwrap() {
                    break (status, text());
                }
                assert!(started.elapsed() < PATIENCE, "rank {rank} does not end: {}", text());
                sleep(Duration::from_millis(20));
            }
        });
        ended.collect()
    }

    /// Waits for all ranks, which must succeed; the standard error of the first.
    #[track_caller]
    fn end_well(self, folder: &Path) -> String {
        let ended = self.end(folder);
        assert!(ended.iter().all(|(status, _)| status.success()), "{ended:?}");
        assert!(ended[1..].iter().all(|(_, text)| text.is_empty()), "only the first rank prints: {ended:?}");
        ended[0].1.clone()
    }
}

/// Waits until the first epoch is done.
#[track_caller]
fn await_epoch(folder: &Path, ranks: &mut Ranks) {
    let started = Instant::now();
    while !folder.join("here/metrics.csv").exists() {
        let text = || fs::read_to_string(folder.join("rank-0.txt")).unwrap();
        assert!(
            ranks.0[0].try_wait().unwrap().is_none() && started.elapsed() < PATIENCE,
            "no epoch is done: {}",
            text()
        );
        sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_run_of_two_ranks_in_two_parts_ends_as_the_undivided_one() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let options = format!("{TINY} --epochs 3 --momentum-encoder 0.9");
    let text = Ranks::start(folder, 2, &format!("{options} --out straight")).end_well(folder);
    assert!(text.contains("2 ranks"), "{text}");
    assert_eq!(metrics(&folder.join("straight")).len(), 3);
    for steps in [3, 8] {
        let out = format!("stopped-{steps}");
        Ranks::start(folder, 2, &format!("{options} --stop-after {steps} --out {out}")).end_well(folder);
        let text = Ranks::start(folder, 2, &format!("--resume --out {out}")).end_well(folder);
        assert!(!text.contains("note:"), "{text}");
        assert_same_end(&folder.join("straight"), &folder.join(out));
    }
}

/// The probe, too, learns from the images of both ranks.
#[test]
fn two_ranks_with_every_option_go_on_exactly() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let options = format!("{TINY} --epochs 3 {EVERYTHING}");
    Ranks::start(folder, 2, &format!("{options} --out straight")).end_well(folder);
    Ranks::start(folder, 2, &format!("{options} --stop-after 6 --out here")).end_well(folder);
    Ranks::start(folder, 2, "--resume --out here").end_well(folder);
    assert_same_end(&folder.join("straight"), &folder.join("here"));
}

#[test]
fn a_run_of_two_ranks_with_all_variants_in_two_parts_ends_as_the_undivided_one() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let options = format!("{TINY} {VARIANTS} --epochs 2");
    Ranks::start(folder, 2, &format!("{options} --out straight")).end_well(folder);
    Ranks::start(folder, 2, &format!("{options} --stop-after 6 --out stopped")).end_well(folder);
    Ranks::start(folder, 2, "--resume --out stopped").end_well(folder);
    assert_same_end(&folder.join("straight"), &folder.join("stopped"));
}

#[test]
fn ranks_that_trust_each_other_train_without_the_weights_that_are_frozen() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let options = format!("{TINY} --epochs 1 --momentum-encoder 0.9 --freeze-patch-embedding --trust-ranks --out here");
    Ranks::start(folder, 2, &options).end_well(folder);
    assert_eq!(metrics(&folder.join("here")).len(), 1);
}

#[test]
fn ranks_with_other_settings_or_images_are_refused_by_all() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    for other in ["--seed 1", "--lr 1", "--temperature 0.3", "--limit 79"] {
        let option = other.split_once(' ').unwrap().0;
        let own = if TINY.contains(option) { TINY.replace("--limit 64", "") } else { TINY.to_owned() };
        let options = [TINY.to_owned(), format!("{own} {other}")].map(|tiny| format!("{tiny} --epochs 1 --out here"));
        for (status, text) in Ranks::start_each(folder, &options).end(folder) {
            assert!(!status.success());
            assert!(text.contains("has other settings or training images"), "{other}: {text}");
        }
        assert!(!folder.join("here").exists());
    }
    // Settings that change no result may differ.
    let options = ["--keep 1", "--keep 3"].map(|other| format!("{TINY} {other} --epochs 1 --out here"));
    Ranks::start_each(folder, &options).end_well(folder);
}

#[test]
fn another_number_of_ranks_goes_on_and_says_what_changes() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    run_well(folder, &format!("{TINY} --epochs 2 --stop-after 2 --out here"));
    let text = Ranks::start(folder, 2, "--resume --out here").end_well(folder);
    assert!(text.contains("was on 1 ranks and resumes on 2"), "{text}");
    let history = &read_json(&folder.join("here/config.json"))["history"];
    assert_eq!(history[0]["changed"], serde_json::json!({ "ranks": { "from": 1, "to": 2 } }));
    run_well(folder, "--resume --out here --epochs 3");
    let back = &read_json(&folder.join("here/config.json"))["history"][1]["changed"];
    assert_eq!(back["ranks"], serde_json::json!({ "from": 2, "to": 1 }));
    assert_eq!(metrics(&folder.join("here")).len(), 3);
}

#[test]
fn a_signal_to_one_rank_stops_and_saves_the_run() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let mut ranks = Ranks::start(folder, 2, &format!("{TINY} --epochs 500 --out here"));
    await_epoch(folder, &mut ranks);
    let id = ranks.0[1].id().to_string();
    // Twice, like from a launcher that passes on a signal its ranks have received too.
    for _ in 0..2 {
        assert!(std::process::Command::new("kill").args(["-TERM", &id]).status().unwrap().success());
    }
    let ended = ranks.end(folder);
    assert!(ended.iter().all(|(status, _)| status.code() == Some(130)), "{ended:?}");
    assert!(ended[0].1.contains("--resume --out 'here'"), "{ended:?}");
    assert!(!checkpoints(&folder.join("here")).is_empty());
}

#[test]
fn a_batch_that_ranks_cannot_share_is_refused_by_all() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let rest = TINY.replace("--batch-size 16", "").replace("--groups 2,3", "");
    for (batch, named) in [("--batch-size 15", "--batch-size 15"), ("--batch-size 4 --groups 3", "on 2 ranks")] {
        for (status, text) in Ranks::start(folder, 2, &format!("{rest} {batch} --epochs 1 --out here")).end(folder) {
            assert!(!status.success());
            assert!(text.contains(named), "{text}");
        }
        assert!(!folder.join("here").exists());
    }
}

/// One of two ranks is lost during training: the other ends with an error, and the checkpoint is whole.
fn lose_a_rank(lose: &str) {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let mut ranks = Ranks::start(folder, 2, &format!("{TINY} --epochs 500 --timeout 5 --out here"));
    await_epoch(folder, &mut ranks);
    let lost = ranks.0[1].id().to_string();
    assert!(std::process::Command::new("kill").args([lose, &lost]).status().unwrap().success());
    let started = Instant::now();
    let status = ranks.0[0].wait().unwrap();
    assert!(started.elapsed() < Duration::from_secs(30), "it took {:?}", started.elapsed());
    drop(ranks);
    let text = fs::read_to_string(folder.join("rank-0.txt")).unwrap();
    assert!(!status.success() && text.contains("error: ") && text.contains("rank"), "{text}");
    let before = checkpoints(&folder.join("here"));
    let output = run_well(folder, "--resume --out here --stop-after 1");
    let text = error_text(&output);
    assert!(text.contains(before[0].file_name().unwrap().to_str().unwrap()), "{text}");
}

#[test]
fn a_rank_that_dies_ends_the_others_with_an_error() {
    lose_a_rank("-KILL");
}

#[test]
fn a_rank_that_hangs_ends_the_others_after_the_time_out() {
    lose_a_rank("-STOP");
}

#[test]
fn a_rank_that_never_joins_is_waited_for_no_longer_than_the_time_out() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let mut ranks = Ranks::start(folder, 2, &format!("{TINY} --epochs 1 --timeout 3 --out here"));
    ranks.0[1].kill().unwrap();
    ranks.0[1].wait().unwrap();
    let status = ranks.0[0].wait().unwrap();
    let text = fs::read_to_string(folder.join("rank-0.txt")).unwrap();
    assert!(!status.success() && text.contains("error: "), "{text}");
    assert!(!folder.join("here").exists());
}

/// torchrun starts two ranks, and one is killed after the first checkpoint. torchrun ends the other, starts both again,
/// and the run goes on from the checkpoint and ends like an undisturbed one.
#[test]
fn torchrun_starts_a_run_again_that_lost_a_rank() {
    let Some(mut torchrun) = python("torch") else { return };
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let options = format!("{TINY} --epochs 12 --save-every 1 --timeout 20");
    Ranks::start(folder, 2, &format!("{options} --out straight")).end_well(folder);

    let rank = folder.join("rank.sh");
    // The second rank of the first attempt kills itself after a while.
    let script = "#!/bin/sh\nif [ \"$RANK$TORCHELASTIC_RESTART_COUNT\" = 10 ]; then\n  \
                  \"$@\" & victim=$!\n  while [ ! -f here/metrics.csv ]; do sleep 0.05; done\n  kill -KILL $victim\n  \
                  wait $victim\n  exit 1\nfi\nexec \"$@\"\n";
    fs::write(&rank, script).unwrap();
    let log = File::create(folder.join("torchrun.txt")).unwrap();
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    torchrun.args(["-m", "torch.distributed.run", "--nproc-per-node", "2", "--max-restarts", "2", "--no-python"]);
    torchrun.args(["--monitor-interval", "0.2", "--master-addr", "127.0.0.1", "--master-port", &port.to_string()]);
    torchrun.arg("sh").arg(&rank).arg(program("pretrain_cifar")).args(options.split_whitespace());
    torchrun.args(["--resume-if-begun", "--out", "here"]).current_dir(folder);
    let mut torchrun = Ranks(vec![torchrun.stdout(Stdio::null()).stderr(log).spawn().unwrap()]);
    let started = Instant::now();
    let status = loop {
        if let Some(status) = torchrun.0[0].try_wait().unwrap() {
            break status;
        }
        let text = || fs::read_to_string(folder.join("torchrun.txt")).unwrap();
        assert!(started.elapsed() < 2 * PATIENCE, "torchrun does not end: {}", text());
        sleep(Duration::from_millis(50));
    };
    let text = fs::read_to_string(folder.join("torchrun.txt")).unwrap();
    assert!(status.success(), "{text}");
    assert!(text.contains("resuming from"), "{text}");
    assert_same_end(&folder.join("straight"), &folder.join("here"));
}
