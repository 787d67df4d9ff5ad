//! Properties that hold for every plan.

use std::collections::HashSet;

use patchmix::{Error, MixPlan};
use proptest::prelude::*;
use tch::{Kind, Tensor};

use crate::common::{dense, largest_difference};
use crate::{CPU, counted_targets, shuffled, sources};

/// Plans with a batch size that they can mix.
fn plans() -> impl Strategy<Value = (MixPlan, i64)> {
    (1..20_i64, 1..40_i64, 1..12_i64, -30..30_i64, any::<u64>()).prop_filter_map(
        "sources must be distinct",
        |(batch_size, patches, groups, stride, seed)| {
            let groups = groups.min(patches);
            let plan = MixPlan::from_permutation(&shuffled(patches, seed), groups, stride).unwrap();
            MixPlan::check_batch_size(batch_size, groups, stride).is_ok().then_some((plan, batch_size))
        },
    )
}

/// Rows and columns of patches.
fn grids() -> impl Strategy<Value = (i64, i64)> {
    (1..5_i64, 1..5_i64)
}

fn float_kinds() -> impl Strategy<Value = Kind> {
    prop::sample::select(vec![Kind::Double, Kind::Float, Kind::Half, Kind::BFloat16])
}

/// A rank and the world size.
fn ranks() -> impl Strategy<Value = (i64, i64)> {
    (0..4_i64, 1..3_i64).prop_map(|(rank, more)| (rank, rank + more))
}

/// A permutation from which the groups of `plan` can be built again.
fn permutation_of(plan: &MixPlan) -> Vec<i64> {
    let mut permutation: Vec<i64> = (0..plan.patches()).collect();
    permutation.sort_by_key(|&position| plan.group_of_position()[position as usize]);
    permutation
}

proptest! {
    #[test]
    fn every_patch_is_read_from_the_image_the_definition_names((plan, batch_size) in plans(), width in 0..4_i64) {
        let batch = Tensor::arange(batch_size * plan.patches() * width, (Kind::Int64, CPU))
            .view([batch_size, plan.patches(), width]);
        let mixed = plan.mix_patches(&batch).unwrap();
        for (image, sources) in sources(&plan, batch_size).iter().enumerate() {
            for (position, &source) in sources.iter().enumerate() {
                let (image, position) = (image as i64, position as i64);
                prop_assert_eq!(mixed.get(image).get(position), batch.get(source).get(position));
            }
        }
    }

    /// A tensor that requires a gradient is mixed by a gather, as on a GPU, others by a copy.
    #[test]
    fn the_copy_and_the_gather_give_the_same_mix(
        (rows, columns) in grids(),
        groups in 1..5_i64,
        patch in 1..9_i64,
        batch_size in 5..9_i64,
        kind in float_kinds(),
        transposed: bool,
    ) {
        let plan = MixPlan::random(rows * columns, groups.min(rows * columns), 1).unwrap();
        let shape = [batch_size, 3, rows * patch, columns * patch];
        let images = match transposed {
            true => Tensor::rand([shape[0], shape[2], shape[3], shape[1]], (Kind::Float, CPU)).permute([0, 3, 1, 2]),
            false => Tensor::rand(shape, (Kind::Float, CPU)),
        };
        let images = images.to_kind(kind);
        let copied = plan.mix_images(&images, patch).unwrap();
        let gathered = plan.mix_images(&images.copy().set_requires_grad(true), patch).unwrap();
        prop_assert!(!copied.requires_grad() && gathered.requires_grad());
        prop_assert_eq!(copied, gathered.detach());
    }

    #[test]
    fn targets_are_the_counted_shares_and_rows_sum_to_one((plan, batch_size) in plans()) {
        let targets = plan.targets(batch_size).unwrap();
        let (a, w) = (dense(&targets.mix_to_origin), dense(&targets.mix_to_mix));
        let (counted_a, counted_w) = counted_targets(&sources(&plan, batch_size));
        prop_assert!(largest_difference(&a, &counted_a) < 1e-12);
        prop_assert!(largest_difference(&w, &counted_w) < 1e-12);
        prop_assert!(largest_difference(&w, &a.matmul(&a.tr())) < 1e-12, "W = A Aᵀ");
        let ones = Tensor::ones([batch_size], (Kind::Double, CPU));
        for target in [a, w] {
            prop_assert!(largest_difference(&target.sum_dim_intlist(1, false, Kind::Double), &ones) < 1e-12);
        }
    }

    #[test]
    fn smoothing_and_gathering_follow_their_formulas(
        (plan, batch_size) in plans(),
        smoothing in 0.0..=1.0_f64,
        (rank, world_size) in ranks(),
    ) {
        let plain = plan.targets(batch_size).unwrap();
        let target = plain.clone().smoothed(smoothing).unwrap().gathered(rank, world_size).unwrap();
        for (smooth, plain) in
            [(target.mix_to_origin, plain.mix_to_origin), (target.mix_to_mix, plain.mix_to_mix)]
        {
            let classes = batch_size * world_size;
            let expected = Tensor::full([batch_size, classes], smoothing / classes as f64, (Kind::Double, CPU));
            let mut own = expected.narrow(1, rank * batch_size, batch_size);
            own += dense(&plain) * (1.0 - smoothing);
            prop_assert!(largest_difference(&dense(&smooth), &expected) < 1e-12);
        }
    }

    #[test]
    fn mixing_back_gives_the_batch((plan, batch_size) in plans()) {
        let permutation = permutation_of(&plan);
        let back = MixPlan::from_permutation(&permutation, plan.groups(), -plan.mix_stride()).unwrap();
        let batch = Tensor::arange(batch_size * plan.patches(), (Kind::Int64, CPU)).view([batch_size, -1, 1]);
        prop_assert_eq!(back.mix_patches(&plan.mix_patches(&batch).unwrap()).unwrap(), batch);
    }

    #[test]
    fn mixing_images_is_mixing_their_patches(
        (rows, columns) in grids(),
        patch in 1..4_i64,
        groups in 1..4_i64,
        seed in any::<u64>(),
    ) {
        let plan = MixPlan::from_permutation(&shuffled(rows * columns, seed), groups.min(rows * columns), 1).unwrap();
        let (batch_size, channels) = (5, 2);
        let (height, width) = (rows * patch, columns * patch);
        let images = Tensor::arange(batch_size * channels * height * width, (Kind::Int64, CPU))
            .view([batch_size, channels, height, width]);
        let cut = |images: &Tensor| {
            images.view([batch_size, channels, rows, patch, columns, patch]).permute([0, 2, 4, 1, 3, 5])
                .reshape([batch_size, rows * columns, channels * patch * patch])
        };
        let mixed = plan.mix_images(&images, patch).unwrap();
        prop_assert_eq!(cut(&mixed), plan.mix_patches(&cut(&images)).unwrap());
    }

    /// By brute force: whether the source images of a mixed image are distinct.
    #[test]
    fn a_batch_can_be_mixed_if_its_sources_are_distinct(
        batch_size in -2..40_i64,
        groups in -2..16_i64,
        stride in prop_oneof![-50..50_i64, any::<i64>()],
    ) {
        let result = MixPlan::check_batch_size(batch_size, groups, stride);
        if groups < 1 {
            let refused = matches!(result, Err(Error::Value { name: "groups", .. }));
            prop_assert!(refused, "{:?}", result);
            return Ok(());
        }
        let source = |group: i64| (i128::from(group) * i128::from(stride)).rem_euclid(i128::from(batch_size));
        let sources: HashSet<i128> = (0..batch_size).map(source).collect(); // empty without images
        let expected = sources.len() as i64;
        match result {
            Ok(()) => prop_assert!(expected >= groups),
            Err(Error::SourcesCollide { distinct, .. }) => {
                prop_assert!(expected < groups);
                prop_assert_eq!(distinct, expected);
            }
            Err(error) => prop_assert!(false, "{}", error),
        }
        // A plan agrees. Group sizes do not matter, so one patch per group will do.
        let plan = MixPlan::random(groups, groups, stride).unwrap();
        prop_assert_eq!(plan.targets(batch_size).is_ok(), expected >= groups);
    }

    #[test]
    fn group_sizes_differ_by_at_most_one((plan, _) in plans()) {
        let mut sizes = vec![0; plan.groups() as usize];
        plan.group_of_position().iter().for_each(|&group| sizes[group as usize] += 1);
        prop_assert!(sizes.iter().max().unwrap() - sizes.iter().min().unwrap() <= 1);
    }

    #[test]
    fn any_numbers_give_a_plan_or_an_error(
        patches in prop_oneof![any::<i64>(), -3..50_i64],
        any_groups in any::<i64>(),
        few_groups in -3..60_i64,
        stride in any::<i64>(),
        batch_size in any::<i64>(),
    ) {
        for groups in [any_groups, few_groups] {
            // More patches would only take longer.
            if let Ok(plan) = MixPlan::random(patches.min(1 << 16), groups, stride) {
                let _ = plan.targets(batch_size);
            }
        }
    }
}
