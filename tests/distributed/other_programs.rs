//! Groups with PyTorch: a rank written in Python, and torchrun as the launcher. Skipped without PyTorch.

use std::env;
use std::process::Command;
use std::thread;

use patchmix::Ranks;
use tch::{Device, Kind, Tensor};

use crate::common::python::python;
use crate::rank::{PATIENT, PLAY_A_PART, Process, free_port, join, launch, set_launch, text};

/// A rank in Python, without this crate.
const PYTHON_RANK: &str = "
import torch, torch.distributed as dist
dist.init_process_group('gloo', init_method='env://')
rank, world_size = dist.get_rank(), dist.get_world_size()
numbers = torch.arange(6.).view(2, 3) + 100 * rank
for _ in range(3):
    total = numbers.clone()
    dist.all_reduce(total)
    rows = torch.empty(world_size * 2, 3)
    dist.all_gather_into_tensor(rows, numbers)
    pieces = [torch.empty(2, 3) for _ in range(world_size)]
    dist.all_gather(pieces, numbers)
    sent = numbers.clone()
    dist.broadcast(sent, 1)
    dist.barrier()
assert torch.equal(torch.cat(pieces), rows)
print('python', rank, total.flatten().tolist(), rows.flatten().tolist(), sent.flatten().tolist())
dist.barrier()
dist.destroy_process_group()
";

#[test]
fn rust_and_python_ranks_share_collectives() {
    for python_rank in [0, 1] {
        let Some(mut python) = python("torch") else { return };
        let port = free_port();
        python.args(["-c", PYTHON_RANK]);
        set_launch(&mut python, python_rank, 2, port);
        let python = Process::start(python);

        let group = join(&launch(1 - python_rank, 2, port), PATIENT).unwrap();
        let numbers = |rank: i64| Tensor::arange(6, (Kind::Float, Device::Cpu)).view([2, 3]) + 100 * rank;
        let rows = Tensor::cat(&[numbers(0), numbers(1)], 0);
        for _ in 0..3 {
            let mut total = numbers(group.rank());
            group.all_reduce(&mut total).unwrap();
            assert_eq!(total, numbers(0) + numbers(1));
            assert_eq!(group.gather(&numbers(group.rank())).unwrap(), rows);
            assert_eq!(group.gather(&numbers(group.rank())).unwrap(), rows);
            let mut sent = numbers(group.rank());
            group.broadcast(&mut sent, 1).unwrap();
            assert_eq!(sent, numbers(1));
            group.barrier().unwrap();
        }
        group.barrier().unwrap();
        group.leave().unwrap();

        let output = python.output(PATIENT);
        assert!(output.status.success(), "{}", text(&output));
        let list = |tensor: &Tensor| format!("{:?}", Vec::<f64>::try_from(tensor.flatten(0, -1)).unwrap());
        let (total, sent) = (list(&(numbers(0) + numbers(1))), list(&numbers(1)));
        let expected = format!("python {python_rank} {total} {} {sent}", list(&rows));
        assert!(text(&output).contains(&expected), "{expected}\n{}", text(&output));
    }
}

/// A rank that says it takes part in the exchange of requests, and sends numbers that no request has: a tensor of a
/// billion dimensions.
const LYING_RANK: &str = "
import os, torch, torch.distributed as dist
store = dist.PrefixStore('default_pg', dist.TCPStore(os.environ['MASTER_ADDR'], int(os.environ['MASTER_PORT']), 2))
store.set('patchmix/exchanges_requests/1', b'1')
dist.init_process_group('gloo', store=store, rank=1, world_size=2)
request = torch.tensor([0, 0, 10**6, 10**9] + [7] * 8)
dist.all_gather_into_tensor(torch.empty(24, dtype=torch.long), request)
";

#[test]
fn numbers_of_another_rank_are_not_trusted() {
    let Some(mut python) = python("torch") else { return };
    let port = free_port();
    python.args(["-c", LYING_RANK]);
    set_launch(&mut python, 1, 2, port);
    let python = Process::start(python);
    let group = join(&launch(0, 2, port), PATIENT).unwrap();
    let error = group.all_reduce(&mut Tensor::ones([2], (Kind::Float, Device::Cpu))).unwrap_err().to_string();
    assert!(error.contains("rank 1 called all-reduce UNKNOWN_SCALAR [7, 7, 7, 7, 7, 7, 7, 7]"), "{error}");
    drop(python);
}

/// torchrun with two ranks of this program that play "meets". They fail in the restart `failing_run`.
fn torchrun(restarts: u32, failing_run: Option<u32>) -> Option<Command> {
    let port = free_port().to_string();
    torchrun_with(
        &["--nproc-per-node", "2", "--master-addr", "127.0.0.1", "--master-port", &port],
        restarts,
        failing_run,
    )
}

fn torchrun_with(options: &[&str], restarts: u32, failing_run: Option<u32>) -> Option<Command> {
    let mut torchrun = python("torch")?;
    torchrun.args(["-m", "torch.distributed.run", "--no-python"]).args(options);
    torchrun.args(["--monitor-interval", "0.1", "--max-restarts", &restarts.to_string()]);
    torchrun.arg(env::current_exe().unwrap()).args(PLAY_A_PART);
    torchrun.env("PATCHMIX_TEST_PART", "meets");
    if let Some(run) = failing_run {
        torchrun.env("PATCHMIX_TEST_FAIL", run.to_string());
    }
    torchrun.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
    Some(torchrun)
}

#[test]
fn torchrun_starts_and_restarts_ranks() {
    let Some(healthy) = torchrun(0, None) else { return };
    let restarting = torchrun(1, Some(0)).unwrap();
    // Both at once, since most of the time goes into loading PyTorch.
    let outputs = thread::scope(|scope| {
        [healthy, restarting]
            .map(|command| scope.spawn(|| Process::start(command).output(PATIENT)))
            .map(|run| run.join().unwrap())
    });
    for output in outputs {
        assert!(output.status.success(), "{}", text(&output));
        let meetings = text(&output).matches("sum 3 gathered [0.5, 1.5] of 2").count();
        assert_eq!(meetings, 2, "{}", text(&output));
    }
}

/// Two launchers, as on two machines. Only one has a failing rank, so their restart counts differ.
#[test]
fn ranks_of_several_launchers_meet_again_after_a_restart() {
    let endpoint = format!("127.0.0.1:{}", free_port());
    let options = ["--nnodes", "2", "--nproc-per-node", "1", "--rdzv-backend", "c10d", "--rdzv-endpoint", &endpoint];
    let options = [&options[..], &["--rdzv-id", "test", "--local-addr", "127.0.0.1"]].concat();
    let Some(healthy) = torchrun_with(&options, 3, None) else { return };
    let failing = torchrun_with(&options, 3, Some(0)).unwrap();
    let launchers = [healthy, failing].map(|mut launcher| {
        // As in docs/distributed.md.
        launcher.env("TORCH_DISABLE_SHARE_RDZV_TCP_STORE", "1");
        Process::start(launcher)
    });
    for output in launchers.map(|launcher| launcher.output(2 * PATIENT)) {
        assert!(output.status.success(), "{}", text(&output));
        assert!(text(&output).contains("sum 3 gathered [0.5, 1.5] of 2"), "{}", text(&output));
    }
}

#[test]
fn torchrun_fails_with_its_ranks() {
    let Some(torchrun) = torchrun(0, Some(0)) else { return };
    let output = Process::start(torchrun).output(PATIENT);
    assert!(!output.status.success(), "{}", text(&output));
}
