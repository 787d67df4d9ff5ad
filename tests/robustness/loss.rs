//! The losses, with any tensors and temperatures.

use approx::assert_abs_diff_eq;
use patchmix::loss::{mix_to_mix, mix_to_origin, negative_free, origin_to_origin, soft_cross_entropy};
use patchmix::{Error, MixPlan, SoftTarget};
use proptest::prelude::*;
use tch::{Kind, Tensor};

use crate::any::*;
use crate::typed;

/// Queries, keys and a dense target, which mostly fit together, and the batch size.
fn arguments() -> impl Strategy<Value = (AnyTensor, AnyTensor, AnyTensor, i64)> {
    (sizes(), sizes(), prop_oneof![3 => Just(None), 1 => sizes().prop_map(Some)]).prop_flat_map(
        |(batch, width, keys)| {
            let keys = keys.unwrap_or(batch);
            (mostly(&[batch, width]), mostly(&[keys, width]), mostly(&[batch, keys]), Just(batch))
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]
    #[test]
    fn losses_take_anything((q, k, target, batch_size) in arguments(), temperature in floats()) {
        let (queries, keys, dense) = (q.make(), k.make(), target.make());
        let mut losses = vec![
            ("origin_to_origin", typed("origin_to_origin", || origin_to_origin(&queries, &keys, temperature))),
            ("mix_to_origin", typed("mix_to_origin", || mix_to_origin(&queries, &keys, &dense, temperature))),
            ("mix_to_mix", typed("mix_to_mix", || mix_to_mix(&queries, &keys, &dense, temperature))),
            ("negative_free", typed("negative_free", || negative_free(&queries, &keys))),
        ];
        if let Ok(targets) = MixPlan::random(4, 2, 1).and_then(|plan| plan.targets(batch_size)) {
            let target = &targets.mix_to_origin;
            losses.push(("sparse", typed("sparse", || mix_to_origin(&queries, &keys, target, temperature))));
        }
        if let Ok(identity) = SoftTarget::identity(batch_size) {
            losses.push(("soft", typed("soft", || soft_cross_entropy(&queries, &keys, &identity, temperature))));
        }
        for (name, loss) in losses {
            let Ok(loss) = loss else { continue };
            prop_assert!(q.is_small() && k.is_small(), "{name} of a huge or undefined tensor");
            prop_assert_eq!(loss.size(), Vec::<i64>::new());
            let value = loss.double_value(&[]);
            let all_finite = |tensor: &Tensor| tensor.isfinite().all().int64_value(&[]) == 1;
            let finite = all_finite(&queries) && all_finite(&keys);
            // To libtorch, the product of NaN and a zero without memory is 0.
            let without_memory = [&q, &k].iter().any(|tensor| tensor.layout == Layout::WithoutMemory);
            if !finite {
                prop_assert!(value.is_nan() || without_memory, "{name}: {value} of NaN or infinity");
            } else if q.is_usual() && k.is_usual() && target.is_usual() && temperature > 1e-3 {
                prop_assert!(value.is_finite(), "{name}: {value}");
            }
            if loss.requires_grad() {
                typed("backward", || loss.f_backward()).unwrap();
                prop_assert_eq!(queries.grad().size(), queries.size());
                prop_assert!(!keys.requires_grad() || !keys.grad().defined());
                if finite && q.is_usual() && k.is_usual() && target.is_usual() && temperature > 1e-3 {
                    prop_assert!(all_finite(&queries.grad()), "gradient of {}", name);
                }
            }
        }
    }
}

#[test]
fn undefined_arguments_are_named() {
    let (rows, undefined) = (Tensor::ones([2, 3], (Kind::Float, CPU)), Tensor::new());
    assert!(matches!(origin_to_origin(&undefined, &rows, 0.2), Err(Error::Undefined { name: "q" })));
    assert!(matches!(negative_free(&rows, &undefined), Err(Error::Undefined { name: "k" })));
    assert!(matches!(mix_to_mix(&rows, &rows, &undefined, 0.2), Err(Error::Undefined { name: "target" })));
}

/// The square of the length overflows single precision, but the direction of the row is well defined.
#[test]
fn the_length_of_rows_does_not_matter() {
    let (q, k) = (Tensor::rand([5, 8], (Kind::Float, CPU)), Tensor::rand([5, 8], (Kind::Float, CPU)));
    let loss = |scale: f64| origin_to_origin(&(&q * scale), &(&k * scale), 0.2).unwrap().double_value(&[]);
    for scale in [1e-4, 1e25, 1e37] {
        assert_abs_diff_eq!(loss(scale), loss(1.0), epsilon = 1e-5);
    }
}

#[test]
fn empty_arguments_are_named() {
    let (rows, no_rows) = (Tensor::ones([2, 3], (Kind::Float, CPU)), Tensor::ones([0, 3], (Kind::Float, CPU)));
    let no_columns = Tensor::ones([2, 0], (Kind::Float, CPU));
    assert!(matches!(mix_to_mix(&rows, &no_rows, &no_columns, 0.2), Err(Error::Shape { name: "k", .. })));
    assert!(matches!(origin_to_origin(&no_columns, &no_columns, 0.2), Err(Error::Shape { name: "q", .. })));
}
