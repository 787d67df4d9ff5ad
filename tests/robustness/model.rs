//! The encoder, the heads, the momentum copy and the losses of a batch, with arbitrary arguments.

use patchmix::contrast::{HeadConfig, LossConfig, LossWeights, Model, MomentumNetwork, Networks, View, losses};
use patchmix::vit::{EncoderFile, Pooling, Precision, Vit, VitConfig};
use patchmix::{Error, MixPlan};
use proptest::prelude::*;
use tch::nn::VarStore;
use tch::{Kind, Tensor};

use crate::any::*;
use crate::typed;

pub const SMALL: VitConfig = VitConfig {
    image_size: 8,
    patch_size: 4,
    width: 16,
    depth: 2,
    heads: 2,
    mlp_ratio: 2,
    drop_path: 0.1,
    precision: Precision::Full,
};

const HEADS: HeadConfig = HeadConfig { hidden: 8, output: 4 };

/// The small shape with up to two settings replaced by any number.
fn configs() -> impl Strategy<Value = VitConfig> {
    (prop::collection::vec((0..6_usize, integers()), 0..3), prop_oneof![2 => Just(0.1), 1 => floats()], any::<bool>())
        .prop_map(|(changes, drop_path, half)| {
            let precision = if half { Precision::BFloat16 } else { Precision::Full };
            let mut config = VitConfig { drop_path, precision, ..SMALL };
            for (field, value) in changes {
                *match field {
                    0 => &mut config.image_size,
                    1 => &mut config.patch_size,
                    2 => &mut config.width,
                    3 => &mut config.depth,
                    4 => &mut config.heads,
                    _ => &mut config.mlp_ratio,
                } = value;
            }
            config
        })
}

fn images() -> impl Strategy<Value = AnyTensor> {
    let size = (sizes(), prop::sample::select(vec![0_i64, 3, 4, 8, 16]), Just(8_i64));
    size.prop_flat_map(|(batch, height, width)| mostly(&[batch, 3, height, width]))
}

/// The two views of a batch, mostly of as many images.
fn two_views() -> impl Strategy<Value = (AnyTensor, AnyTensor)> {
    let view = |batch: i64| mostly(&[batch, 3, 8, 8]);
    let batches = (sizes(), sizes()).prop_flat_map(|(one, two)| (Just(one), prop_oneof![Just(one), Just(two)]));
    batches.prop_flat_map(move |(one, two)| (view(one), view(two)))
}

fn local_views() -> impl Strategy<Value = Vec<AnyTensor>> {
    prop::collection::vec(sizes().prop_flat_map(|batch| mostly(&[batch, 3, 8, 4])), 0..3)
}

fn head_configs() -> impl Strategy<Value = HeadConfig> {
    let hidden = prop_oneof![4 => Just(8), 1 => integers()];
    let output = prop_oneof![4 => Just(4), 1 => integers()];
    (hidden, output).prop_map(|(hidden, output)| HeadConfig { hidden, output })
}

/// Variants of the method: usual weights or any, blocks that fit or any.
fn variants() -> impl Strategy<Value = LossConfig> {
    let weights = prop_oneof![2 => Just([1.0; 5]), 1 => prop::array::uniform5(floats())].prop_map(LossWeights::from);
    let blocks = prop_oneof![3 => Just(None), 1 => Just(Some(4)), 1 => integers().prop_map(Some)];
    (weights, any::<bool>(), any::<bool>(), blocks).prop_map(|(weights, symmetric, negatives, mix_patch_size)| {
        LossConfig { weights, symmetric, negatives, mix_patch_size, ..LossConfig::default() }
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]
    #[test]
    fn encoders_take_any_shape_and_images(
        config in configs(),
        images in images(),
        device in devices(),
        train in any::<bool>(),
        blocks in prop::collection::vec(prop_oneof![0..2_i64, integers()], 0..3),
    ) {
        prop_assert!(typed("patches", || config.patches()) >= 0);
        let checked = typed("check", || config.check());
        let store = VarStore::new(device);
        let Ok(encoder) = typed("new", || Vit::new(&store.root(), &config)) else { return Ok(()) };
        prop_assert!(checked.is_ok());
        prop_assert_eq!((encoder.config(), typed("device", || encoder.device())), (&config, device));
        let tensor = images.make();
        let _ = typed("forward", || encoder.forward(&tensor, train));
        if let Ok(attention) = typed("class_attention", || encoder.class_attention(&tensor, config.depth - 1)) {
            prop_assert_eq!(&attention.size()[..2], [tensor.size()[0], config.heads]);
        }
        if let Ok(tokens) = typed("tokens", || encoder.tokens(&tensor, train)) {
            prop_assert_eq!(tokens.size()[0], tensor.size()[0]);
            prop_assert!(images.is_small() || tensor.size()[0] == 0);
        }
        let _ = typed("features", || encoder.features(&tensor, Pooling::PatchMean, train));
        if let Ok(tokens) = typed("intermediate", || encoder.intermediate(&tensor, &blocks, train)) {
            prop_assert!(blocks.iter().all(|block| (0..config.depth).contains(block)));
            prop_assert!(tokens.len() <= blocks.len());
        }
    }

    #[test]
    fn encoder_files_take_any_shape_and_weights(
        config in prop_oneof![Just(SMALL), configs()],
        changed in 0..30_usize,
        weights in mostly(&[16]),
        name in prop_oneof![2 => Just(None), 1 => ".{0,12}".prop_map(Some)],
        (mean, std) in (floats(), floats()),
        usual in any::<bool>(),
        device in devices(),
    ) {
        let small = VarStore::new(CPU);
        Vit::new(&small.root(), &SMALL).unwrap();
        let mut tensors = small.variables();
        let mut names: Vec<String> = tensors.keys().cloned().collect();
        names.sort();
        tensors.insert(name.unwrap_or_else(|| names[changed].clone()), weights.make());
        let (mean, std) = if usual { ([0.5; 3], [0.2; 3]) } else { ([mean; 3], [std; 3]) };
        let file = EncoderFile { config, mean, std, pooling: Pooling::ClassToken, tensors };
        let _ = typed("timm", || file.timm());
        let store = VarStore::new(device);
        let made = typed("to_vit", || file.to_vit(&store.root()));
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("encoder.safetensors");
        match typed("save", || file.save(&path)) {
            Ok(()) => drop(EncoderFile::load(&path).unwrap()),
            Err(_) => prop_assert!(made.is_err() && !path.exists()),
        }
    }

    #[test]
    fn heads_and_losses_take_anything(
        vit in prop_oneof![4 => Just(SMALL), 1 => configs()],
        heads in head_configs(),
        (device, kind) in (devices(), kinds()),
        views in two_views(),
        features in mostly(&[3, 16]),
        groups in 1..4_i64,
        settings in prop::array::uniform4(floats()),
        (with_momentum, variant) in (any::<bool>(), variants()),
        local in local_views(),
        as_many in any::<bool>(), micro_batch in prop_oneof![2 => Just(None), 1 => integers().prop_map(Some)],
    ) {
        let mut store = VarStore::new(device);
        let Ok(model) = typed("Model::new", || Model::new(&store.root(), &vit, &heads)) else { return Ok(()) };
        if matches!(kind, Kind::Half | Kind::BFloat16 | Kind::Double) {
            store.set_kind(kind);
        }
        let features = features.make();
        let _ = typed("projector", || model.network.projector.forward(&features, true));
        let _ = typed("predictor", || model.predictor.forward(&features, false));
        let copy = typed("MomentumNetwork::new", || MomentumNetwork::new(&store, &vit, &heads, CPU));
        let narrow = HeadConfig { hidden: 1, output: 1 };
        let _ = typed("another model", || MomentumNetwork::new(&store, &SMALL, &narrow, CPU));
        let mut copy = copy.unwrap();
        let updated = typed("update", || copy.update(&store, settings[0]));
        prop_assert_eq!(updated.is_ok(), (0.0..=1.0).contains(&settings[0]));
        prop_assert!(typed("empty", || copy.update(&VarStore::new(CPU), 0.5)).is_err());

        let (plan_1, plan_2) = (MixPlan::random(4, groups, 1).unwrap(), MixPlan::random(4, 2, 1).unwrap());
        let [_, temperature, origin_smoothing, mix_smoothing] = settings;
        let config = LossConfig { temperature, origin_smoothing, mix_smoothing, micro_batch, ..variant };
        let weights = config.weights.to_array();
        let (one, two) = (views.0.make(), views.1.make());
        let batch_size = one.defined().then(|| one.size().first().copied()).flatten();
        let as_many = batch_size.filter(|batch_size| as_many && views.0.is_small() && *batch_size < HUGE);
        let local: Vec<Tensor> = match as_many {
            Some(batch) => local.iter().map(|_| Tensor::rand([batch, 3, 8, 4], (Kind::Float, CPU))).collect(),
            None => local.iter().map(AnyTensor::make).collect(),
        };
        let local_plan = MixPlan::random(2, groups.min(2), 1).unwrap();
        let local: Vec<View<'_>> = local.iter().map(|images| View { images, plan: &local_plan }).collect();
        let networks = Networks { model: &model, momentum: with_momentum.then_some(&copy), ranks: None };
        let global = [View { images: &one, plan: &plan_1 }, View { images: &two, plan: &plan_2 }];
        let result = typed("losses", || losses(&networks, global, &local, &config));
        if let Ok(losses) = result {
            prop_assert!(micro_batch.is_none_or(|images| images >= 1));
            prop_assert_eq!(typed("total", || losses.total()).unwrap().size(), Vec::<i64>::new());
            prop_assert_eq!(losses.local_to_origin.is_some(), !local.is_empty() && weights[3] > 0.0);
            prop_assert!(weights.iter().all(|weight| weight.is_finite() && *weight >= 0.0));
            let _ = typed("backward", || losses.backward());
        }
    }
}

#[test]
fn shapes_beyond_any_memory_are_refused() {
    let config = |width, depth| VitConfig { width, depth, heads: 1, ..SMALL };
    // 12 GB per layer: some systems promise that and then kill the program that uses it.
    for (width, depth) in [(1 << 15, 1), (1 << 12, 1 << 12)] {
        let error = Vit::new(&VarStore::new(CPU).root(), &config(width, depth)).unwrap_err();
        assert!(matches!(error, Error::Value { name: "parameters", actual, .. } if actual > 4294967296.0));
    }
    for published in [VitConfig::tiny(32, 2), VitConfig::small(224, 16), VitConfig::base(224, 16)] {
        published.check().unwrap();
    }
    let heads = HeadConfig { hidden: 1 << 17, output: 4 };
    let error = Model::new(&VarStore::new(CPU).root(), &SMALL, &heads).unwrap_err();
    assert!(matches!(error, Error::Value { name: "parameters", .. }));
    for side in [0, -1, i64::MIN] {
        assert_eq!(VitConfig { patch_size: side, ..SMALL }.patches(), 0);
    }
    assert_eq!(VitConfig { image_size: i64::MAX, patch_size: 1, ..SMALL }.patches(), i64::MAX);
    assert_eq!(VitConfig { image_size: i64::MIN, patch_size: -1, ..SMALL }.patches(), 0);
}

#[test]
fn features_of_another_shape_are_refused() {
    let store = VarStore::new(CPU);
    let model = Model::new(&store.root(), &SMALL, &HEADS).unwrap();
    for size in [&[][..], &[3], &[3, 17], &[3, 16, 2], &[1, 16]] {
        let error = model.network.projector.forward(&Tensor::zeros(size, (Kind::Float, CPU)), true).unwrap_err();
        assert!(matches!(error, Error::Shape { name: "features", actual, .. } if actual == size));
    }
    let error = model.predictor.forward(&Tensor::new(), true).unwrap_err();
    assert!(matches!(error, Error::Undefined { name: "features" }));
}

/// libtorch broadcasts a tensor of one entry to any size, so narrow heads were once copied into wide ones.
#[test]
fn a_momentum_copy_of_another_shape_is_refused() {
    let store = VarStore::new(CPU);
    let narrow = HeadConfig { hidden: 1, output: 1 };
    let _model = Model::new(&store.root(), &SMALL, &narrow).unwrap();
    let error = MomentumNetwork::new(&store, &SMALL, &HEADS, CPU).unwrap_err();
    assert!(matches!(error, Error::Shape { name: "model_store", .. }));
    let mut copy = MomentumNetwork::new(&store, &SMALL, &narrow, CPU).unwrap();
    let wide = VarStore::new(CPU);
    let _model = Model::new(&wide.root(), &SMALL, &HEADS).unwrap();
    assert!(matches!(copy.update(&wide, 0.5), Err(Error::Shape { name: "model_store", .. })));
    assert!(matches!(copy.update(&VarStore::new(CPU), 0.5), Err(Error::Torch(_))));
    for momentum in [f64::NAN, -0.1, 1.1] {
        assert!(matches!(copy.update(&store, momentum), Err(Error::Value { name: "momentum", .. })));
    }
}
