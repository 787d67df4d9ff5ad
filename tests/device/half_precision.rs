//! Encoders in half precision against single precision on the same device. On a GPU, half precision uses fused kernels
//! for attention, also in the last block with its single query, and between the layers.

use std::collections::BTreeMap;

use approx::abs_diff_eq;
use patchmix::MixPlan;
use patchmix::backend::{self, AttentionKernel};
use patchmix::contrast::{HeadConfig, LossConfig, Model, MomentumNetwork, Networks, View, losses};
use patchmix::vit::{Pooling, Precision, Vit, VitConfig};
use tch::nn::VarStore;
use tch::{Kind, Tensor};

use crate::turn::Turn;

/// An encoder and its input.
struct Case {
    what: String,
    config: VitConfig,
    side: i64,
    batch_size: i64,
    pooling: Pooling,
}

/// The features, and the gradients of their product with a random direction.
struct Pass {
    features: Tensor,
    gradients: BTreeMap<String, Tensor>,
}

impl Case {
    fn pass(&self, turn: &Turn, start: &VarStore, precision: Precision, images: &Tensor, direction: &Tensor) -> Pass {
        let mut store = VarStore::new(turn.device);
        let encoder = Vit::new(&store.root(), &VitConfig { precision, ..self.config.clone() }).unwrap();
        store.copy(start).unwrap();
        tch::manual_seed(3); // for drop path
        let features = encoder.features(images, self.pooling, true).unwrap();
        assert_eq!((features.kind(), features.device()), (Kind::Float, turn.device));
        (&features * direction).sum(Kind::Float).backward();
        let gradients = store.variables().into_iter().map(|(name, weight)| (name, weight.grad())).collect();
        Pass { features: features.detach(), gradients }
    }

    /// Fails unless features and gradients in half precision point in the directions of single precision.
    fn compare(&self, turn: &Turn) {
        let Case { what, config, side, batch_size, .. } = self;
        let start = VarStore::new(turn.device);
        let _ = Vit::new(&start.root(), config).unwrap();
        let images = turn.randn(&[*batch_size, 3, *side, *side], Kind::Float);
        let direction = turn.randn(&[*batch_size, config.width], Kind::Float);
        let [half, single] = [Precision::BFloat16, Precision::Full]
            .map(|precision| self.pass(turn, &start, precision, &images, &direction));
        let feature_cosine = cosine(&half.features, &single.features);
        assert!(feature_cosine > 0.999, "{what}: features have a cosine of {feature_cosine}");
        assert!(half.features != single.features, "{what}: not in half precision");
        assert_eq!(half.gradients.len(), single.gradients.len());
        for (weight, gradient) in &single.gradients {
            let half_gradient = &half.gradients[weight];
            let gradient_cosine = cosine(half_gradient, gradient);
            assert!(gradient_cosine > 0.998, "{what}: gradients of {weight} have a cosine of {gradient_cosine}");
            let ratio = (half_gradient.norm() / gradient.norm()).double_value(&[]);
            assert!(
                abs_diff_eq!(ratio, 1.0, epsilon = 0.02),
                "{what}: the gradient of {weight} is {ratio} times as long"
            );
        }
    }
}

fn cosine(a: &Tensor, b: &Tensor) -> f64 {
    let [a, b] = [a, b].map(|tensor| tensor.to_kind(Kind::Double));
    let product = |a: &Tensor, b: &Tensor| (a * b).sum(Kind::Double).double_value(&[]);
    product(&a, &b) / (product(&a, &a) * product(&b, &b)).sqrt()
}

/// ViT-T on CIFAR, ViT-S on ImageNet, and ViT-S on local views, with two blocks each.
#[test]
fn encoders_of_the_recipes_agree_with_either_attention_kernel() {
    let turn = Turn::take();
    let two_blocks = |config: VitConfig| VitConfig { depth: 2, drop_path: 0.0, ..config };
    let compare = |kernel: &str, batch_size: i64| {
        for (what, config, side) in [
            ("257 tokens, 3 heads", VitConfig::tiny(32, 2), 32),
            ("197 tokens, 12 heads", VitConfig::small(224, 16), 224),
            ("37 tokens, 12 heads", VitConfig::small(224, 16), 96),
        ] {
            let what = format!("{kernel}, {what}");
            Case { what, config: two_blocks(config), side, batch_size, pooling: Pooling::ClassToken }.compare(&turn);
        }
    };
    if !turn.device.is_cuda() {
        compare("CPU", 4);
        return;
    }
    for kernel in [AttentionKernel::Cudnn, AttentionKernel::Flash] {
        backend::set_attention_kernel(kernel).unwrap();
        compare(&format!("{kernel:?}"), 64);
    }
}

/// All twelve blocks of ViT-T, with its drop path.
#[test]
fn a_whole_encoder_agrees_with_single_precision() {
    let turn = Turn::take();
    let (what, config) = ("ViT-T".to_owned(), VitConfig::tiny(16, 4));
    Case { what, config, side: 16, batch_size: 32, pooling: Pooling::ClassToken }.compare(&turn);
}

/// Widths for which there is a GPU kernel, with vectors of two and of four numbers, and one without. Drop path draws
/// the same numbers in both precisions.
#[test]
fn encoders_of_any_width_agree_with_drop_path() {
    let turn = Turn::take();
    for width in [48, 64, 192, 320, 384, 1024] {
        for pooling in [Pooling::ClassToken, Pooling::PatchMean] {
            let config = VitConfig {
                image_size: 20,
                patch_size: 4,
                width,
                depth: 3,
                heads: 4,
                mlp_ratio: 2,
                drop_path: 0.6,
                precision: Precision::Full,
            };
            let what = format!("width {width}, {pooling:?}");
            Case { what, config, side: 20, batch_size: 7, pooling }.compare(&turn);
        }
    }
}

const SMALL_HEADS: HeadConfig = HeadConfig { hidden: 512, output: 128 };

/// The gradients of the total loss of a step by name, and the loss.
fn step(turn: &Turn, vit: &VitConfig, start: &VarStore, views: [View<'_>; 2]) -> (BTreeMap<String, Tensor>, f64) {
    let mut store = VarStore::new(turn.device);
    let model = Model::new(&store.root(), vit, &SMALL_HEADS).unwrap();
    store.copy(start).unwrap();
    let momentum = MomentumNetwork::new(&store, vit, &SMALL_HEADS, turn.device).unwrap();
    let networks = Networks { model: &model, momentum: Some(&momentum), ranks: None };
    tch::manual_seed(3); // for drop path
    let losses = losses(&networks, views, &[], &LossConfig::default()).unwrap();
    losses.backward().unwrap();
    let trained = store.variables().into_iter().filter(|(_, weight)| weight.requires_grad());
    let gradients = trained.map(|(name, weight)| (name, weight.grad())).collect();
    (gradients, losses.total().unwrap().double_value(&[]))
}

/// A step of all twelve blocks of ViT-T, with heads, losses, drop path and a momentum network. Rounding turns some of
/// the heads' ReLU on or off, so the directions are less close than those of the encoder alone: PyTorch's autocast has
/// cosines of 0.976 and more on this shape. Left out are gradients that are zero but for rounding: of the last norm's
/// bias, which the projector's normalization subtracts, and of the keys' biases, which shift all scores of a query
/// alike.
#[test]
fn gradients_of_the_losses_keep_their_direction_tensor_by_tensor() {
    let turn = Turn::take();
    let vit = VitConfig::tiny(16, 4);
    let start = VarStore::new(turn.device);
    let _ = Model::new(&start.root(), &vit, &SMALL_HEADS).unwrap();
    // At initialization the class token hardly depends on the image, and normalization would amplify rounding.
    for weight in start.trainable_variables().iter_mut() {
        tch::no_grad(|| *weight += turn.randn(&weight.size(), Kind::Float) * 0.05);
    }
    let images = [0, 1].map(|_| turn.randn(&[64, 3, 16, 16], Kind::Float));
    let plans = [0, 1].map(|_| MixPlan::random(16, 2, 1).unwrap());
    let views = [0, 1].map(|view| View { images: &images[view], plan: &plans[view] });
    let (single, loss) = step(&turn, &vit, &start, views);
    let (half, half_loss) = step(&turn, &VitConfig { precision: Precision::BFloat16, ..vit }, &start, views);
    assert!(abs_diff_eq!(half_loss, loss, epsilon = 0.01), "{half_loss}, in single precision {loss}");
    assert_eq!(half.len(), single.len());
    for name in single.keys().filter(|name| *name != "encoder.norm.bias") {
        let [half, single] = [&half, &single].map(|gradients| match gradients[name].chunk(3, 0) {
            parts if name.ends_with("qkv.bias") => Tensor::cat(&[&parts[0], &parts[2]], 0), // of queries and of values
            _ => gradients[name].shallow_clone(),
        });
        let (cosine, ratio) = (cosine(&half, &single), (half.norm() / single.norm()).double_value(&[]));
        assert!(cosine > 0.95, "gradients of {name} have a cosine of {cosine}");
        assert!(abs_diff_eq!(ratio, 1.0, epsilon = 0.1), "the gradient of {name} is {ratio} times as long");
    }
}
