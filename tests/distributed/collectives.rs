//! Results of collectives, and the gradient of a sum over ranks.

use patchmix::Ranks;
use tch::{Device, Kind, Tensor};

use crate::common::{assert_close, largest_difference};
use crate::rank::ranks;

const DOUBLE: (Kind, Device) = (Kind::Double, Device::Cpu);

/// Numbers that differ between ranks and between elements.
fn numbers(rank: i64, shape: &[i64], kind: Kind) -> Tensor {
    let values: Vec<i64> = (0..shape.iter().product()).map(|element: i64| element % 7 + 10 * rank).collect();
    Tensor::from_slice(&values).view(shape).to_kind(kind)
}

const KINDS: [Kind; 8] =
    [Kind::Half, Kind::BFloat16, Kind::Float, Kind::Double, Kind::Uint8, Kind::Int8, Kind::Int, Kind::Int64];

const SHAPES: [&[i64]; 5] = [&[], &[1], &[5, 3], &[2, 3, 4, 5], &[0, 3]];

#[test]
fn every_rank_gets_the_sum_of_all() {
    for world_size in 1..=3 {
        ranks(world_size, |group| {
            for (kind, shape) in KINDS.into_iter().flat_map(|kind| SHAPES.map(|shape| (kind, shape))) {
                let expected =
                    (1..world_size).fold(numbers(0, shape, kind), |sum, rank| sum + numbers(rank, shape, kind));
                let mut tensor = numbers(group.rank(), shape, kind);
                let sum = group.sum(&tensor).unwrap();
                group.all_reduce(&mut tensor).unwrap();
                assert_eq!((tensor.kind(), sum.kind()), (kind, kind));
                for sum in [tensor, sum] {
                    assert_eq!(largest_difference(&sum, &expected), 0.0, "{world_size} ranks, {kind:?} {shape:?}");
                }
            }
        });
    }
}

#[test]
fn every_rank_gets_the_rows_of_all_in_rank_order() {
    for world_size in 1..=3 {
        ranks(world_size, |group| {
            for (kind, shape) in KINDS.into_iter().flat_map(|kind| SHAPES[1..].iter().map(move |shape| (kind, shape))) {
                let all: Vec<Tensor> = (0..world_size).map(|rank| numbers(rank, shape, kind)).collect();
                let gathered = group.gather(&all[group.rank() as usize]).unwrap();
                assert_eq!(gathered.kind(), kind);
                assert_eq!(largest_difference(&gathered, &Tensor::cat(&all, 0)), 0.0, "{kind:?} {shape:?}");
            }
            let weights = numbers(group.rank(), &[2, 3], Kind::Double).set_requires_grad(true);
            assert!(!group.gather(&weights).unwrap().requires_grad());
        });
    }
}

#[test]
fn every_rank_gets_the_tensor_of_the_sender() {
    ranks(3, |group| {
        for (kind, from_rank) in KINDS.into_iter().flat_map(|kind| [0, 1, 2].map(|rank| (kind, rank))) {
            let mut tensor = numbers(group.rank(), &[5, 3], kind);
            group.broadcast(&mut tensor, from_rank).unwrap();
            assert_eq!(largest_difference(&tensor, &numbers(from_rank, &[5, 3], kind)), 0.0);
        }
    });
}

#[test]
fn tensors_may_have_any_memory_layout() {
    ranks(2, |group| {
        let plain = numbers(group.rank(), &[2, 3, 4, 4], Kind::Float);
        let sum = numbers(0, &[2, 3, 4, 4], Kind::Float) + numbers(1, &[2, 3, 4, 4], Kind::Float);
        // Every rank has another layout of the same shape.
        let mut strided = match group.rank() {
            0 => plain.permute([0, 2, 3, 1]).contiguous().permute([0, 3, 1, 2]),
            _ => Tensor::stack(&[&plain, &plain], 4).select(4, 1),
        };
        let gathered = group.gather(&strided).unwrap();
        assert_eq!(gathered.narrow(0, 2 * group.rank(), 2), plain);
        group.all_reduce(&mut strided).unwrap();
        assert_eq!(strided, sum);
        group.broadcast(&mut strided, 0).unwrap();
        assert_eq!(strided, sum);
        // Its memory holds 1, with the negative bit set.
        let one = Tensor::ones([1], DOUBLE);
        let negated = Tensor::complex(&one, &one).conj().imag();
        assert_eq!(group.gather(&negated).unwrap(), Tensor::full([2], -1.0, DOUBLE));
        // Zeros without memory.
        let zeros = Tensor::internal_efficientzerotensor([2], DOUBLE);
        assert_eq!(group.gather(&zeros).unwrap(), Tensor::zeros([4], DOUBLE));
        assert_eq!(group.sum(&zeros).unwrap(), Tensor::zeros([2], DOUBLE));
        assert!(group.all_reduce(&mut zeros.shallow_clone()).is_err(), "they cannot be written to");
    });
}

#[test]
fn more_rows_than_an_index_counts_are_refused() {
    ranks(2, |group| {
        let error = group.gather(&Tensor::zeros([1 << 62, 0], DOUBLE)).unwrap_err().to_string();
        assert!(error.contains("4611686018427387904 rows of each of 2 ranks are too many"), "{error}");
    });
}

/// Every rank uses the sum differently: with the sum s of all x, the loss of rank r is `(r + 1) * (s^3).sum()`. The
/// gradient of x on every rank is the sum of `(r + 1) * 3 s^2` over all ranks r.
#[test]
fn the_gradient_of_a_sum_reaches_every_rank() {
    for world_size in 1..=3 {
        let part = |rank: i64| (numbers(rank, &[4, 3], Kind::Double) / 10.0).sin();
        let loss = |sum: &Tensor, rank: i64| sum.pow_tensor_scalar(3).sum(Kind::Double) * (rank + 1);
        // The same in a single process.
        let parts: Vec<Tensor> = (0..world_size).map(|rank| part(rank).set_requires_grad(true)).collect();
        let sum = parts.iter().fold(Tensor::zeros([4, 3], DOUBLE), |sum, part| sum + part);
        (0..world_size).fold(Tensor::zeros([], DOUBLE), |total, rank| total + loss(&sum, rank)).backward();
        let expected: Vec<Tensor> = parts.iter().map(Tensor::grad).collect();

        let gradients = ranks(world_size, |group| {
            let own = part(group.rank()).set_requires_grad(true);
            loss(&group.sum(&own).unwrap(), group.rank()).backward();
            own.grad()
        });
        for (gradient, expected) in gradients.iter().zip(&expected) {
            assert_close("gradient", gradient, expected, 1e-12);
        }
    }
}

#[test]
fn second_derivatives_cross_ranks_too() {
    ranks(2, |group| {
        let x = Tensor::full([1], 2.0 + group.rank() as f64, DOUBLE).set_requires_grad(true);
        // s = x0 + x1 = 5, and the loss of each rank is s^3. The gradient is 2 * 3 s^2, and its gradient 2 * 2 * 6 s.
        let loss = group.sum(&x).unwrap().pow_tensor_scalar(3);
        let first = Tensor::run_backward(&[loss], &[&x], true, true).remove(0);
        assert_eq!(first.double_value(&[0]), 150.0);
        first.backward();
        assert_eq!(x.grad().double_value(&[0]), 120.0);
    });
}

#[test]
fn gradient_crosses_ranks_after_leaving_the_group() {
    ranks(2, |group| {
        let x = Tensor::ones([3], DOUBLE).set_requires_grad(true);
        let sum = group.sum(&x).unwrap();
        group.leave().unwrap();
        sum.sum(Kind::Double).backward();
        assert_eq!(x.grad(), Tensor::full([3], 2.0, DOUBLE));
    });
}

#[test]
fn autograd_notices_an_overwritten_tensor() {
    ranks(2, |group| {
        let x = Tensor::ones([3], DOUBLE).set_requires_grad(true);
        let mut saved = &x * 2.0;
        let loss = saved.square().sum(Kind::Double); // its gradient needs `saved`
        group.all_reduce(&mut saved).unwrap();
        assert!(loss.f_backward().unwrap_err().to_string().contains("modified by an inplace operation"));
    });
}

#[test]
fn gradients_of_any_shape_are_averaged_in_place() {
    let shapes: [&[i64]; 5] = [&[4, 3], &[], &[7], &[0], &[2, 2, 2]];
    ranks(3, |group| {
        // The second round reuses the buffer of the first; the third has fewer tensors.
        for (round, shapes) in [(0, &shapes[..]), (1, &shapes[..]), (2, &shapes[..3])] {
            let gradient = |rank: i64, shape: &[i64]| numbers(rank + round, shape, Kind::Double);
            let own: Vec<Tensor> = shapes.iter().map(|shape| gradient(group.rank(), shape)).collect();
            group.average(&own).unwrap();
            for (averaged, shape) in own.iter().zip(shapes) {
                let average = (gradient(0, shape) + gradient(1, shape) + gradient(2, shape)) / 3.0;
                assert_close("average", averaged, &average, 1e-12);
            }
        }
        group.average(&[]).unwrap();
    });
}

#[test]
fn collectives_work_without_the_exchange() {
    ranks(3, |group| {
        group.trust_ranks().unwrap();
        let numbers_of = |rank: i64| numbers(rank, &[2, 3], Kind::Float);
        let mut sum = numbers_of(group.rank());
        group.all_reduce(&mut sum).unwrap();
        assert_eq!(sum, numbers_of(0) + numbers_of(1) + numbers_of(2));
        let rows = Tensor::cat(&[numbers_of(0), numbers_of(1), numbers_of(2)], 0);
        assert_eq!(group.gather(&numbers_of(group.rank())).unwrap(), rows);
        assert_eq!(group.numbers(group.rank()).unwrap(), [0, 1, 2]);
        group.leave().unwrap();
    });
}

#[test]
fn a_barrier_waits_for_the_last_rank() {
    let start = std::time::Instant::now();
    ranks(3, |group| {
        let delay = std::time::Duration::from_millis(300);
        if group.rank() == 1 {
            std::thread::sleep(delay);
        }
        group.barrier().unwrap();
        assert!(start.elapsed() >= delay);
        group.leave().unwrap();
    });
}

#[test]
fn every_rank_gets_the_number_of_each() {
    for world_size in 1..=3 {
        ranks(world_size, |group| {
            for number in [i64::MIN, 7, i64::MAX] {
                let own = number.wrapping_add(group.rank());
                let expected: Vec<i64> = (0..world_size).map(|rank| number.wrapping_add(rank)).collect();
                assert_eq!(group.numbers(own).unwrap(), expected);
            }
            // Only tensors are counted.
            assert_eq!(group.bytes_sent(), patchmix::distributed::Bytes::default());
        });
    }
}

#[test]
fn bytes_are_counted_per_collective() {
    ranks(2, |group| {
        let numbers = || Tensor::ones([5, 2], (Kind::Float, Device::Cpu)); // 40 bytes
        group.all_reduce(&mut numbers()).unwrap();
        group.average(&[numbers(), numbers()]).unwrap();
        group.sum(&numbers().set_requires_grad(true)).unwrap().sum(Kind::Float).backward(); // forward and backward
        drop(group.gather(&numbers().to_kind(Kind::Half)).unwrap());
        group.broadcast(&mut numbers(), 1).unwrap();
        group.barrier().unwrap();
        let bytes = group.bytes_sent();
        assert_eq!((bytes.all_reduce, bytes.all_gather, bytes.broadcast), (40 + 80 + 80, 20, 40));
    });
}
