//! The encoder and its heads, against the published implementation.

use approx::relative_eq;
use patchmix::MixPlan;
use patchmix::contrast::{LossConfig, Model, Networks, View, losses};
use tch::Kind;
use tch::nn::VarStore;

use crate::common::{Golden, golden_shape};
use crate::turn::{Turn, assert_near};

/// The published name of a parameter. Both use timm's names for the encoder.
pub(crate) fn published_name(ours: &str) -> String {
    ours.replace("projector.", "base_encoder.head.").replace("encoder.", "base_encoder.").replace("base_base_", "base_")
}

/// The model of `vit_state`, of kind `kind`.
pub(crate) fn golden_model(turn: &Turn, kind: Kind) -> (VarStore, Model) {
    let (vit, heads) = golden_shape();
    let mut store = VarStore::new(turn.device);
    let model = Model::new(&store.root(), &vit, &heads).unwrap();
    store.set_kind(kind);
    let state = Golden::read("vit_state.safetensors");
    tch::no_grad(|| {
        for (name, mut variable) in store.variables() {
            let published = state.tensor(&published_name(&name));
            assert_eq!(variable.size(), published.size(), "{name}");
            variable.copy_(published);
        }
    });
    let ours = store.variables().len();
    let published = state.keys().filter(|key| !key.ends_with("num_batches_tracked")).count();
    assert_eq!(ours, published, "a published parameter has no counterpart");
    (store, model)
}

#[test]
fn tokens_heads_and_interpolated_positions_equal_the_published_ones() {
    let turn = Turn::take();
    let golden = Golden::read("vit_io.safetensors");
    let on_device = |key: &str| turn.put(golden.tensor(key), Kind::Float);
    let (_store, model) = golden_model(&turn, Kind::Float);
    let encoder = &model.network.encoder;
    assert_near("features", &encoder.tokens(&on_device("x"), false).unwrap(), golden.tensor("features"), 1e-5);
    for crop in ["12x20", "14x14", "24x24", "8x32", "8x8"] {
        let key = |what: &str| format!("crop_{crop}{what}");
        let images = on_device(&key(""));
        let what = key("/features");
        assert_near(&what, &encoder.tokens(&images, false).unwrap(), golden.tensor(&what), 1e-5);
        let k = model.network.forward(&images, false).unwrap();
        assert_near(&key("/k_eval"), &k, golden.tensor(&key("/k_eval")), 1e-5);
        let q = model.predictor.forward(&k, false).unwrap();
        assert_near(&key("/q_eval"), &q, golden.tensor(&key("/q_eval")), 1e-5);
    }
    for train in [false, true] {
        let mode = if train { "train" } else { "eval" };
        let k = model.network.forward(&on_device("x"), train).unwrap();
        assert_near(mode, &k, golden.tensor(&format!("k_{mode}")), 2e-5);
        let q = model.predictor.forward(&k, train).unwrap();
        assert_near(mode, &q, golden.tensor(&format!("q_{mode}")), 2e-5);
    }
}

#[test]
fn double_precision_equals_the_published_one() {
    let turn = Turn::take();
    let golden = Golden::read("vit_io.safetensors");
    let (_store, model) = golden_model(&turn, Kind::Double);
    let k = model.network.forward(&turn.put(golden.tensor("x"), Kind::Double), true).unwrap();
    assert_near("k", &k, golden.tensor("k_train_f64"), 1e-10);
    let q = model.predictor.forward(&k, true).unwrap();
    assert_near("q", &q, golden.tensor("q_train_f64"), 1e-10);
}

/// One training pass: the gradient of `(q r).sum()` for every parameter, and the updated batch statistics.
#[test]
fn gradients_and_batch_statistics_equal_the_published_ones() {
    let turn = Turn::take();
    let golden = Golden::read("vit_io.safetensors");
    let (store, model) = golden_model(&turn, Kind::Float);
    let k = model.network.forward(&turn.put(golden.tensor("x"), Kind::Float), true).unwrap();
    let q = model.predictor.forward(&k, true).unwrap();
    (q * turn.put(golden.tensor("r"), Kind::Float)).sum(Kind::Float).backward();
    let (mut whole, mut norms, mut buffers) = (0, 0, 0);
    for (name, variable) in store.variables() {
        let published = published_name(&name);
        if golden.has(&format!("grad_qr_train/{published}")) {
            let expected = golden.tensor(&format!("grad_qr_train/{published}"));
            assert_near(&name, &variable.grad(), expected, 2e-5);
            whole += 1;
        }
        if golden.has(&format!("gradnorm_qr_train/{published}")) {
            let expected = golden.number(&format!("gradnorm_qr_train/{published}"));
            let actual = variable.grad().norm().double_value(&[]);
            assert!(
                relative_eq!(actual, expected, epsilon = 2e-5, max_relative = 2e-5),
                "{name}: {actual}, published {expected}"
            );
            norms += 1;
        }
        if golden.has(&format!("buf_after_train/{published}")) {
            assert_near(&name, &variable, golden.tensor(&format!("buf_after_train/{published}")), 1e-5);
            buffers += 1;
        }
    }
    assert_eq!((whole, norms, buffers), (8, 41, 10), "numbers compared");
}

#[test]
fn attention_sums_to_one_and_the_last_intermediate_tokens_are_the_output() {
    let turn = Turn::take();
    let (_store, model) = golden_model(&turn, Kind::Float);
    let encoder = &model.network.encoder;
    let x = turn.put(Golden::read("vit_io.safetensors").tensor("x"), Kind::Float);
    for block in 0..2 {
        let attention = encoder.class_attention(&x, block).unwrap();
        assert_eq!(attention.size()[1..], [3, 17]);
        assert!(attention.min().double_value(&[]) > 0.0);
        let sums = attention.sum_dim_intlist(2, false, Kind::Float);
        assert_near("attention", &sums, &sums.ones_like(), 1e-5);
    }
    let tokens = encoder.intermediate(&x, &[0, 1], true).unwrap();
    assert_near("tokens", &tokens[1], &encoder.tokens(&x, false).unwrap(), 1e-6);
    assert_near("class token", &encoder.forward(&x, false).unwrap(), &tokens[1].select(1, 0), 1e-5);
}

#[test]
fn equal_images_have_no_feature_std() {
    let turn = Turn::take();
    let (_store, model) = golden_model(&turn, Kind::Float);
    let config = LossConfig::default();
    let plan = MixPlan::random(16, 2, 1).unwrap();
    let feature_std = |images: &tch::Tensor| {
        let networks = Networks { model: &model, momentum: None, ranks: None };
        let view = View { images, plan: &plan };
        let losses = losses(&networks, [view, view], &[], &config).unwrap();
        losses.feature_std.double_value(&[])
    };
    let different = turn.put(Golden::read("vit_io.safetensors").tensor("x"), Kind::Float);
    let equal = different.narrow(0, 0, 1).expand(different.size(), false);
    assert!(feature_std(&equal) < 1e-3);
    assert!(feature_std(&different) > 0.05);
}
