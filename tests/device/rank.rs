//! A group of one rank, over NCCL on a GPU and over Gloo on the CPU. Every call passes through the backend.

use std::net::TcpListener;
use std::time::Duration;

use patchmix::Ranks;
use patchmix::contrast::LossConfig;
use patchmix::distributed::{Backend, Group, Launch};
use tch::{Device, Kind, Tensor};

use crate::contrast::{on_device, views_on_device};
use crate::scene::{EVEN, Learner, Views, set, values};
use crate::turn::{Turn, assert_near};

fn join(turn: &Turn) -> Group {
    let port = TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port();
    let address = "127.0.0.1".to_owned();
    let launch = Launch { rank: 0, world_size: 1, local_rank: 0, address, port, launcher_serves: false, restart: 0 };
    let backend = if turn.device.is_cuda() { Backend::Nccl } else { Backend::Gloo };
    Group::join(&launch, backend, Duration::from_secs(60), turn.device).unwrap()
}

#[test]
fn collectives_of_one_rank_return_its_tensors() {
    let turn = Turn::take();
    let group = join(&turn);
    assert_eq!((group.rank(), group.world_size()), (0, 1));
    for kind in [Kind::Half, Kind::BFloat16, Kind::Float, Kind::Double, Kind::Uint8, Kind::Int, Kind::Int64] {
        let numbers = turn.put(&Tensor::arange(15, (Kind::Int64, Device::Cpu)).view([5, 3]), kind);
        let mut tensor = numbers.copy();
        group.all_reduce(&mut tensor).unwrap();
        group.broadcast(&mut tensor, 0).unwrap();
        for result in [&tensor, &group.gather(&numbers).unwrap(), &group.sum(&numbers).unwrap()] {
            assert_eq!((result.device(), result.kind()), (turn.device, kind));
            assert_eq!(*result, numbers, "{kind:?}");
        }
    }
    for shapes in [&[&[4_i64, 3][..], &[], &[7]][..], &[&[4, 3], &[], &[7]], &[&[4, 3]]] {
        let own: Vec<Tensor> = shapes.iter().map(|shape| turn.randn(shape, Kind::Double)).collect();
        let before: Vec<Tensor> = own.iter().map(Tensor::copy).collect();
        group.average(&own).unwrap();
        assert_eq!(own, before);
    }
    group.barrier().unwrap();
    assert_eq!(group.numbers(i64::MIN).unwrap(), [i64::MIN]);
    group.trust_ranks().unwrap();
    assert_eq!(group.numbers(7).unwrap(), [7]);
    group.barrier().unwrap();
    let bytes = group.bytes_sent();
    assert!(bytes.all_reduce > 0 && bytes.all_gather > 0 && bytes.broadcast > 0, "{bytes:?}");
    group.leave().unwrap();
}

#[test]
fn gradient_flows_through_a_sum_of_one_rank() {
    let turn = Turn::take();
    let group = join(&turn);
    let x = turn.randn(&[4, 3], Kind::Double).set_requires_grad(true);
    group.sum(&x).unwrap().pow_tensor_scalar(3).sum(Kind::Double).backward();
    assert_near("gradient", &x.grad(), &(x.detach().square() * 3.0), 1e-12);
    group.leave().unwrap();
}

/// A group of one rank trains like a single process, batch statistics included.
#[test]
fn one_rank_trains_like_a_single_process() {
    let turn = Turn::take();
    let group = join(&turn);
    for (with_momentum, micro_batch) in [(false, None), (true, Some(2))] {
        let learner = on_device(&turn, &Learner::new(EVEN, with_momentum, 0.0), Kind::Double);
        let views = views_on_device(&turn, &Views::new(EVEN), Kind::Double);
        let config = LossConfig { micro_batch, ..LossConfig::default() };
        let before = learner.statistics();
        let step = |ranks: Option<&dyn Ranks>| {
            set(&learner.live_statistics(), &before);
            let losses = learner.losses(&views, ranks, &config);
            [values(&losses), learner.gradients(|| losses.backward().unwrap()), learner.statistics()]
        };
        for (actual, expected) in step(Some(&group)).iter().zip(&step(None)) {
            assert_eq!(actual.len(), expected.len());
            for (name, tensor) in expected {
                assert_near(name, &actual[name], tensor, 1e-10);
            }
        }
    }
    group.leave().unwrap();
}
