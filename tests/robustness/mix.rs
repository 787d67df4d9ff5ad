//! `patch_mix`, `MixPlan`, `SoftTarget`, `MixTargets`.

use patchmix::{Error, MixPlan, MixTargets, SoftTarget, patch_mix};
use proptest::prelude::*;
use tch::{Kind, Tensor};

use crate::any::*;
use crate::typed;

/// Rows that sum to 1 up to the rounding of their kind.
fn rows_sum_to_one(target: &Tensor) -> bool {
    let tolerance = match target.kind() {
        Kind::Half | Kind::BFloat16 => 0.1,
        _ => 1e-5,
    };
    let off = target.to_kind(Kind::Double).sum_dim_intlist(1, false, Kind::Double) - 1.0;
    off.abs().max().double_value(&[]) < tolerance
}

proptest! {
    #[test]
    fn patch_mix_takes_anything(
        batch in prop_oneof![1 => tensors(), 3 => tensor_of(prop::collection::vec(sizes(), 3))],
        groups in integers(), mix_stride in integers(),
    ) {
        let tensor = batch.make();
        if let Ok((mixed, origin, mix)) = typed("patch_mix", || patch_mix(&tensor, groups, mix_stride)) {
            prop_assert!(batch.is_small(), "of a tensor beyond memory");
            prop_assert_eq!((mixed.size(), mixed.kind()), (tensor.size(), tensor.kind()));
            prop_assert!(rows_sum_to_one(&origin) && rows_sum_to_one(&mix));
        }
    }

    #[test]
    fn plans_take_anything(
        patches in integers(), groups in integers(), mix_stride in integers(), batch_size in integers(),
        permutation in prop_oneof![prop::collection::vec(integers(), 0..9), Just(vec![2, 0, 3, 1])],
        images in prop_oneof![3 => tensor_of(prop::collection::vec(sizes(), 4)), 1 => tensors()],
        patch_size in integers(), kind in kinds(), device in devices(), smoothing in floats(),
        rank in integers(), world_size in integers(),
    ) {
        let images = images.make();
        let plans = [
            typed("random", || MixPlan::random(patches, groups, mix_stride)),
            typed("from_permutation", || MixPlan::from_permutation(&permutation, groups, mix_stride)),
            MixPlan::random(4, 2, mix_stride),
        ];
        for plan in plans.into_iter().flatten() {
            prop_assert_eq!(plan.group_of_position().len() as i64, plan.patches());
            prop_assert!((1..=plan.patches()).contains(&plan.groups()));
            prop_assert_eq!(plan.mix_stride(), mix_stride);
            let _ = typed("mix_patches", || plan.mix_patches(&images));
            if let Ok(mixed) = typed("mix_images", || plan.mix_images(&images, patch_size)) {
                prop_assert_eq!((mixed.size(), mixed.kind()), (images.size(), images.kind()));
            }
            let targets = typed("targets", || plan.targets(batch_size, kind, device));
            let targets = targets.and_then(|targets| typed("smoothed", || targets.clone().smoothed(smoothing)).or(Ok(targets)));
            let targets = targets.and_then(|targets: MixTargets| {
                typed("gathered", || targets.clone().gathered(rank, world_size)).or(Ok(targets))
            });
            let Ok(targets) = targets else { continue };
            for (dense, sparse) in [
                (typed("mix_to_origin", || targets.mix_to_origin()), targets.sparse_mix_to_origin()),
                (typed("mix_to_mix", || targets.mix_to_mix()), targets.sparse_mix_to_mix()),
            ] {
                prop_assert!((sparse.shares().iter().map(|(_, share)| share).sum::<f64>() - 1.0).abs() < 1e-9);
                if let Ok(dense) = dense {
                    prop_assert_eq!(dense.size(), [sparse.rows(), sparse.columns()]);
                    prop_assert!(rows_sum_to_one(&dense));
                }
            }
        }
    }

    #[test]
    fn soft_targets_take_anything(
        batch_size in integers(), smoothing in floats(), rank in integers(), world_size in integers(),
        copies in integers(), kind in kinds(), device in devices(),
    ) {
        let target = typed("identity", || SoftTarget::identity(batch_size));
        let target = target.and_then(|target| typed("smoothed", || target.smoothed(smoothing)));
        let target = target.and_then(|target| typed("gathered", || target.gathered(rank, world_size)));
        if let Ok(target) = target {
            prop_assert_eq!(Some(target.columns()), batch_size.checked_mul(world_size));
            let repeated = typed("repeated", || target.clone().repeated(copies));
            prop_assert_eq!(repeated.is_ok(), copies >= 1 && batch_size.checked_mul(copies).is_some());
            let target = repeated.unwrap_or(target);
            if let Ok(dense) = typed("dense", || target.dense(kind, device)) {
                prop_assert!(rows_sum_to_one(&dense));
            }
        }
    }
}

#[test]
fn an_undefined_batch_is_named() {
    let undefined = Tensor::new();
    assert!(matches!(patch_mix(&undefined, 1, 1), Err(Error::Undefined { name: "batch" })));
    let plan = MixPlan::random(4, 2, 1).unwrap();
    assert!(matches!(plan.mix_patches(&undefined), Err(Error::Undefined { name: "batch" })));
    assert!(matches!(plan.mix_images(&undefined, 2), Err(Error::Undefined { name: "images" })));
}

#[test]
fn a_number_alone_allocates_and_works_within_bounds() {
    let most = MixPlan::MOST_PATCHES;
    let error = MixPlan::random(most + 1, 2, 1).unwrap_err();
    assert!(matches!(error, Error::Value { name: "patches", actual, .. } if actual == (most + 1) as f64));
    let error = MixPlan::random(most, MixPlan::MOST_GROUPS + 1, 1).unwrap_err();
    assert!(matches!(error, Error::Value { name: "groups", .. }));
    // As many groups as there may be: sums over pairs of them, each once, as whole numbers.
    let plan = MixPlan::random(20_000, MixPlan::MOST_GROUPS, 3).unwrap();
    let targets = plan.targets(i64::MAX, Kind::Double, CPU).unwrap();
    let shares = targets.sparse_mix_to_mix().shares();
    assert_eq!(shares.len() as i64, 2 * MixPlan::MOST_GROUPS - 1);
    assert!((shares.iter().map(|(_, share)| share).sum::<f64>() - 1.0).abs() < 1e-9);
}

#[test]
fn images_without_channels_are_mixed_and_none_at_all_are_refused() {
    let plan = MixPlan::random(4, 2, 1).unwrap();
    let images = |size: [i64; 4]| Tensor::zeros(size, (Kind::Float, CPU));
    assert_eq!(plan.mix_images(&images([3, 0, 4, 4]), 2).unwrap().size(), [3, 0, 4, 4]);
    let error = plan.mix_images(&images([0, 3, 4, 4]), 2).unwrap_err();
    assert!(matches!(error, Error::SourcesCollide { batch_size: 0, groups: 2, mix_stride: 1, distinct: 0 }));
}

#[test]
fn a_dense_target_that_no_memory_holds_is_refused() {
    let error = SoftTarget::identity(1 << 17).unwrap().dense(Kind::Float, CPU).unwrap_err();
    assert!(matches!(error, Error::Value { name: "batch_size", actual: 131072.0, .. }));
    let gathered = SoftTarget::identity(2).unwrap().gathered(0, 1 << 40).unwrap();
    assert!(matches!(gathered.dense(Kind::Float, CPU), Err(Error::Value { name: "batch_size", actual: 2.0, .. })));
}

/// libtorch's tensors of zeros that take no memory.
#[test]
fn a_batch_without_memory_is_an_error() {
    let batch = Tensor::internal_efficientzerotensor([4, 4, 2], (Kind::Float, CPU));
    assert!(typed("mix_patches", || MixPlan::random(4, 2, 1).unwrap().mix_patches(&batch)).is_err());
}
