//! What a mix is, and what its labels say: against brute force, and against the published implementation.
#![allow(clippy::unwrap_used, clippy::expect_used)] // a test may panic, helpers included

mod common;

use common::{Golden, assert_close, largest_difference};
use patchmix::{Error, MixPlan, SoftTarget, patch_mix};
use proptest::prelude::*;
use tch::{Device, Kind, Tensor};

const CPU: Device = Device::Cpu;

/// A plan that fits a batch: every combination of batch size, patches, groups and stride whose sources are distinct.
fn plans() -> impl Strategy<Value = (MixPlan, i64)> {
    (1..20_i64, 1..40_i64, 1..12_i64, -30..30_i64, any::<u64>()).prop_filter_map(
        "sources must be distinct",
        |(batch_size, patches, groups, stride, seed)| {
            let groups = groups.min(patches);
            let plan = MixPlan::from_permutation(&shuffled(patches, seed), groups, stride).unwrap();
            plan.targets(batch_size, Kind::Double, CPU).is_ok().then_some((plan, batch_size))
        },
    )
}

/// A permutation that depends on the seed alone.
fn shuffled(length: i64, seed: u64) -> Vec<i64> {
    let mut state = seed;
    let mut permutation: Vec<i64> = (0..length).collect();
    for last in (1..permutation.len()).rev() {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        permutation.swap(last, (state >> 33) as usize % (last + 1));
    }
    permutation
}

/// The definition, patch by patch: `source[i][t]` is the image that patch `t` of mixed image `i` was taken from.
fn sources(plan: &MixPlan, batch_size: i64) -> Vec<Vec<i64>> {
    (0..batch_size)
        .map(|image| {
            let read_from = |group: &i64| (image + group * plan.mix_stride()).rem_euclid(batch_size);
            plan.group_of_position().iter().map(read_from).collect()
        })
        .collect()
}

/// Both targets by counting patches: the share of mixed image `i` that comes from image `j`, and, for every image, the
/// product of the shares that mixed images `i` and `j` have of it.
fn counted_targets(sources: &[Vec<i64>]) -> (Tensor, Tensor) {
    let size = sources.len();
    let patches = sources[0].len() as f64;
    let mut share = vec![vec![0.0; size]; size];
    for (image, sources) in sources.iter().enumerate() {
        for &source in sources {
            share[image][source as usize] += 1.0 / patches;
        }
    }
    let mut common = vec![vec![0.0; size]; size];
    for i in 0..size {
        for j in 0..size {
            common[i][j] = (0..size).map(|image| share[i][image] * share[j][image]).sum();
        }
    }
    (Tensor::from_slice2(&share), Tensor::from_slice2(&common))
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

    /// A tensor that wants its gradient is mixed by a gather, as on a GPU, and any other in one copy.
    #[test]
    fn the_copy_and_the_gather_mix_alike(
        (rows, columns) in (1..5_i64, 1..5_i64), groups in 1..5_i64, patch in 1..9_i64, batch_size in 5..9_i64,
        kind in prop::sample::select(vec![Kind::Double, Kind::Float, Kind::Half, Kind::BFloat16]), transposed: bool,
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
        let targets = plan.targets(batch_size, Kind::Double, CPU).unwrap();
        let (a, w) = (targets.mix_to_origin().unwrap(), targets.mix_to_mix().unwrap());
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
    fn smoothed_and_gathered_targets_keep_their_place_and_their_sum(
        (plan, batch_size) in plans(), smoothing in 0.0..=1.0_f64, rank in 0..4_i64, more in 1..3_i64,
    ) {
        let world_size = rank + more;
        let plain = plan.targets(batch_size, Kind::Double, CPU).unwrap();
        let target = plain.clone().smoothed(smoothing).unwrap().gathered(rank, world_size).unwrap();
        for (smooth, plain) in
            [(target.mix_to_origin(), plain.mix_to_origin()), (target.mix_to_mix(), plain.mix_to_mix())]
        {
            let classes = batch_size * world_size;
            let expected = Tensor::full([batch_size, classes], smoothing / classes as f64, (Kind::Double, CPU));
            let mut own = expected.narrow(1, rank * batch_size, batch_size);
            own += plain.unwrap() * (1.0 - smoothing);
            prop_assert!(largest_difference(&smooth.unwrap(), &expected) < 1e-12);
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
    fn mixing_images_and_cutting_them_is_cutting_them_and_mixing(
        rows in 1..5_i64, columns in 1..5_i64, patch in 1..4_i64, groups in 1..4_i64, seed in any::<u64>(),
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

    #[test]
    fn group_sizes_differ_by_at_most_one((plan, _) in plans()) {
        let mut sizes = vec![0; plan.groups() as usize];
        plan.group_of_position().iter().for_each(|&group| sizes[group as usize] += 1);
        prop_assert!(sizes.iter().max().unwrap() - sizes.iter().min().unwrap() <= 1);
    }

    #[test]
    fn whatever_the_numbers_the_answer_is_a_plan_or_an_error(
        patches in prop_oneof![any::<i64>(), -3..50_i64], groups in any::<i64>(), small in -3..60_i64,
        stride in any::<i64>(), batch_size in any::<i64>(),
    ) {
        for groups in [groups, small] {
            // Above this many positions, memory is the only limit.
            if let Ok(plan) = MixPlan::random(patches.min(1 << 16), groups, stride) {
                let _ = plan.targets(batch_size, Kind::Float, CPU);
            }
        }
    }
}

/// A permutation that gives the groups of `plan`.
fn permutation_of(plan: &MixPlan) -> Vec<i64> {
    let mut permutation: Vec<i64> = (0..plan.patches()).collect();
    permutation.sort_by_key(|&position| plan.group_of_position()[position as usize]);
    permutation
}

#[test]
fn patch_mix_returns_the_mix_and_its_two_targets() {
    tch::manual_seed(1);
    // Every patch holds the number of its image, so the mix can be read off.
    let batch = Tensor::arange(6, (Kind::Float, CPU)).view([6, 1, 1]).expand([6, 16, 3], false);
    let (mixed, mix_to_origin, mix_to_mix) = patch_mix(&batch, 4, 1).unwrap();
    let one_hot = mixed.select(2, 0).to_kind(Kind::Int64).one_hot(6).to_kind(Kind::Float);
    let counted = one_hot.mean_dim(1, false, Kind::Float);
    assert_close("mix-to-origin", &mix_to_origin, &counted, 1e-7);
    assert_close("mix-to-mix", &mix_to_mix, &counted.matmul(&counted.tr()), 1e-7);
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
fn gradient_flows_to_every_patch_from_where_it_was_moved() {
    let plan = MixPlan::from_permutation(&shuffled(9, 3), 3, 2).unwrap();
    let batch = Tensor::rand([7, 9, 4], (Kind::Double, CPU)).set_requires_grad(true);
    let weight = Tensor::rand([7, 9, 4], (Kind::Double, CPU));
    (plan.mix_patches(&batch).unwrap() * &weight).sum(Kind::Double).backward();
    let back = MixPlan::from_permutation(&shuffled(9, 3), 3, -2).unwrap();
    assert_eq!(batch.grad(), back.mix_patches(&weight).unwrap());
}

#[test]
fn any_kind_and_any_layout_is_mixed_alike() {
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
    // Other tests draw from the same generator while this one runs, so give it a few tries to be undisturbed.
    assert!((0..20).any(|_| draw(7) == draw(7)), "the seed does not decide the plan");
    assert!((0..20).any(|_| draw(7) != draw(8)), "the seed does not change the plan");
}

#[test]
fn what_cannot_be_mixed_is_a_typed_error_with_its_numbers() {
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
    let error = plan.targets(6, Kind::Float, CPU);
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
    assert!(matches!(plan.targets(5, Kind::Int64, CPU), Err(Error::Kind { actual: Kind::Int64, .. })));
    assert!(matches!(SoftTarget::identity(0), Err(Error::Value { name: "batch_size", .. })));
    let identity = || SoftTarget::identity(4).unwrap();
    assert!(matches!(identity().smoothed(f64::NAN), Err(Error::Value { name: "smoothing", .. })));
    assert!(matches!(identity().gathered(2, 2), Err(Error::Value { name: "rank", .. })));
    assert!(matches!(identity().gathered(0, i64::MAX), Err(Error::Value { name: "world_size", .. })));
}

/// The plan of a golden file, and the number of images in its batch.
fn golden_plan(golden: &Golden) -> (MixPlan, i64) {
    let groups = if golden.setting::<String>("mixed") == "True" { golden.setting("m") } else { 1 };
    let patches = golden.setting::<i64>("tokens");
    let permutation = match golden.has("forward_indexes") {
        true => golden.integers("forward_indexes"),
        false => (0..patches).collect(),
    };
    (MixPlan::from_permutation(&permutation, groups, 1).unwrap(), golden.setting("batch"))
}

/// `mixed[i, t] = x[(i + g(t)) mod B, t]`, and the targets A and W, smoothed as
/// `target (1 - ε) + ε / N`, at column `rank B` of `world_size B`.
#[test]
fn mixes_and_targets_equal_the_published_ones() {
    let mut compared = 0;
    for golden in Golden::all("mix_") {
        if golden.name.contains("leftover") || golden.name.contains("collide") {
            continue; // the next two tests
        }
        let (plan, batch_size) = golden_plan(&golden);
        let mixed = plan.mix_images(golden.tensor("x"), golden.setting("patch_size")).unwrap();
        assert_eq!(&mixed, golden.tensor("mixed"), "{}", golden.name);
        let targets = plan
            .targets(batch_size, Kind::Float, CPU)
            .and_then(|targets| targets.smoothed(golden.setting("smoothing")))
            .and_then(|targets| targets.gathered(golden.setting("rank"), golden.setting("world_size")))
            .unwrap();
        let name = &golden.name;
        assert_close(name, &targets.mix_to_origin().unwrap(), golden.tensor("soft_target"), 1e-7);
        assert_close(name, &targets.mix_to_mix().unwrap(), golden.tensor("soft_mix_target"), 1e-7);
        compared += 1;
    }
    assert_eq!(compared, 11, "golden files compared");
}

/// The published code leaves the last `T mod M` shuffled patches unmixed and labels them 1/M all the same. Ours go to
/// the groups as evenly as they can, and the labels count them.
#[test]
fn leftover_patches_are_mixed_and_counted() {
    for golden in Golden::all("mix_leftover") {
        let (plan, batch_size) = golden_plan(&golden);
        assert_ne!(plan.patches() % plan.groups(), 0, "{}", golden.name);
        let patch_size = golden.setting("patch_size");
        let mixed = plan.mix_images(golden.tensor("x"), patch_size).unwrap();
        assert_ne!(&mixed, golden.tensor("mixed"), "{}: agrees with a mix that leaves patches over", golden.name);
        let targets = plan.targets(batch_size, Kind::Double, CPU).unwrap();
        let (counted_a, counted_w) = counted_targets(&sources(&plan, batch_size));
        assert_close(&golden.name, &targets.mix_to_origin().unwrap(), &counted_a, 1e-12);
        assert_close(&golden.name, &targets.mix_to_mix().unwrap(), &counted_w, 1e-12);
    }
}

/// With `2M - 1 > B`, the published mix-to-mix columns overwrite each other and rows sum to less than 1. Ours add up.
/// With `M > B` there are not M distinct images to mix.
#[test]
fn colliding_columns_add_up() {
    for golden in Golden::all("mix_collide") {
        let (plan, batch_size) = golden_plan(&golden);
        if plan.groups() > batch_size {
            assert!(matches!(plan.targets(batch_size, Kind::Float, CPU), Err(Error::SourcesCollide { .. })));
            continue;
        }
        let targets = plan.targets(batch_size, Kind::Double, CPU).unwrap();
        let (counted_a, counted_w) = counted_targets(&sources(&plan, batch_size));
        assert_close(&golden.name, &targets.mix_to_origin().unwrap(), &counted_a, 1e-12);
        assert_close(&golden.name, &targets.mix_to_mix().unwrap(), &counted_w, 1e-12);
        if golden.setting::<i64>("leftover") == 0 {
            let mixed = plan.mix_images(golden.tensor("x"), golden.setting("patch_size")).unwrap();
            assert_eq!(&mixed, golden.tensor("mixed"), "{}", golden.name);
        }
    }
}
