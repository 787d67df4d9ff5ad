//! The provided methods of `Ranks`, against brute force over all ranks.

use patchmix::{Error, Ranks};
use tch::{Device, Kind, Tensor};

use crate::threads::run;

const SHAPES: [&[i64]; 4] = [&[4, 3], &[], &[7], &[0, 2]];

/// Numbers that differ between ranks and between elements.
fn numbers(rank: i64, shape: &[i64], kind: Kind) -> Tensor {
    let values: Vec<i64> = (0..shape.iter().product()).map(|element: i64| element % 5 + 3 * rank).collect();
    Tensor::from_slice(&values).view(shape).to_kind(kind)
}

#[test]
fn tensors_are_averaged_in_place() {
    for (world_size, kind) in [(1, Kind::Double), (2, Kind::Float), (3, Kind::Double)] {
        run(vec![(); world_size as usize], |rank, ()| {
            let own: Vec<Tensor> = SHAPES.iter().map(|shape| numbers(rank.rank(), shape, kind)).collect();
            rank.average(&own).unwrap();
            for (average, shape) in own.iter().zip(SHAPES) {
                let sum: Tensor = (0..world_size).map(|rank| numbers(rank, shape, kind)).sum();
                assert_eq!(*average, sum / world_size as f64);
                assert_eq!(average.kind(), kind);
            }
            rank.average(&[]).unwrap();
        });
    }
}

/// As with gradients of weights: a leaf that requires a gradient is overwritten, and no graph is recorded.
#[test]
fn averaging_and_broadcasting_record_no_graph() {
    run(vec![(); 2], |rank, ()| {
        let weight = numbers(rank.rank(), &[3], Kind::Double).set_requires_grad(true);
        rank.average(&[weight.shallow_clone()]).unwrap();
        assert!(weight.is_leaf());
        assert_eq!(weight.detach(), Tensor::from_slice(&[1.5, 2.5, 3.5]));
        let mut weight = numbers(rank.rank(), &[3], Kind::Double).set_requires_grad(true);
        rank.broadcast(&mut weight, 1).unwrap();
        assert!(weight.is_leaf());
        assert_eq!(weight.detach(), Tensor::from_slice(&[3.0, 4.0, 5.0]));
    });
}

#[test]
fn a_broadcast_copies_the_tensor_of_the_sender() {
    run(vec![(); 3], |rank, ()| {
        for from_rank in 0..3 {
            for (shape, kind) in SHAPES.into_iter().flat_map(|shape| [(shape, Kind::Float), (shape, Kind::Int64)]) {
                let mut tensor = numbers(rank.rank(), shape, kind);
                let alias = tensor.shallow_clone();
                rank.broadcast(&mut tensor, from_rank).unwrap();
                assert_eq!(tensor, numbers(from_rank, shape, kind));
                assert_eq!(alias, tensor, "in place");
            }
        }
    });
}

#[test]
fn every_rank_gets_the_number_of_each() {
    for world_size in 1..=3 {
        run(vec![(); world_size as usize], |rank, ()| {
            for number in [i64::MIN, 7, i64::MAX] {
                let expected: Vec<i64> = (0..world_size).map(|rank| number.wrapping_add(rank)).collect();
                assert_eq!(rank.numbers(number.wrapping_add(rank.rank())).unwrap(), expected);
            }
        });
    }
}

#[test]
fn a_barrier_waits_for_the_last_rank() {
    let delay = std::time::Duration::from_millis(200);
    let start = std::time::Instant::now();
    run(vec![(); 3], |rank, ()| {
        if rank.rank() == 1 {
            std::thread::sleep(delay);
        }
        rank.barrier().unwrap();
        assert!(start.elapsed() >= delay);
        rank.trust_ranks().unwrap();
    });
}

#[test]
fn wrong_arguments_are_refused_before_another_rank_is_asked() {
    run(vec![(); 2], |rank, ()| {
        if rank.rank() == 1 {
            return;
        }
        let mut tensor = Tensor::zeros([2], (Kind::Float, Device::Cpu));
        for from_rank in [-1, 2] {
            let error = rank.broadcast(&mut tensor, from_rank).unwrap_err();
            assert!(matches!(error, Error::Value { name: "from_rank", actual, .. } if actual == from_rank as f64));
        }
        let good = Tensor::from_slice(&[1.0, 2.0]);
        let error = rank.average(&[good.shallow_clone(), tensor.to_kind(Kind::Int64)]).unwrap_err();
        assert!(matches!(error, Error::Kind { name: "tensors", actual: Kind::Int64, .. }));
        let error = rank.average(&[good.shallow_clone(), Tensor::new()]).unwrap_err();
        assert!(matches!(error, Error::Undefined { name: "tensors" }));
        assert_eq!(good, Tensor::from_slice(&[1.0, 2.0]), "nothing is averaged");
        assert!(matches!(rank.broadcast(&mut Tensor::new(), 0), Err(Error::Undefined { name: "tensor" })));
    });
}
