//! Plans, `patch_mix` and their errors.

use patchmix::{Error, MixPlan, SoftTarget, patch_mix};
use tch::{Kind, Tensor};

use crate::common::assert_close;
use crate::{CPU, shuffled};

#[test]
fn patch_mix_returns_the_mix_and_its_two_targets() {
    tch::manual_seed(1);
    // Every patch holds the index of its image.
    let batch = Tensor::arange(6, (Kind::Float, CPU)).view([6, 1, 1]).expand([6, 16, 3], false);
    let (mixed, mix_to_origin, mix_to_mix) = patch_mix(&batch, 4, 1).unwrap();
    let one_hot = mixed.select(2, 0).to_kind(Kind::Int64).one_hot(6).to_kind(Kind::Float);
    let counted = one_hot.mean_dim(1, false, Kind::Float);
    assert_close("mix-to-origin", &mix_to_origin, &counted, 1e-7);
    assert_close("mix-to-mix", &mix_to_mix, &counted.matmul(&counted.tr()), 1e-7);
}

#[test]
fn a_plan_for_images_has_their_patches() {
    let images = Tensor::rand([5, 3, 12, 8], (Kind::Float, CPU));
    let plan = MixPlan::for_images(&images, 4, 3, 2).unwrap();
    assert_eq!((plan.patches(), plan.groups(), plan.mix_stride()), (6, 3, 2));
    assert_eq!(plan.mix_images(&images, 4).unwrap().size(), images.size());

    let refused = |images: &Tensor, patch_size, groups, stride| {
        MixPlan::for_images(images, patch_size, groups, stride).unwrap_err()
    };
    assert!(matches!(refused(&images, 5, 2, 1), Error::PatchSize { height: 12, width: 8, patch_size: 5 }));
    assert!(matches!(refused(&images, 0, 2, 1), Error::PatchSize { patch_size: 0, .. }));
    assert!(matches!(refused(&images, 12, 7, 1), Error::PatchSize { .. }));
    assert!(matches!(refused(&images, 4, 5, 5), Error::SourcesCollide { batch_size: 5, distinct: 1, .. }));
    assert!(matches!(
        refused(&Tensor::zeros([9, 3, 8, 8], (Kind::Float, CPU)), 4, 5, 1),
        Error::Groups { patches: 4, .. }
    ));
    assert!(matches!(refused(&images.select(0, 0), 4, 2, 1), Error::Shape { name: "images", .. }));
}

/// The first thing that someone with images tries.
#[test]
fn patch_mix_of_images_names_the_function_for_images() {
    let images = Tensor::rand([5, 3, 8, 8], (Kind::Float, CPU));
    let plan = MixPlan::random(8, 2, 1).unwrap();
    for error in [patch_mix(&images, 2, 1).unwrap_err(), plan.mix_patches(&images).unwrap_err()] {
        assert!(matches!(error, Error::Shape { name: "batch", .. }));
        let message = error.to_string();
        assert!(message.contains("MixPlan::for_images") && message.contains("got [5, 3, 8, 8]"), "{message}");
    }
}

#[test]
fn one_group_is_the_identity() {
    let batch = Tensor::rand([3, 4, 2], (Kind::Float, CPU));
    let (mixed, mix_to_origin, mix_to_mix) = patch_mix(&batch, 1, 1).unwrap();
    let identity = Tensor::eye(3, (Kind::Float, CPU));
    assert_eq!(mixed, batch);
    assert_eq!(mix_to_origin, identity);
    assert_eq!(mix_to_mix, identity);
}

#[test]
fn gradient_flows_back_to_the_source_of_every_patch() {
    let plan = MixPlan::from_permutation(&shuffled(9, 3), 3, 2).unwrap();
    let batch = Tensor::rand([7, 9, 4], (Kind::Double, CPU)).set_requires_grad(true);
    let weight = Tensor::rand([7, 9, 4], (Kind::Double, CPU));
    (plan.mix_patches(&batch).unwrap() * &weight).sum(Kind::Double).backward();
    let back = MixPlan::from_permutation(&shuffled(9, 3), 3, -2).unwrap();
    assert_eq!(batch.grad(), back.mix_patches(&weight).unwrap());
}

#[test]
fn all_kinds_and_layouts_are_mixed_alike() {
    let plan = MixPlan::from_permutation(&shuffled(16, 5), 2, 1).unwrap();
    let images = Tensor::randint(256, [4, 3, 8, 8], (Kind::Int64, CPU));
    let expected = plan.mix_images(&images, 2).unwrap();
    for kind in [Kind::Uint8, Kind::Int, Kind::Half, Kind::BFloat16, Kind::Float, Kind::Double] {
        let mixed = plan.mix_images(&images.to_kind(kind), 2).unwrap();
        assert_eq!(mixed.kind(), kind);
        assert_eq!(mixed.to_kind(Kind::Int64), expected.to_kind(kind).to_kind(Kind::Int64));
    }
    let transposed = images.permute([3, 2, 1, 0]).contiguous().permute([3, 2, 1, 0]);
    assert!(!transposed.is_contiguous());
    assert_eq!(plan.mix_images(&transposed, 2).unwrap(), expected);
}

#[test]
fn the_same_seed_draws_the_same_plan() {
    let draw = |seed| {
        tch::manual_seed(seed);
        MixPlan::random(64, 4, 1).unwrap()
    };
    // Other tests use the same generator meanwhile, so it may take a few tries.
    assert!((0..20).any(|_| draw(7) == draw(7)), "the same seed gives different plans");
    assert!((0..20).any(|_| draw(7) != draw(8)), "different seeds give the same plan");
}

#[test]
fn invalid_mixes_are_typed_errors_with_their_numbers() {
    assert!(matches!(MixPlan::random(16, 0, 1), Err(Error::Groups { groups: 0, patches: 16 })));
    assert!(matches!(MixPlan::random(16, 17, 1), Err(Error::Groups { groups: 17, patches: 16 })));
    assert!(matches!(MixPlan::random(-1, 1, 1), Err(Error::Groups { groups: 1, patches: -1 })));
    for twice in [[0, 1, 1], [0, 1, 3], [0, 1, -1]] {
        let expected = twice[2];
        let error = MixPlan::from_permutation(&twice, 1, 1);
        assert!(matches!(error, Err(Error::Permutation { length: 3, position }) if position == expected));
    }
    let plan = MixPlan::random(16, 4, 3).unwrap();
    // 0, 3, 6 = 0: two distinct images for four groups.
    let error = plan.targets(6);
    assert!(matches!(error, Err(Error::SourcesCollide { batch_size: 6, groups: 4, mix_stride: 3, distinct: 2 })));
    let images = |shape: [i64; 4]| Tensor::zeros(shape, (Kind::Float, CPU));
    assert!(matches!(plan.mix_images(&images([3, 3, 8, 8]), 2), Err(Error::SourcesCollide { .. })));
    assert!(matches!(plan.mix_images(&images([0, 3, 8, 8]), 2), Err(Error::SourcesCollide { distinct: 0, .. })));
    assert!(matches!(
        plan.mix_images(&images([8, 3, 9, 8]), 2),
        Err(Error::PatchSize { height: 9, width: 8, patch_size: 2 })
    ));
    assert!(matches!(plan.mix_images(&images([8, 3, 8, 8]), 0), Err(Error::PatchSize { patch_size: 0, .. })));
    assert!(matches!(plan.mix_images(&images([8, 3, 8, 8]), 4), Err(Error::Shape { name: "images", .. })));
    assert!(matches!(
        plan.mix_patches(&Tensor::zeros([8, 15, 2], (Kind::Float, CPU))),
        Err(Error::Shape { name: "batch", .. })
    ));
    assert!(matches!(SoftTarget::identity(0), Err(Error::Value { name: "batch_size", .. })));
    let identity = || SoftTarget::identity(4).unwrap();
    assert!(matches!(identity().dense(Kind::Int64, CPU), Err(Error::Kind { actual: Kind::Int64, .. })));
    assert!(matches!(identity().smoothed(f64::NAN), Err(Error::Value { name: "smoothing", .. })));
    assert!(matches!(identity().gathered(2, 2), Err(Error::Value { name: "rank", .. })));
    assert!(matches!(identity().gathered(0, i64::MAX), Err(Error::Value { name: "world_size", .. })));
}
