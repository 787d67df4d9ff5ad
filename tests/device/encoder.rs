//! The encoder against a plain Vision Transformer: attention by every kernel, and drop path.

use approx::assert_abs_diff_eq;
use patchmix::vit::{Vit, VitConfig};
use tch::nn::VarStore;
use tch::{Kind, Tensor};

use crate::contrast::assert_all_near;
use crate::plain_vit::PlainVit;
use crate::scene::Tensors;
use crate::turn::{Turn, assert_near};

/// An encoder in double precision, far enough from initialization that attention differs between tokens.
fn encoder(turn: &Turn, config: &VitConfig, noise: f64) -> (VarStore, Vit) {
    let mut store = VarStore::new(turn.device);
    let encoder = Vit::new(&store.root(), config).unwrap();
    store.double();
    tch::no_grad(|| {
        for weight in Tensors::from_iter(store.variables()).values_mut() {
            *weight += turn.randn(&weight.size(), Kind::Double) * noise;
        }
    });
    (store, encoder)
}

fn gradients(store: &VarStore, loss: &Tensor) -> Tensors {
    store.trainable_variables().iter_mut().for_each(Tensor::zero_grad);
    loss.backward();
    store.variables().into_iter().map(|(name, weight)| (name, weight.grad().copy())).collect()
}

/// Attention of 65 tokens and, by the fused kernel on a CPU, of 257: for all queries, and for the single query of the
/// last block.
#[test]
fn attention_equals_two_plain_products_in_value_and_gradient() {
    let turn = Turn::take();
    for (image_size, tokens) in [(16, 65), (32, 257)] {
        let config = VitConfig { depth: 2, drop_path: 0.0, ..VitConfig::tiny(image_size, 2) };
        let (mut store, encoder) = encoder(&turn, &config, 0.05);
        for (kind, tolerance) in [(Kind::Double, 1e-10), (Kind::Float, 1e-4)] {
            store.set_kind(kind);
            let weights = Tensors::from_iter(store.variables());
            let plain = PlainVit { weights: &weights, config: &config };
            let images = turn.randn(&[3, 3, image_size, image_size], kind);
            let direction = turn.randn(&[3, tokens, config.width], kind);
            for queries in [tokens, 1] {
                let what = format!("{queries} queries, {tokens} tokens, {kind:?}");
                let actual = match queries {
                    1 => encoder.forward(&images, false).unwrap().unsqueeze(1),
                    _ => encoder.tokens(&images, false).unwrap(),
                };
                let expected = plain.tokens(&images, |_, _| 1.0).narrow(1, 0, queries);
                assert_near(&what, &actual.detach(), &expected.detach(), tolerance);
                let product = |output: &Tensor| (output * direction.narrow(1, 0, queries)).sum(kind);
                let expected = gradients(&store, &product(&expected));
                assert_all_near(&what, &gradients(&store, &product(&actual)), &expected, tolerance);
            }
        }
    }
}

/// Every image draws for itself, for every branch of every block, with a rate that grows linearly from 0 at the first
/// block to that of the last. A kept branch is scaled up by `1 / keep`. With these factors the outputs are those of the
/// plain encoder, which tells what was dropped.
#[test]
fn branches_are_dropped_as_often_as_the_rate_says_and_scaled_up_otherwise() {
    const COUNT: i64 = 4000;
    let turn = Turn::take();
    let config = VitConfig { width: 12, heads: 2, depth: 3, drop_path: 0.4, ..VitConfig::tiny(8, 4) };
    let (store, encoder) = encoder(&turn, &config, 0.2);
    let weights = Tensors::from_iter(store.variables());
    let plain = PlainVit { weights: &weights, config: &config };
    let image = turn.randn(&[1, 3, 8, 8], Kind::Double);
    let images = image.expand([COUNT, -1, -1, -1], false);
    let _no_grad = tch::no_grad_guard();
    // Bits of `choice` say which of the branches of the last two blocks are kept.
    let kept = |choice: usize, block: i64, branch: usize| choice >> (2 * (block as usize - 1) + branch) & 1 == 1;
    let keep_rate = |block: i64| 1.0 - 0.4 * block as f64 / 2.0;
    let factor = |choice: usize, block: i64, branch: usize| match block {
        0 => 1.0,
        _ => f64::from(kept(choice, block, branch)) / keep_rate(block),
    };
    let choices = (0..16).map(|choice| plain.tokens(&image, |block, branch| factor(choice, block, branch)));
    let choices = Tensor::cat(&choices.collect::<Vec<_>>(), 0); // [16, tokens, width]
    let class_tokens = choices.narrow(1, 0, 1);
    let tokens = encoder.tokens(&images, true).unwrap();
    let features = encoder.forward(&images, true).unwrap().unsqueeze(1);
    for (outputs, choices) in [(tokens, choices), (features, class_tokens)] {
        let distances = (outputs.unsqueeze(1) - choices.unsqueeze(0)).abs().amax([2, 3], false); // [COUNT, 16]
        let (nearest, chosen) = distances.min_dim(1, false);
        assert!(nearest.max().double_value(&[]) < 1e-10, "an output that no choice of branches explains");
        let other_choices = distances.ge(1e-6).sum(Kind::Int64).int64_value(&[]);
        assert_eq!(other_choices, COUNT * 15, "outputs tell the choices apart");
        let counts = Vec::<i64>::try_from(chosen.bincount::<Tensor>(None, 16)).unwrap();
        for (choice, count) in counts.into_iter().enumerate() {
            let rate =
                |(block, branch)| if kept(choice, block, branch) { keep_rate(block) } else { 1.0 - keep_rate(block) };
            let expected: f64 = [(1, 0), (1, 1), (2, 0), (2, 1)].into_iter().map(rate).product();
            let deviation = (expected * (1.0 - expected) / COUNT as f64).sqrt();
            assert_abs_diff_eq!(count as f64 / COUNT as f64, expected, epsilon = 5.0 * deviation);
        }
    }
}
