//! Ranks that make different calls, and invalid calls.

use std::time::{Duration, Instant};

use patchmix::distributed::{Backend, Group};
use patchmix::{Error, Ranks, Result};
use tch::{Device, Kind, Tensor};

use crate::rank::{PATIENT, free_port, join, launch, ranks};

fn ones(shape: &[i64], kind: Kind) -> Tensor {
    Tensor::ones(shape, (kind, Device::Cpu))
}

/// The errors of both ranks when rank 0 and rank 1 make these calls. They fail at once, before the timeout.
fn errors_of(calls: [fn(&Group) -> Result<()>; 2]) -> [String; 2] {
    let start = Instant::now();
    let errors = ranks(2, |group| {
        let error = calls[group.rank() as usize](&group).unwrap_err();
        assert!(matches!(error, Error::Group { .. }), "{error:?}");
        // The group cannot be used again, and says why.
        let again = group.barrier().unwrap_err().to_string();
        assert!(again.contains("earlier call failed"), "{again}");
        error.to_string()
    });
    assert!(start.elapsed() < Duration::from_secs(20));
    errors.try_into().unwrap()
}

#[test]
fn both_shapes_are_named() {
    let [first, second] = errors_of([
        |group| group.all_reduce(&mut ones(&[4, 4], Kind::Float)),
        |group| group.all_reduce(&mut ones(&[3, 4], Kind::Float)),
    ]);
    assert_eq!(first, "all-reduce: rank 1 called all-reduce Float [3, 4], but rank 0 called all-reduce Float [4, 4]");
    assert_eq!(second, "all-reduce: rank 0 called all-reduce Float [4, 4], but rank 1 called all-reduce Float [3, 4]");
}

#[test]
fn both_kinds_are_named() {
    let [first, _] = errors_of([
        |group| group.gather(&ones(&[2, 2], Kind::Float)).map(drop),
        |group| group.gather(&ones(&[2, 2], Kind::Double)).map(drop),
    ]);
    assert!(first.contains("Double [2, 2]") && first.contains("Float [2, 2]"), "{first}");
}

#[test]
fn another_shape_with_as_many_elements_is_refused() {
    errors_of([
        |group| group.sum(&ones(&[6], Kind::Float)).map(drop),
        |group| group.sum(&ones(&[2, 3], Kind::Float)).map(drop),
    ]);
}

#[test]
fn both_calls_are_named() {
    let [first, _] = errors_of([
        |group| group.all_reduce(&mut ones(&[2], Kind::Float)),
        |group| group.gather(&ones(&[2], Kind::Float)).map(drop),
    ]);
    assert!(first.contains("rank 1 called all-gather Float [2]"), "{first}");
    let [first, _] = errors_of([|group| group.barrier(), |group| group.trust_ranks()]);
    assert!(first.contains("rank 1 called trust_ranks"), "{first}");
    let [first, second] =
        errors_of([|group| group.barrier(), |group| group.broadcast(&mut ones(&[2], Kind::Float), 1)]);
    assert!(first.contains("broadcast Float [2] from rank 1"), "{first}");
    assert!(second.contains("rank 0 called barrier"), "{second}");
}

#[test]
fn both_senders_are_named() {
    let [first, _] = errors_of([
        |group| group.broadcast(&mut ones(&[2], Kind::Float), 0),
        |group| group.broadcast(&mut ones(&[2], Kind::Float), 1),
    ]);
    assert!(first.contains("from rank 1") && first.contains("from rank 0"), "{first}");
}

#[test]
fn a_backward_pass_fails_if_another_rank_makes_another_call() {
    ranks(2, |group| {
        let x = ones(&[2], Kind::Double).set_requires_grad(true);
        let loss = group.sum(&x).unwrap().sum(Kind::Double);
        let error = match group.rank() {
            0 => loss.f_backward().unwrap_err().to_string(),
            _ => group.barrier().unwrap_err().to_string(),
        };
        assert!(error.contains("barrier") && error.contains("all-reduce Double [2]"), "{error}");
    });
}

#[test]
fn invalid_tensors_are_refused_without_waiting() {
    ranks(2, |group| {
        if group.rank() == 1 {
            return; // the other rank must not wait for this one
        }
        assert!(matches!(group.all_reduce(&mut Tensor::new()), Err(Error::Undefined { .. })));
        for kind in [Kind::Bool, Kind::ComplexFloat, Kind::Int16] {
            let mut tensor = ones(&[2], kind);
            assert!(matches!(group.all_reduce(&mut tensor), Err(Error::Kind { .. })));
            assert!(matches!(group.broadcast(&mut tensor, 0), Err(Error::Kind { .. })));
            assert!(matches!(group.gather(&tensor), Err(Error::Kind { .. })));
            assert!(matches!(group.sum(&tensor), Err(Error::Kind { .. })));
        }
        assert!(matches!(group.gather(&ones(&[], Kind::Float)), Err(Error::Shape { .. })));
        assert!(matches!(group.average(&[ones(&[2], Kind::Int)]), Err(Error::Kind { .. })));
        let mixed = [ones(&[2], Kind::Float), ones(&[2], Kind::Double)];
        assert!(matches!(group.average(&mixed), Err(Error::Kind { .. })));
        for rank in [-1, 2] {
            assert!(matches!(group.broadcast(&mut ones(&[2], Kind::Float), rank), Err(Error::Value { .. })));
        }
        let many_dimensions = group.gather(&ones(&[1; 9], Kind::Float)).unwrap_err().to_string();
        assert!(many_dimensions.contains("more than 8 dimensions"), "{many_dimensions}");
    });
}

#[test]
fn an_invalid_group_is_refused_with_a_reason() {
    let port = free_port();
    let refused = |change: fn(&mut patchmix::distributed::Launch), backend, timeout, device| {
        let mut launch = launch(0, 1, port);
        change(&mut launch);
        Group::join(&launch, backend, timeout, device).unwrap_err().to_string()
    };
    let same = |_: &mut patchmix::distributed::Launch| {};
    let assert_says = |error: String, words: &str| assert!(error.contains(words), "{error}");
    assert_says(refused(|launch| launch.rank = 1, Backend::Gloo, PATIENT, Device::Cpu), "rank must be 0,");
    assert_says(
        refused(|launch| launch.world_size = 0, Backend::Gloo, PATIENT, Device::Cpu),
        "world_size must be between 1 and",
    );
    assert_says(refused(|launch| launch.world_size = i64::MAX, Backend::Gloo, PATIENT, Device::Cpu), "world_size");
    assert_says(refused(|launch| launch.address = "a\0b".to_owned(), Backend::Gloo, PATIENT, Device::Cpu), "address");
    assert_says(refused(same, Backend::Gloo, Duration::ZERO, Device::Cpu), "timeout");
    assert_says(refused(same, Backend::Gloo, Duration::MAX, Device::Cpu), "timeout");
    assert_says(refused(same, Backend::Gloo, PATIENT, Device::Cuda(0)), "Gloo supports tensors on the CPU");
    assert_says(refused(same, Backend::Nccl, PATIENT, Device::Cpu), "NCCL supports tensors on GPUs");
    if !tch::Cuda::is_available() {
        assert_says(refused(same, Backend::Nccl, PATIENT, Device::Cuda(0)), "NCCL needs a GPU");
    }
    // The port is still free.
    join(&launch(0, 1, port), PATIENT).unwrap().leave().unwrap();
}
