//! `patch_mix`, `MixPlan`, `SoftTarget` and `MixTargets`, with any arguments.

use approx::{abs_diff_eq, assert_abs_diff_eq};
use patchmix::{Error, MixPlan, SoftTarget, patch_mix};
use proptest::prelude::*;
use tch::{Kind, Tensor};

use crate::any::*;
use crate::typed;

/// Tensors, mostly with this number of dimensions.
fn batches(dimensions: usize) -> impl Strategy<Value = AnyTensor> {
    prop_oneof![3 => tensor_of(prop::collection::vec(sizes(), dimensions)), 1 => tensors()]
}

/// Lists of integers, half of them a permutation of four positions.
fn permutations() -> impl Strategy<Value = Vec<i64>> {
    prop_oneof![prop::collection::vec(integers(), 0..9), Just(vec![2, 0, 3, 1])]
}

/// Whether all rows sum to 1, up to the rounding of their kind.
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
        batch in batches(3),
        groups in integers(),
        mix_stride in integers(),
    ) {
        let tensor = batch.make();
        if let Ok((mixed, origin, mix)) = typed("patch_mix", || patch_mix(&tensor, groups, mix_stride)) {
            prop_assert!(batch.is_small(), "of a huge or undefined tensor");
            prop_assert_eq!((mixed.size(), mixed.kind()), (tensor.size(), tensor.kind()));
            prop_assert!(rows_sum_to_one(&origin) && rows_sum_to_one(&mix));
        }
    }

    #[test]
    fn plans_take_anything(
        (patches, groups, mix_stride, batch_size) in (integers(), integers(), integers(), integers()),
        permutation in permutations(),
        images in batches(4),
        patch_size in integers(),
        (kind, device) in (kinds(), devices()),
        smoothing in floats(),
        (rank, world_size) in (integers(), integers()),
    ) {
        let images = images.make();
        let checked = typed("check_batch_size", || MixPlan::check_batch_size(batch_size, groups, mix_stride));
        prop_assert!(checked.is_err() || (1..=batch_size).contains(&groups));
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
            let targets = typed("targets", || plan.targets(batch_size));
            let Ok(plain) = targets else { continue };
            let smoothed = typed("smoothed", || plain.clone().smoothed(smoothing)).unwrap_or(plain);
            let targets = typed("gathered", || smoothed.clone().gathered(rank, world_size)).unwrap_or(smoothed);
            for sparse in [&targets.mix_to_origin, &targets.mix_to_mix] {
                let dense = typed("dense", || sparse.dense(kind, device));
                let sum: f64 = sparse.shares().iter().map(|(_, share)| share).sum();
                prop_assert!(abs_diff_eq!(sum, 1.0, epsilon = 1e-9), "{}", sum);
                if let Ok(dense) = dense {
                    prop_assert_eq!(dense.size(), [sparse.rows(), sparse.columns()]);
                    prop_assert!(rows_sum_to_one(&dense));
                }
            }
        }
    }

    #[test]
    fn soft_targets_take_anything(
        batch_size in integers(),
        smoothing in floats(),
        (rank, world_size) in (integers(), integers()),
        copies in integers(),
        (kind, device) in (kinds(), devices()),
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
fn large_numbers_are_refused_before_they_allocate() {
    let (max_patches, max_groups) = (1 << 24, 1 << 14);
    let error = MixPlan::random(max_patches + 1, 2, 1).unwrap_err();
    assert!(matches!(error, Error::Value { name: "patches", actual, .. } if actual == (max_patches + 1) as f64));
    let error = MixPlan::random(max_patches, max_groups + 1, 1).unwrap_err();
    assert!(matches!(error, Error::Value { name: "groups", .. }));
    // The largest number of groups. The mix-to-mix target sums over all pairs of them.
    let plan = MixPlan::random(20_000, max_groups, 3).unwrap();
    let targets = plan.targets(i64::MAX).unwrap();
    let shares = targets.mix_to_mix.shares();
    assert_eq!(shares.len() as i64, 2 * max_groups - 1);
    let sum: f64 = shares.iter().map(|(_, share)| share).sum();
    assert_abs_diff_eq!(sum, 1.0, epsilon = 1e-9);
}

#[test]
fn images_without_channels_are_mixed_and_an_empty_batch_is_refused() {
    let plan = MixPlan::random(4, 2, 1).unwrap();
    let images = |size: [i64; 4]| Tensor::zeros(size, (Kind::Float, CPU));
    assert_eq!(plan.mix_images(&images([3, 0, 4, 4]), 2).unwrap().size(), [3, 0, 4, 4]);
    let error = plan.mix_images(&images([0, 3, 4, 4]), 2).unwrap_err();
    assert!(matches!(error, Error::SourcesCollide { batch_size: 0, groups: 2, mix_stride: 1, distinct: 0 }));
}

#[test]
fn a_dense_target_beyond_the_limit_is_refused() {
    let error = SoftTarget::identity(1 << 17).unwrap().dense(Kind::Float, CPU).unwrap_err();
    assert!(matches!(error, Error::Value { name: "batch_size", actual: 131072.0, .. }));
    let gathered = SoftTarget::identity(2).unwrap().gathered(0, 1 << 40).unwrap();
    assert!(matches!(gathered.dense(Kind::Float, CPU), Err(Error::Value { name: "batch_size", actual: 2.0, .. })));
}

/// An empty batch, and one that is expanded from a few numbers, may have any size at all.
#[test]
fn images_of_absurd_size_without_memory_to_match_are_mixed_or_refused() {
    let sides = [1_i64 << 20, 1 << 31, 1 << 40];
    for side in sides {
        let plan = MixPlan::random(4, 2, 1).unwrap();
        for size in [[0, 3, 2 * side, 2 * side], [2, 0, 2 * side, 2 * side]] {
            let Ok(images) = Tensor::f_zeros(size, (Kind::Float, CPU)) else { continue };
            let mixed = typed("mix_images", || plan.mix_images(&images, side));
            match size[0] {
                0 => assert!(matches!(mixed, Err(Error::SourcesCollide { .. })), "{mixed:?}"),
                _ => assert_eq!(mixed.unwrap().size(), size),
            }
        }
        let Ok(expanded) = Tensor::zeros([2, 1, 1, 1], (Kind::Float, CPU)).f_expand([-1, -1, side, side], false) else {
            continue;
        };
        let whole = MixPlan::random(1, 1, 1).unwrap();
        assert!(typed("mix_images", || whole.mix_images(&expanded, side)).is_err(), "{side}");
    }
}

/// libtorch has tensors of zeros without storage, and views whose numbers are stored with the other sign.
#[test]
fn tensors_without_plain_storage_are_mixed_like_their_copies() {
    let plan = MixPlan::random(4, 2, 1).unwrap();
    let numbers = Tensor::arange(32, (Kind::Float, CPU)).view([4, 4, 2]);
    for batch in [Tensor::internal_efficientzerotensor([4, 4, 2], (Kind::Float, CPU)), numbers.internal_neg_view()] {
        let copy = Tensor::zeros([4, 4, 2], (Kind::Float, CPU)) + &batch;
        assert_eq!(plan.mix_patches(&batch).unwrap(), plan.mix_patches(&copy).unwrap());
    }
}
