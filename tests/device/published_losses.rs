//! Values and gradients of the losses, against the published implementation.

use approx::relative_eq;
use patchmix::{MixPlan, SoftTarget, loss};
use tch::{Kind, Tensor};

use crate::common::Golden;
use crate::turn::{Turn, assert_near};

fn gradient(loss: &Tensor, leaf: &Tensor) -> Tensor {
    Tensor::run_backward(&[loss], &[leaf], true, false).remove(0)
}

#[track_caller]
fn assert_relative(what: &str, actual: &Tensor, expected: f64, tolerance: f64) {
    let actual = actual.double_value(&[]);
    assert!(
        relative_eq!(actual, expected, epsilon = 0.0, max_relative = tolerance),
        "{what}: {actual}, published {expected}"
    );
}

/// `L = -(1/B) Σ_i Σ_j target[i, j] log softmax(q̂ k̂ᵀ / τ)[i, j]`, for the pairs (q1, k2), (m_q2, k1), (m_q2, m_k1),
/// and `total = src + mix/2 + mix2/2`, with dense targets.
#[test]
fn values_and_gradients_equal_the_published_ones() {
    let turn = Turn::take();
    for golden in Golden::all("loss_") {
        for (kind, suffix, value_tolerance, gradient_tolerance) in
            [(Kind::Double, "_f64", 1e-6, 1e-9), (Kind::Float, "", 1e-5, 1e-6)]
        {
            let of_kind = |key: &str| turn.put(golden.tensor(key), kind);
            let expected_loss = |key: &str| golden.number(&format!("loss_{key}_f64"));
            let temperature = golden.setting("temperature");
            let (q1, m_q2) = (of_kind("q1").set_requires_grad(true), of_kind("m_q2").set_requires_grad(true));
            let (k1, k2, m_k1) = (of_kind("k1"), of_kind("k2"), of_kind("m_k1"));
            let source = loss::mix_to_origin(&q1, &k2, &of_kind("target_src"), temperature).unwrap();
            let mix = loss::mix_to_origin(&m_q2, &k1, &of_kind("target_mix"), temperature).unwrap();
            let mix2 = loss::mix_to_mix(&m_q2, &m_k1, &of_kind("target_mix2"), temperature).unwrap();
            let total = &source + (&mix + &mix2) / 2.0;
            for (key, value, of) in [("src", &source, &q1), ("mix", &mix, &m_q2), ("mix2", &mix2, &m_q2)] {
                let what = format!("{} {key} {kind:?}", golden.name);
                assert_eq!((value.kind(), value.device()), (kind, turn.device));
                assert_relative(&what, value, expected_loss(key), value_tolerance);
                let expected = golden.tensor(&format!("grad_q_{key}{suffix}"));
                assert_near(&what, &gradient(value, of), expected, gradient_tolerance);
            }
            let what = format!("{} total {kind:?}", golden.name);
            assert_relative(&what, &total, expected_loss("total"), value_tolerance);
            for (key, of) in [("grad_q1_total", &q1), ("grad_m_q2_total", &m_q2)] {
                let expected = golden.tensor(&format!("{key}{suffix}"));
                assert_near(&what, &gradient(&total, of), expected, gradient_tolerance);
            }
        }
    }
}

/// The same files with sparse targets from a plan: shares 1/M and (M - |d|)/M², smoothed and gathered.
#[test]
fn sparse_targets_give_the_published_values() {
    let turn = Turn::take();
    let mut compared = 0;
    for golden in Golden::all("loss_") {
        if golden.name.contains("collide") {
            continue; // its published targets do not sum to 1
        }
        let of = |key: &str| turn.put(golden.tensor(key), Kind::Double);
        let (batch_size, groups) = (golden.setting::<i64>("N"), golden.setting::<i64>("m"));
        let temperature = golden.setting("temperature");
        let world_size = golden.tensor("k1").size()[0] / batch_size;
        let rank = golden.setting::<i64>("rank");
        let targets = MixPlan::random(groups, groups, 1)
            .and_then(|plan| plan.targets(batch_size)?.gathered(rank, world_size))
            .and_then(|targets| targets.smoothed(golden.setting("smoothing_mix")))
            .unwrap();
        let identity = SoftTarget::identity(batch_size)
            .and_then(|target| target.smoothed(golden.setting("smoothing_src"))?.gathered(rank, world_size))
            .unwrap();
        for (key, value) in [
            ("src", loss::mix_to_origin(&of("q1"), &of("k2"), &identity, temperature)),
            ("mix", loss::mix_to_origin(&of("m_q2"), &of("k1"), &targets.mix_to_origin, temperature)),
            ("mix2", loss::mix_to_mix(&of("m_q2"), &of("m_k1"), &targets.mix_to_mix, temperature)),
        ] {
            let what = format!("{} {key}", golden.name);
            // The golden targets are rounded to float32.
            assert_relative(&what, &value.unwrap(), golden.number(&format!("loss_{key}_f64")), 1e-6);
        }
        compared += 1;
    }
    assert_eq!(compared, 6, "golden files compared");
}

/// `-(1/B) Σ_i q̂_i · k̂_i` for the pair (q1, k2).
#[test]
fn the_negative_free_form_equals_the_published_one() {
    let turn = Turn::take();
    for golden in Golden::all("loss_") {
        let q = turn.put(golden.tensor("q1"), Kind::Double).set_requires_grad(true);
        let rows = golden.setting::<i64>("N");
        let k = turn.put(&golden.tensor("k2").narrow(0, golden.setting::<i64>("rank") * rows, rows), Kind::Double);
        let value = loss::negative_free(&q, &k).unwrap();
        assert_relative(&golden.name, &value, golden.number("loss_noneg_f64"), 1e-6);
        assert_near(&golden.name, &gradient(&value, &q), golden.tensor("grad_q_noneg_f64"), 1e-9);
    }
}
