//! Ranks for tests: threads of this process, or processes of their own.

use std::net::TcpListener;
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};
use std::{env, io::Read};

use patchmix::distributed::{Backend, Group, Launch};
use patchmix::{Ranks, Result};
use tch::{Device, Kind, Tensor};

/// A timeout for ranks that all join, long enough for a busy machine.
pub(crate) const PATIENT: Duration = Duration::from_secs(60);
/// A timeout for ranks that wait in vain.
pub(crate) const SHORT: Duration = Duration::from_secs(3);

/// A free port of the loopback interface.
pub(crate) fn free_port() -> u16 {
    TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port()
}

pub(crate) fn launch(rank: i64, world_size: i64, port: u16) -> Launch {
    let address = "127.0.0.1".to_owned();
    Launch { rank, world_size, local_rank: rank, address, port, launcher_serves: false, restart: 0 }
}

pub(crate) fn join(launch: &Launch, timeout: Duration) -> Result<Group> {
    Group::join(launch, Backend::Gloo, timeout, Device::Cpu)
}

/// Runs `part` in one thread per rank, and returns the results in rank order.
pub(crate) fn ranks<T: Send>(world_size: i64, part: impl Fn(Group) -> T + Sync) -> Vec<T> {
    ranks_with(vec![(); world_size as usize], |group, ()| part(group))
}

/// As [`ranks`], with one rank per value.
pub(crate) fn ranks_with<V: Send, T: Send>(values: Vec<V>, part: impl Fn(Group, V) -> T + Sync) -> Vec<T> {
    let (world_size, port, part) = (values.len() as i64, free_port(), &part);
    thread::scope(|scope| {
        let start =
            |(rank, value)| scope.spawn(move || part(join(&launch(rank, world_size, port), PATIENT).unwrap(), value));
        let threads: Vec<_> = (0..).zip(values).map(start).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    })
}

/// This program as a rank that plays `part`, with the variables of a launcher.
pub(crate) fn process(part: &str, rank: i64, world_size: i64, port: u16) -> Command {
    let mut command = Command::new(env::current_exe().unwrap());
    command.args(PLAY_A_PART).env("PATCHMIX_TEST_PART", part);
    set_launch(&mut command, rank, world_size, port);
    command
}

pub(crate) const PLAY_A_PART: [&str; 4] = ["--exact", "rank::play_a_part", "--ignored", "--nocapture"];

pub(crate) fn set_launch(command: &mut Command, rank: i64, world_size: i64, port: u16) {
    let variables = [("RANK", rank), ("LOCAL_RANK", rank), ("WORLD_SIZE", world_size), ("MASTER_PORT", port.into())];
    command.envs(variables.map(|(name, value)| (name, value.to_string())));
    command.env("MASTER_ADDR", "127.0.0.1").env("OMP_NUM_THREADS", "1");
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
}

/// A process that is killed at the end of the test.
pub(crate) struct Process(Child);

impl Process {
    pub(crate) fn start(mut command: Command) -> Process {
        Process(command.spawn().unwrap())
    }

    pub(crate) fn signal(&self, name: &str) {
        let done = Command::new("kill").args(["-s", name, &self.0.id().to_string()]).status().unwrap();
        assert!(done.success(), "kill -s {name}");
    }

    /// Waits until the process has printed `line`.
    pub(crate) fn wait_for(&mut self, line: &str) {
        let (mut text, mut byte) = (Vec::new(), [0]);
        let output = self.0.stdout.as_mut().unwrap();
        while !String::from_utf8_lossy(&text).contains(line) {
            assert_eq!(output.read(&mut byte).unwrap(), 1, "ended with {}", String::from_utf8_lossy(&text));
            text.push(byte[0]);
        }
    }

    /// The output of the process, which must end within `limit`.
    pub(crate) fn output(mut self, limit: Duration) -> Output {
        let start = Instant::now();
        while self.0.try_wait().unwrap().is_none() {
            assert!(start.elapsed() < limit, "still running after {limit:?}");
            thread::sleep(Duration::from_millis(20));
        }
        let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
        self.0.stdout.take().unwrap().read_to_end(&mut stdout).unwrap();
        self.0.stderr.take().unwrap().read_to_end(&mut stderr).unwrap();
        Output { status: self.0.wait().unwrap(), stdout, stderr }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // After a successful test, the process has ended already.
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// Everything a process has printed.
pub(crate) fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// The ranks of tests with processes. The environment says which part they play.
#[test]
#[ignore = "started by other tests as a rank"]
fn play_a_part() {
    let part = env::var("PATCHMIX_TEST_PART").unwrap();
    let launch = Launch::from_env().unwrap().unwrap();
    if let Err(error) = play(&part, &launch) {
        println!("error: {error}");
        std::process::exit(3);
    }
}

fn play(part: &str, launch: &Launch) -> Result<()> {
    let group = join(launch, if part == "meets" { PATIENT } else { SHORT })?;
    let mut tensor = Tensor::full([2, 3], launch.rank + 1, (Kind::Float, Device::Cpu));
    match part {
        // Sums 1, 2, ..., and gathers a number per rank.
        "meets" => {
            if env::var("PATCHMIX_TEST_FAIL").ok() == env::var("TORCHELASTIC_RESTART_COUNT").ok()
                && env::var_os("PATCHMIX_TEST_FAIL").is_some()
            {
                std::process::exit(4);
            }
            group.all_reduce(&mut tensor)?;
            let gathered: Vec<f64> = Vec::try_from(group.gather(&Tensor::from_slice(&[launch.rank as f64 + 0.5]))?)?;
            println!("sum {} gathered {gathered:?} of {}", tensor.double_value(&[1, 2]), group.world_size());
            group.leave()
        }
        // Prints when the group works, then waits for rank 1.
        "waits" => {
            group.all_reduce(&mut tensor)?;
            println!("joined");
            if launch.rank == 1 {
                thread::sleep(PATIENT);
            }
            group.all_reduce(&mut tensor)
        }
        _ => panic!("unknown part {part}"),
    }
}
