//! Values and gradients of the losses, against plain autograd. `tests/device` compares with the published numbers.
#![allow(clippy::unwrap_used, clippy::expect_used)] // a test may panic, helpers included

mod common;

use common::{assert_close, dense};
use patchmix::loss::Keys;
use patchmix::{Error, MixPlan, SoftTarget, loss};
use proptest::prelude::*;
use tch::{Device, Kind, Tensor};

const CPU: Device = Device::Cpu;

/// A copy that requires a gradient.
fn leaf(tensor: &Tensor) -> Tensor {
    tensor.detach().copy().set_requires_grad(true)
}

fn gradient(loss: &Tensor, leaf: &Tensor) -> Tensor {
    Tensor::run_backward(&[loss], &[leaf], true, false).remove(0)
}

/// The definition, with autograd: `-(1/B) Σ_i Σ_j target[i, j] log softmax(q kᵀ / τ)[i, j]` with normalized rows.
fn plain_loss(q: &Tensor, k: &Tensor, target: &Tensor, temperature: f64) -> Tensor {
    let normalize = |x: &Tensor| x / x.square().sum_dim_intlist(-1, true, None::<Kind>).sqrt();
    let logits = normalize(q).matmul(&normalize(k).tr()) / temperature;
    -(target * logits.log_softmax(-1, None::<Kind>)).sum_dim_intlist(-1, false, None::<Kind>).mean(None::<Kind>)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn value_and_gradient_are_those_of_plain_autograd(
        (rows, columns, width) in (1..40_i64, 1..40_i64, 1..9_i64),
        temperature in 0.05..2.0_f64,
        scale in prop::sample::select(vec![1.0, 1e-3, 1e4]),
        seed in any::<i64>(),
    ) {
        let random = |shape: [i64; 2], nth| {
            let noise = Tensor::arange(shape[0] * shape[1], (Kind::Double, CPU)) * 12.9898 + (seed % 1000 + nth) as f64;
            (noise.sin() * 43758.5453).frac().view(shape)
        };
        let q = leaf(&(random([rows, width], 1) * scale + 1e-6));
        let k = leaf(&(random([columns, width], 2) * scale + 1e-6));
        let target = random([rows, columns], 3).abs(); // rows that do not sum to 1
        let ours = loss::mix_to_origin(&q, &k, &target, temperature).unwrap();
        let plain = plain_loss(&q, &k, &target, temperature);
        let allowed = 1e-9 * plain.double_value(&[]).abs().max(1.0);
        assert_close("value", &ours, &plain, allowed);
        assert_close("gradient", &(gradient(&ours, &q) * scale), &(gradient(&plain, &q) * scale), 1e-8);
        ours.backward();
        prop_assert!(!k.grad().defined(), "keys carry no gradient");
    }
}

/// The gradient is a constant to autograd: differentiating it once more would give a wrong number.
#[test]
fn a_second_derivative_is_an_error() {
    let (q, k) = (leaf(&Tensor::randn([6, 4], (Kind::Double, CPU))), Tensor::randn([6, 4], (Kind::Double, CPU)));
    let loss = loss::origin_to_origin(&q, &k, 0.2).unwrap();
    let (keep_graph, create_graph) = (true, true);
    let gradient = Tensor::run_backward(&[&loss], &[&q], keep_graph, create_graph).remove(0);
    assert_close("gradient", &gradient, &self::gradient(&loss, &q), 0.0);
    let error = gradient.square().sum(None::<Kind>).f_backward().unwrap_err();
    assert!(error.to_string().contains("no second derivative"), "{error}");
}

#[test]
fn a_second_backward_pass_is_an_error() {
    let (q, k) = (leaf(&Tensor::randn([6, 4], (Kind::Double, CPU))), Tensor::randn([6, 4], (Kind::Double, CPU)));
    let loss = loss::origin_to_origin(&q, &k, 0.2).unwrap();
    loss.backward();
    let first = q.grad().copy();
    let error = loss.f_backward().unwrap_err();
    assert!(error.to_string().contains("second time"), "{error}");
    assert_close("gradient", &q.grad(), &first, 0.0);
}

/// A tile on the CPU has 512 queries and 1024 keys.
#[test]
fn tiles_need_not_divide_the_batch() {
    for (kind, tolerance) in [(Kind::Double, 1e-12), (Kind::Float, 1e-6)] {
        let q = leaf(&Tensor::randn([1000, 16], (kind, CPU)));
        let k = Tensor::randn([3000, 16], (kind, CPU));
        let target = Tensor::rand([1000, 3000], (kind, CPU)).softmax(-1, kind);
        let ours = loss::mix_to_mix(&q, &k, &target, 0.2).unwrap();
        let plain = plain_loss(&q, &k, &target, 0.2);
        assert_close("value", &ours, &plain, tolerance * 10.0);
        assert_close("gradient", &gradient(&ours, &q), &gradient(&plain, &q), tolerance);
    }
}

/// All logits of 32,768 queries and keys would take 4 GB, and their gradient as much again.
#[test]
#[cfg(target_os = "linux")]
fn logits_are_never_held_all_at_once() {
    let kilobytes = |line: &str| -> u64 {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let found = status.lines().find_map(|text| text.strip_prefix(line)).unwrap();
        found.split_whitespace().next().unwrap().parse().unwrap()
    };
    let rows = 1 << 15;
    let random = || Tensor::randn([rows, 8], (Kind::Float, CPU));
    let (q, k) = (leaf(&random()), random());
    let targets = MixPlan::random(16, 2, 1).unwrap().targets(rows).unwrap();
    let before = kilobytes("VmHWM:");
    let _ = gradient(&loss::mix_to_mix(&q, &k, &targets.mix_to_mix, 0.2).unwrap(), &q);
    let _ = gradient(&Keys::new(&k).unwrap().squared_distance(&q, &targets.mix_to_mix).unwrap(), &q);
    let growth = kilobytes("VmHWM:") - before;
    assert!(growth < 512_000, "the peak grew by {growth} kB");
}

#[test]
fn sparse_and_dense_targets_agree_for_every_mix() {
    for (patches, groups, stride, batch_size) in [(16, 4, 1, 9), (7, 3, 2, 5), (5, 5, 1, 5), (1, 1, 1, 1)] {
        let plan = MixPlan::random(patches, groups, stride).unwrap();
        let targets = plan.targets(batch_size).and_then(|t| t.smoothed(0.1)?.gathered(1, 3)).unwrap();
        let q = leaf(&Tensor::randn([batch_size, 8], (Kind::Double, CPU)));
        let k = Tensor::randn([3 * batch_size, 8], (Kind::Double, CPU));
        let sparse = loss::mix_to_origin(&q, &k, &targets.mix_to_origin, 0.2).unwrap();
        let plain = loss::mix_to_origin(&q, &k, &dense(&targets.mix_to_origin), 0.2).unwrap();
        assert_close("mix-to-origin", &sparse, &plain, 1e-12);
        assert_close("gradient", &gradient(&sparse, &q), &gradient(&plain, &q), 1e-12);
        let sparse = loss::mix_to_mix(&q, &k, &targets.mix_to_mix, 0.2).unwrap();
        let plain = loss::mix_to_mix(&q, &k, &dense(&targets.mix_to_mix), 0.2).unwrap();
        assert_close("mix-to-mix", &sparse, &plain, 1e-12);
    }
}

/// `(1/B) Σ_i Σ_j target[i, j] |q̂_i - k̂_j|²` and its gradient, from sparse and dense targets, smoothed or not. For
/// plain queries it is the negative-free form: `2 - 2 cos(q_i, k_i)`.
#[test]
fn squared_distances_are_averaged_with_the_weights_of_the_target() {
    for (patches, groups, stride, batch_size) in [(16, 4, 1, 9), (7, 3, 2, 5), (5, 5, 1, 5), (1, 1, 1, 1)] {
        let plan = MixPlan::random(patches, groups, stride).unwrap();
        let targets = plan.targets(batch_size).and_then(|t| t.smoothed(0.1)?.gathered(1, 3)).unwrap();
        let q = leaf(&Tensor::randn([batch_size, 8], (Kind::Double, CPU)));
        let k = leaf(&Tensor::randn([3 * batch_size, 8], (Kind::Double, CPU)));
        let keys = Keys::new(&k).unwrap();
        for target in [&targets.mix_to_origin, &targets.mix_to_mix] {
            let unit = |x: &Tensor| x / x.square().sum_dim_intlist(-1, true, Kind::Double).sqrt();
            let difference = unit(&q).unsqueeze(1) - unit(&k.detach()).unsqueeze(0); // [B, N, D]
            let distance = difference.square().sum_dim_intlist(-1, false, Kind::Double);
            let expected = (dense(target) * distance).sum(Kind::Double) / batch_size as f64;
            let expected_gradient = gradient(&expected, &q);
            for loss in [keys.squared_distance(&q, target), keys.squared_distance(&q, &dense(target))] {
                let loss = loss.unwrap();
                assert_close("loss", &loss, &expected, 1e-12);
                assert_close("gradient", &gradient(&loss, &q), &expected_gradient, 1e-12);
            }
            assert!(!k.grad().defined(), "keys are constants");
        }
        let own = Keys::new(&k.narrow(0, 0, batch_size)).unwrap();
        let identity = SoftTarget::identity(batch_size).unwrap();
        let plain = own.squared_distance(&q, &identity).unwrap();
        let expected = loss::negative_free(&q, &k.narrow(0, 0, batch_size)).unwrap() * 2.0 + 2.0;
        assert_close("plain queries", &plain, &expected, 1e-12);
        let error = own.squared_distance(&q, &targets.mix_to_mix).unwrap_err();
        assert!(matches!(error, Error::Shape { name: "target", .. }), "{error}");
    }
}

#[test]
fn half_precision_is_computed_in_single_precision() {
    let q = Tensor::randn([6, 16], (Kind::Float, CPU));
    let k = Tensor::randn([6, 16], (Kind::Float, CPU));
    for kind in [Kind::Half, Kind::BFloat16] {
        let (q, k) = (leaf(&q.to_kind(kind)), k.to_kind(kind));
        let value = loss::origin_to_origin(&q, &k, 0.2).unwrap();
        assert_eq!(value.kind(), Kind::Float);
        let single = loss::origin_to_origin(&q.to_kind(Kind::Float), &k.to_kind(Kind::Float), 0.2).unwrap();
        assert_close("value", &value, &single, 0.0);
        assert_eq!(gradient(&value, &q).kind(), kind);
    }
}

/// For every loss, from `Float` and from `Double` inputs.
#[test]
fn a_loss_has_the_kind_of_its_inputs() {
    for kind in [Kind::Float, Kind::Double] {
        let (q, k) = (Tensor::randn([4, 3], (kind, CPU)), Tensor::randn([4, 3], (kind, CPU)));
        let losses = [
            loss::origin_to_origin(&q, &k, 0.2),
            loss::mix_to_origin(&q, &k, &Tensor::eye(4, (kind, CPU)), 0.2),
            loss::negative_free(&q, &k),
            Keys::new(&k).unwrap().squared_distance(&q, &SoftTarget::identity(4).unwrap()),
        ];
        for loss in losses {
            assert_eq!(loss.unwrap().kind(), kind);
        }
    }
}

#[test]
fn layout_and_scale_do_not_matter_and_zero_rows_stay_finite() {
    let q = Tensor::randn([6, 16], (Kind::Float, CPU));
    let k = Tensor::randn([6, 16], (Kind::Float, CPU));
    let value = loss::origin_to_origin(&q, &k, 0.2).unwrap();
    let column_major = q.tr().contiguous().tr();
    assert!(!column_major.is_contiguous());
    assert_close("layout", &loss::origin_to_origin(&column_major, &k, 0.2).unwrap(), &value, 1e-6);
    assert_close("scale", &loss::origin_to_origin(&(&q * 1e5), &(&k * 1e-5), 0.2).unwrap(), &value, 1e-5);
    let zero = leaf(&q.zeros_like());
    let value = loss::origin_to_origin(&zero, &k, 0.2).unwrap();
    assert_close("zero queries", &value, &Tensor::from(6f32.ln()), 1e-6);
    assert!(bool::try_from(gradient(&value, &zero).isfinite().all()).unwrap());
}

#[test]
fn invalid_arguments_are_typed_errors() {
    let zeros = |shape: &[i64], kind| Tensor::zeros(shape, (kind, CPU));
    let (q, k) = (zeros(&[4, 8], Kind::Float), zeros(&[4, 8], Kind::Float));
    for temperature in [0.0, -0.2, f64::NAN, f64::INFINITY] {
        let error = loss::origin_to_origin(&q, &k, temperature);
        assert!(matches!(error, Err(Error::Value { name: "temperature", .. })), "{temperature}");
    }
    let shape_error = |result| matches!(result, Err(Error::Shape { .. }));
    assert!(shape_error(loss::origin_to_origin(&q, &zeros(&[5, 8], Kind::Float), 0.2)));
    assert!(shape_error(loss::origin_to_origin(&q, &zeros(&[4, 9], Kind::Float), 0.2)));
    assert!(shape_error(loss::origin_to_origin(&zeros(&[0, 8], Kind::Float), &zeros(&[0, 8], Kind::Float), 0.2)));
    assert!(shape_error(loss::negative_free(&zeros(&[0, 8], Kind::Float), &zeros(&[0, 8], Kind::Float))));
    assert!(shape_error(loss::mix_to_origin(&q, &k, &zeros(&[4, 5], Kind::Float), 0.2)));
    let targets = MixPlan::random(4, 2, 1).and_then(|plan| plan.targets(5)).unwrap();
    assert!(shape_error(loss::mix_to_mix(&q, &k, &targets.mix_to_mix, 0.2)));
    let error = loss::origin_to_origin(&q, &zeros(&[4, 8], Kind::Int64), 0.2);
    assert!(matches!(error, Err(Error::Kind { name: "k", actual: Kind::Int64, .. })));
    let error = loss::mix_to_origin(&q, &k, &zeros(&[4, 4], Kind::Int64), 0.2);
    assert!(matches!(error, Err(Error::Kind { name: "target", .. })));
}
