//! Each layer computes what its formula says, with the gradients of the formula, whatever the shapes and the layout.

use proptest::prelude::*;
use tch::{Device, Kind, Tensor};

use super::super::add_norm::{AddNorm, add_norm};
use super::*;

const KINDS: [Kind; 2] = [Kind::Float, Kind::BFloat16];

/// Arguments of a layer: its input in `kind`, which is not contiguous if `strided`, and its weights in `Float`.
fn arguments(sizes: &[&[i64]], kind: Kind, strided: bool) -> Vec<Tensor> {
    let made = sizes.iter().enumerate().map(|(index, size)| {
        let mut wide = size.to_vec();
        if strided && index == 0 {
            wide[0] *= 2;
        }
        let numbers = Tensor::randn(&wide[..], (Kind::Float, Device::Cpu));
        let numbers = if index == 0 { numbers.to_kind(kind) } else { numbers };
        let _leaf = numbers.set_requires_grad(true);
        if strided && index == 0 { numbers.slice(0, None, None, 2) } else { numbers }
    });
    made.collect()
}

/// The result of `layer` and its gradients with respect to all arguments, for a given gradient of the result.
fn with_gradients(layer: &dyn Fn(&[Tensor]) -> Tensor, arguments: &[Tensor], gradient: &Tensor) -> Vec<Tensor> {
    let result = layer(arguments);
    let scalar = (&result * gradient.to_kind(result.kind())).sum(result.kind());
    let mut all = Tensor::run_backward(&[scalar], arguments, false, false);
    all.push(result.detach());
    all
}

/// The largest error of each tensor, as a share of its largest number.
fn errors(actual: &[Tensor], exact: &[Tensor]) -> Vec<f64> {
    let error = |(actual, exact): (&Tensor, &Tensor)| {
        assert_eq!(actual.size(), exact.size());
        let difference = (actual.to_kind(Kind::Double) - exact).abs().max();
        f64::try_from(difference / (exact.abs().max() + 1e-6)).unwrap()
    };
    actual.iter().zip(exact).map(error).collect()
}

/// Compares `own` with `formula` computed in `Double`: as exact as `Float` is, or in `BFloat16` nearly as exact as
/// libtorch's operations in that kind.
fn assert_computes(
    own: &dyn Fn(&[Tensor]) -> Option<Tensor>,
    formula: &dyn Fn(&[Tensor]) -> Tensor,
    sizes: &[&[i64]],
    kind: Kind,
    strided: bool,
) {
    tch::manual_seed(sizes.concat().iter().sum());
    let arguments = arguments(sizes, kind, strided);
    if own(&arguments).is_none() {
        assert_eq!(kind, Kind::BFloat16, "{sizes:?} is not supported"); // by a processor without its instructions
        return;
    }
    let cast = |kind| -> Vec<Tensor> {
        arguments.iter().map(|tensor| tensor.detach().to_kind(kind).set_requires_grad(true)).collect()
    };
    let gradient = own(&arguments).unwrap().randn_like().to_kind(Kind::Double);
    let gradient = gradient.to_kind(kind).to_kind(Kind::Double); // the same for all
    let exact = with_gradients(formula, &cast(Kind::Double), &gradient);
    let plain = errors(&with_gradients(formula, &cast(kind), &gradient), &exact);
    let actual = errors(&with_gradients(&|all| own(all).unwrap(), &arguments, &gradient), &exact);
    let slack = if kind == Kind::Float { 2e-5 } else { 0.01 };
    for (place, (actual, plain)) in actual.iter().zip(&plain).enumerate() {
        assert!(*actual <= 2.0 * plain + slack, "{kind:?}, {sizes:?}, {place}: {actual:e}, libtorch {plain:e}");
    }
}

/// Without the kind conversions that libtorch's operations need.
fn linear_formula(all: &[Tensor]) -> Tensor {
    all[0].linear(&all[1], all.get(2))
}

fn weights<'a>(weight: &'a Tensor, bias: &'a Tensor) -> LinearWeights<'a> {
    LinearWeights { weight, bias: Some(bias) }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    /// x Wᵀ + b, also of many rows, which are computed in chunks.
    #[test]
    fn a_linear_layer(rows in 1..1500_i64, inputs in 1..70_i64, outputs in 1..70_i64, strided in any::<bool>()) {
        let own = |all: &[Tensor]| linear(&all[0], weights(&all[1], &all[2])).unwrap();
        let sizes: [&[i64]; 3] = [&[rows, inputs], &[outputs, inputs], &[outputs]];
        for kind in KINDS {
            assert_computes(&own, &linear_formula, &sizes, kind, strided);
            let unbiased = |all: &[Tensor]| {
                linear(&all[0], LinearWeights { weight: &all[1], bias: None }).unwrap()
            };
            assert_computes(&unbiased, &linear_formula, &sizes[..2], kind, strided);
        }
    }

    /// GELU(x W₁ᵀ + b₁) W₂ᵀ + b₂.
    #[test]
    fn a_perceptron(images in 1..9_i64, tokens in 1..150_i64, width in 1..40_i64, hidden in 1..90_i64,
                    strided in any::<bool>()) {
        let own = |all: &[Tensor]| perceptron(&all[0], weights(&all[1], &all[2]), weights(&all[3], &all[4])).unwrap();
        let formula = |all: &[Tensor]| {
            all[0].linear(&all[1], Some(&all[2])).gelu("none").linear(&all[3], Some(&all[4]))
        };
        let sizes: [&[i64]; 5] =
            [&[images, tokens, width], &[hidden, width], &[hidden], &[width, hidden], &[width]];
        for kind in KINDS {
            assert_computes(&own, &formula, &sizes, kind, strided);
        }
    }

    /// Queries, keys and values of each head, as libtorch's views of the same numbers.
    #[test]
    fn parts_split_by_head(images in 1..4_i64, tokens in 1..30_i64, heads in 1..4_i64, depth in 1..20_i64) {
        let own = |all: &[Tensor]| {
            let parts = split_heads::<3>(&all[0].contiguous(), heads).unwrap()?;
            Some(Tensor::stack(&parts, 0))
        };
        let formula = |all: &[Tensor]| {
            let parts = all[0].view([images, tokens, 3, heads, depth]);
            parts.permute([2, 0, 3, 1, 4]).contiguous()
        };
        for kind in KINDS {
            assert_computes(&own, &formula, &[&[images, tokens, 3 * heads * depth]], kind, false);
        }
    }

    /// softmax(Q Kᵀ / √d) V in each head.
    #[test]
    fn attention_of_all_heads(images in 1..4_i64, tokens in 1..300_i64, heads in 1..4_i64, half in 1..36_i64,
                              strided in any::<bool>()) {
        let width = 2 * half; // an odd one has no instructions in BFloat16
        let own = |all: &[Tensor]| attention(&all[0], heads).unwrap();
        let formula = |all: &[Tensor]| {
            let parts = all[0].reshape([images, tokens, 3, heads, width]).permute([2, 0, 3, 1, 4]).unbind(0);
            let logits = parts[0].matmul(&parts[1].transpose(2, 3)) / (width as f64).sqrt();
            let attended = logits.softmax(3, all[0].kind()).matmul(&parts[2]);
            attended.transpose(1, 2).reshape([images, tokens, heads * width])
        };
        for kind in KINDS {
            assert_computes(&own, &formula, &[&[images, tokens, 3 * heads * width]], kind, strided);
        }
    }

    /// The sum of tokens and kept branches, and its layer norm: values and gradients.
    #[test]
    fn a_residual_and_its_norm(images in 1..5_i64, tokens in 1..60_i64, width in 2..100_i64, strided in any::<bool>(),
                               drops in any::<bool>()) {
        let kept = drops.then(|| {
            Tensor::from_slice(&[0.0_f32, 1.25, 1.25, 1.25]).narrow(0, 0, images).view([images, 1, 1])
        });
        for kind in KINDS {
            // Sum and norm side by side, in the kind of the branch.
            let own = |all: &[Tensor]| {
                let [branch, tokens, weight, bias] = all else { unreachable!("four arguments") };
                let parts = AddNorm { tokens, branch, kept: kept.as_ref(), weight, bias, epsilon: 1e-6 };
                let (sum, normed) = add_norm(parts).unwrap()?;
                assert_eq!((sum.kind(), normed.kind()), (Kind::Float, kind));
                Some(Tensor::cat(&[sum.to_kind(kind), normed], 2))
            };
            let formula = |all: &[Tensor]| {
                let branch = match &kept {
                    Some(kept) => &all[0] * kept.to_kind(all[0].kind()),
                    None => all[0].shallow_clone(),
                };
                let sum = &all[1] + branch;
                let normed = sum.layer_norm([width], Some(&all[2]), Some(&all[3]), 1e-6, false);
                Tensor::cat(&[sum, normed], 2)
            };
            let size: &[i64] = &[images, tokens, width];
            assert_computes(&own, &formula, &[size, size, &[width], &[width]], kind, strided);
        }
    }
}

/// What is large does not overflow, and what is not a number stays none.
#[test]
fn attention_of_large_and_of_missing_numbers() {
    let parts = Tensor::full([1, 5, 12], 300.0, (Kind::Float, Device::Cpu));
    let attended = attention(&parts, 2).unwrap().unwrap();
    assert_eq!(f64::try_from((attended - 300.0).abs().max()).unwrap(), 0.0);
    let _filled = parts.narrow(1, 2, 1).narrow(2, 0, 1).fill_(f64::NAN); // in a query of the first head
    let attended = attention(&parts, 2).unwrap().unwrap().isnan();
    assert_eq!(attended.narrow(1, 2, 1).narrow(2, 0, 2).sum(Kind::Int64).int64_value(&[]), 2);
    assert_eq!(attended.sum(Kind::Int64).int64_value(&[]), 2);
    let missing = Tensor::full([3, 4], f64::NAN, (Kind::Float, Device::Cpu));
    let (weight, bias) =
        (Tensor::ones([4, 4], (Kind::Float, Device::Cpu)), Tensor::zeros([4], (Kind::Float, Device::Cpu)));
    let made = perceptron(&missing, weights(&weight, &bias), weights(&weight, &bias)).unwrap().unwrap();
    assert!(bool::try_from(made.isnan().all()).unwrap());
}

/// The gradient of attention that looks at one token only, however large its logits are, is that of a copy.
#[test]
fn attention_with_large_logits_has_exact_gradients() {
    let mut numbers = vec![0.0_f32; 3 * 12]; // 3 tokens; queries, keys and values of width 4
    for token in 0..3 {
        numbers[12 * token] = 3e4;
        numbers[12 * token + 4] = if token == 1 { 3e4 } else { -3e4 };
        numbers[12 * token + 8] = token as f32;
    }
    for kind in KINDS {
        let parts = Tensor::from_slice(&numbers).view([1, 3, 12]).to_kind(kind).set_requires_grad(true);
        let Some(attended) = attention(&parts, 1).unwrap() else { continue };
        attended.sum(Kind::Float).backward();
        let gradient = parts.grad().to_kind(Kind::Float);
        let of_values = Vec::<f32>::try_from(gradient.narrow(2, 8, 1).flatten(0, -1)).unwrap();
        assert_eq!(of_values[1], 3.0); // all three look at the second
        assert!(of_values[0] < 1e-30 && of_values[2] < 1e-30, "{of_values:?}");
        assert!(f64::try_from(gradient.narrow(2, 0, 8).abs().max()).unwrap() < 1e-25); // of queries and keys
    }
}

/// What a layer returns may be changed in place, like what libtorch's layers return.
#[test]
fn outputs_may_be_changed_in_place() {
    let all = arguments(&[&[3, 4], &[5, 4], &[5]], Kind::Float, false);
    let mut outputs = linear(&all[0], weights(&all[1], &all[2])).unwrap().unwrap();
    outputs.f_mul_scalar_(2.0).unwrap().sum(Kind::Float).backward();
    assert_eq!(Vec::<f32>::try_from(all[2].grad()).unwrap(), [6.0; 5]); // 3 rows, times 2
}

/// Frozen weights get no gradient, and the others the same as when none is frozen.
#[test]
fn frozen_weights_get_no_gradient() {
    let sizes: [&[i64]; 5] = [&[300, 8], &[16, 8], &[16], &[8, 16], &[8]];
    tch::manual_seed(1);
    let all = arguments(&sizes, Kind::Float, false);
    let layer = |all: &[Tensor]| {
        let first = linear(&all[0], weights(&all[1], &all[2])).unwrap().unwrap();
        let second = perceptron(&all[0], weights(&all[1], &all[2]), weights(&all[3], &all[4])).unwrap().unwrap();
        first.sum(Kind::Float) + (&second * &second).sum(Kind::Float)
    };
    layer(&all).backward();
    let gradients: Vec<Tensor> = all.iter().map(|tensor| tensor.grad().copy()).collect();
    for frozen in 0..all.len() {
        let again: Vec<Tensor> =
            all.iter().enumerate().map(|(index, tensor)| tensor.detach().set_requires_grad(index != frozen)).collect();
        layer(&again).backward();
        for (index, (tensor, gradient)) in again.iter().zip(&gradients).enumerate() {
            assert_eq!(tensor.grad().defined(), index != frozen);
            if index != frozen {
                assert!(tensor.grad().allclose(gradient, 1e-5, 1e-4, false), "{frozen} frozen: {index}");
            }
        }
    }
}

/// A gradient that is to be differentiated again is refused, with what to do instead.
#[test]
fn a_second_derivative_is_refused() {
    let all = arguments(&[&[3, 4], &[5, 4], &[5]], Kind::Float, false);
    let made = linear(&all[0], weights(&all[1], &all[2])).unwrap().unwrap();
    let error = Tensor::f_run_backward(&[(&made * &made).sum(Kind::Float)], &all, true, true).unwrap_err().to_string();
    assert!(error.contains("allow_own_kernels(false)"), "{error}");
}

/// Kinds and shapes that the layers are not written for are left to libtorch.
#[test]
fn other_arguments_are_left_alone() {
    let tensor = |size: &[i64], kind| Tensor::ones(size, (kind, Device::Cpu));
    let (weight, bias) = (tensor(&[5, 4], Kind::Float), tensor(&[5], Kind::Float));
    let is_left = |x: &Tensor, weight: &Tensor| linear(x, weights(weight, &bias)).unwrap().is_none();
    assert!(!is_left(&tensor(&[3, 4], Kind::Float), &weight));
    assert!(is_left(&tensor(&[3, 4], Kind::Double), &weight));
    assert!(is_left(&tensor(&[0, 4], Kind::Float), &weight));
    assert!(is_left(&tensor(&[3, 6], Kind::Float), &weight));
    assert!(is_left(&tensor(&[3, 4], Kind::Float), &weight.to_kind(Kind::Double)));
    assert!(attention(&tensor(&[2, 5, 12], Kind::Float), 3).unwrap().is_none()); // 12 is not a multiple of 9
}

/// While casts are kept, a layer computes with the first cast of its weight; before and after, with the weight.
#[test]
fn weights_are_cast_once_while_casts_are_kept() {
    let x = Tensor::ones([2, 4], (Kind::BFloat16, Device::Cpu));
    let mut weight = Tensor::ones([3, 4], (Kind::Float, Device::Cpu));
    let sum = |weight: &Tensor| {
        let outputs = linear(&x, LinearWeights { weight, bias: None }).unwrap().unwrap();
        f64::try_from(outputs.sum(Kind::Double)).unwrap()
    };
    {
        let _outer = CastsOnce::begin();
        assert_eq!(sum(&weight), 24.0);
        let _ = weight.fill_(2.0);
        {
            let _inner = CastsOnce::begin();
            assert_eq!(sum(&weight), 24.0);
            assert_eq!(sum(&weight.narrow(0, 0, 1)), 16.0, "a part of the weight is another one");
        }
        assert_eq!(sum(&weight), 24.0);
    }
    assert_eq!(sum(&weight), 48.0);
}

/// The gradient of split parts has a gradient itself: x³ has 3x², and that has 6x.
#[test]
fn split_parts_have_second_derivatives() {
    let parts = Tensor::randn([2, 3, 12], (Kind::Float, Device::Cpu)).set_requires_grad(true);
    let [query] = split_heads::<1>(&parts, 2).unwrap().unwrap();
    let cubes = (&query * &query * &query).sum(Kind::Float);
    let first = Tensor::run_backward(&[cubes], &[&parts], true, true);
    let second = Tensor::run_backward(&[first[0].sum(Kind::Float)], &[&parts], false, false);
    assert!(second[0].allclose(&(&parts * 6.0), 1e-5, 1e-5, false));
}
