//! Ranks that do not ask for the same, and calls that cannot be made.

use std::time::{Duration, Instant};

use patchmix::dist::{Backend, Group};
use patchmix::{Error, Ranks, Result};
use tch::{Device, Kind, Tensor};

use crate::rank::{PATIENT, free_port, join, launch, ranks};

fn ones(shape: &[i64], kind: Kind) -> Tensor {
    Tensor::ones(shape, (kind, Device::Cpu))
}

/// What both ranks are told when rank 0 and rank 1 make these calls; at once, not when they have waited.
fn told(calls: [fn(&Group) -> Result<()>; 2]) -> [String; 2] {
    let begin = Instant::now();
    let errors = ranks(2, |group| {
        let error = calls[group.rank() as usize](&group).unwrap_err();
        assert!(matches!(error, Error::Group { .. }), "{error:?}");
        // Not to be used again, and saying why.
        let again = group.barrier().unwrap_err().to_string();
        assert!(again.contains("earlier call failed"), "{again}");
        error.to_string()
    });
    assert!(begin.elapsed() < Duration::from_secs(20));
    errors.try_into().unwrap()
}

#[test]
fn ranks_with_other_shapes_learn_both() {
    let [first, second] = told([
        |group| group.all_reduce(&mut ones(&[4, 4], Kind::Float)),
        |group| group.all_reduce(&mut ones(&[3, 4], Kind::Float)),
    ]);
    assert_eq!(first, "all-reduce: rank 1 came to all-reduce Float [3, 4], rank 0 to all-reduce Float [4, 4]");
    assert_eq!(second, "all-reduce: rank 0 came to all-reduce Float [4, 4], rank 1 to all-reduce Float [3, 4]");
}

#[test]
fn ranks_with_other_kinds_learn_both() {
    let [first, _] = told([
        |group| group.gather(&ones(&[2, 2], Kind::Float)).map(drop),
        |group| group.gather(&ones(&[2, 2], Kind::Double)).map(drop),
    ]);
    assert!(first.contains("Double [2, 2]") && first.contains("Float [2, 2]"), "{first}");
}

#[test]
fn as_many_elements_in_another_shape_are_another_shape() {
    told([
        |group| group.sum(&ones(&[6], Kind::Float)).map(drop),
        |group| group.sum(&ones(&[2, 3], Kind::Float)).map(drop),
    ]);
}

#[test]
fn ranks_that_make_other_calls_learn_which() {
    let [first, _] = told([
        |group| group.all_reduce(&mut ones(&[2], Kind::Float)),
        |group| group.all_gather(&ones(&[2], Kind::Float)).map(drop),
    ]);
    assert!(first.contains("rank 1 came to all-gather Float [2]"), "{first}");
    let [first, _] = told([|group| group.barrier(), |group| group.trust_ranks()]);
    assert!(first.contains("rank 1 came to take the others' requests on trust"), "{first}");
    let [first, second] = told([|group| group.barrier(), |group| group.broadcast(&mut ones(&[2], Kind::Float), 1)]);
    assert!(first.contains("broadcast Float [2] from rank 1"), "{first}");
    assert!(second.contains("rank 0 came to meet at a barrier"), "{second}");
}

#[test]
fn ranks_that_name_other_senders_learn_which() {
    let [first, _] = told([
        |group| group.broadcast(&mut ones(&[2], Kind::Float), 0),
        |group| group.broadcast(&mut ones(&[2], Kind::Float), 1),
    ]);
    assert!(first.contains("from rank 1") && first.contains("from rank 0"), "{first}");
}

#[test]
fn a_backward_pass_that_finds_another_rank_elsewhere_fails() {
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
fn tensors_that_cannot_be_sent_are_refused_before_anybody_waits() {
    ranks(2, |group| {
        if group.rank() == 1 {
            return; // nobody to wait for
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
fn a_group_that_cannot_be_is_refused_with_a_reason() {
    let port = free_port();
    let refused = |change: fn(&mut patchmix::dist::Launch), backend, timeout, device| {
        let mut launch = launch(0, 1, port);
        change(&mut launch);
        Group::join(&launch, backend, timeout, device).unwrap_err().to_string()
    };
    let same = |_: &mut patchmix::dist::Launch| {};
    let says = |error: String, words: &str| assert!(error.contains(words), "{error}");
    says(refused(|launch| launch.rank = 1, Backend::Gloo, PATIENT, Device::Cpu), "rank must be 0 to 0");
    says(refused(|launch| launch.world_size = 0, Backend::Gloo, PATIENT, Device::Cpu), "world_size must be 1 to");
    says(refused(|launch| launch.world_size = i64::MAX, Backend::Gloo, PATIENT, Device::Cpu), "world_size");
    says(refused(|launch| launch.address = "a\0b".to_owned(), Backend::Gloo, PATIENT, Device::Cpu), "address");
    says(refused(same, Backend::Gloo, Duration::ZERO, Device::Cpu), "timeout");
    says(refused(same, Backend::Gloo, Duration::MAX, Device::Cpu), "timeout");
    says(refused(same, Backend::Gloo, PATIENT, Device::Cuda(0)), "Gloo carries tensors of the CPU");
    says(refused(same, Backend::Nccl, PATIENT, Device::Cpu), "NCCL carries tensors of GPUs");
    if !tch::Cuda::is_available() {
        says(refused(same, Backend::Nccl, PATIENT, Device::Cuda(0)), "NCCL needs a GPU");
    }
    // None of this has kept the port.
    join(&launch(0, 1, port), PATIENT).unwrap().leave().unwrap();
}
