//! Losses of more queries and keys than a tile has.

use patchmix::{MixPlan, SoftTarget, loss};
use tch::{Device, Kind, Tensor};

use crate::common::dense;
use crate::turn::{Turn, assert_near};

/// `-(1/B) Σ_i Σ_j target[i, j] log softmax(q̂ k̂ᵀ / τ)[i, j]` and its gradient, on the CPU.
fn plain_loss(q: &Tensor, k: &Tensor, target: &Tensor, temperature: f64) -> (Tensor, Tensor) {
    let [q, k, target] = [q, k, target].map(|tensor| tensor.detach().to(Device::Cpu));
    let q = q.set_requires_grad(true);
    let normalize = |x: &Tensor| x / x.square().sum_dim_intlist(-1, true, None::<Kind>).sqrt();
    let logits = normalize(&q).matmul(&normalize(&k).tr()) / temperature;
    let loss = -(target * logits.log_softmax(-1, None::<Kind>)).sum(Kind::Double) / q.size()[0] as f64;
    loss.backward();
    (loss.detach(), q.grad())
}

/// Two tiles of queries, against the definition with all logits at once. The keys of the two ranks start in different
/// tiles.
#[test]
fn tiles_do_not_change_the_losses() {
    let turn = Turn::take();
    // A tile is 512 x 1024 on the CPU and 4096 x 8192 on a GPU.
    let rows = if turn.device.is_cuda() { 4110 } else { 520 };
    let keys = 2 * rows;
    let (q, k) = (turn.randn(&[rows, 8], Kind::Double).set_requires_grad(true), turn.randn(&[keys, 8], Kind::Double));
    let smoothed = |targets: patchmix::MixTargets| targets.smoothed(0.1)?.gathered(1, 2);
    let targets = MixPlan::random(7, 3, 1).and_then(|plan| plan.targets(rows)).unwrap();
    let targets = smoothed(targets).unwrap();
    let identity = SoftTarget::identity(rows).and_then(|target| target.gathered(1, 2)).unwrap();
    // Rows that do not sum to 1.
    let uneven = turn.randn(&[rows, keys], Kind::Double).abs() / keys as f64;
    let compare = |what: &str, ours: &dyn Fn(&Tensor, &Tensor) -> patchmix::Result<Tensor>, target: &Tensor| {
        let (expected, expected_gradient) = plain_loss(&q, &k, target, 0.2);
        let gradient = |loss: &Tensor, of: &Tensor| Tensor::run_backward(&[loss], &[of], false, false).remove(0);
        let loss = ours(&q, &k).unwrap();
        assert_near(what, &loss, &expected, 1e-11);
        // Gradients shrink with the number of rows.
        assert_near(what, &(gradient(&loss, &q) * rows), &(&expected_gradient * rows), 1e-10);
        let single = q.detach().to_kind(Kind::Float).set_requires_grad(true);
        let loss = ours(&single, &k.to_kind(Kind::Float)).unwrap();
        assert_eq!((loss.device(), loss.kind()), (turn.device, Kind::Float));
        assert_near(what, &loss, &expected, 1e-5);
        assert_near(what, &(gradient(&loss, &single) * rows), &(&expected_gradient * rows), 1e-4);
    };
    let sparse = [("identity", identity), ("mix-to-origin", targets.mix_to_origin), ("mix-to-mix", targets.mix_to_mix)];
    for (what, target) in sparse {
        compare(what, &|q, k| loss::soft_cross_entropy(q, k, &target, 0.2), &dense(&target));
    }
    compare("dense", &|q, k| loss::soft_cross_entropy(q, k, &uneven, 0.2), &uneven);
}
