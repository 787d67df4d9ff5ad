//! Mixes and targets of the published implementation.

use patchmix::{Error, MixPlan};

use crate::common::{Golden, assert_close, dense};
use crate::{counted_targets, sources};

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

/// `mixed[i, t] = x[(i + g(t)) mod B, t]`, and the targets A and W, smoothed as `target (1 - ε) + ε / N`, from column
/// `rank B` of `world_size B`.
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
            .targets(batch_size)
            .and_then(|targets| targets.smoothed(golden.setting("smoothing")))
            .and_then(|targets| targets.gathered(golden.setting("rank"), golden.setting("world_size")))
            .unwrap();
        let name = &golden.name;
        assert_close(name, &dense(&targets.mix_to_origin), golden.tensor("soft_target"), 1e-7);
        assert_close(name, &dense(&targets.mix_to_mix), golden.tensor("soft_mix_target"), 1e-7);
        compared += 1;
    }
    assert_eq!(compared, 11, "golden files compared");
}

/// The published code leaves the last `T mod M` shuffled patches unmixed, with targets of 1/M all the same. Here they
/// are spread over the groups, and the targets count them.
#[test]
fn leftover_patches_are_mixed_and_counted() {
    for golden in Golden::all("mix_leftover") {
        let (plan, batch_size) = golden_plan(&golden);
        assert_ne!(plan.patches() % plan.groups(), 0, "{}", golden.name);
        let patch_size = golden.setting("patch_size");
        let mixed = plan.mix_images(golden.tensor("x"), patch_size).unwrap();
        assert_ne!(&mixed, golden.tensor("mixed"), "{}: leaves patches unmixed", golden.name);
        let targets = plan.targets(batch_size).unwrap();
        let (counted_a, counted_w) = counted_targets(&sources(&plan, batch_size));
        assert_close(&golden.name, &dense(&targets.mix_to_origin), &counted_a, 1e-12);
        assert_close(&golden.name, &dense(&targets.mix_to_mix), &counted_w, 1e-12);
    }
}

/// With `2M - 1 > B`, the published mix-to-mix columns overwrite each other and rows sum to less than 1. Here they add
/// up. With `M > B` there are not enough distinct images.
#[test]
fn colliding_columns_add_up() {
    for golden in Golden::all("mix_collide") {
        let (plan, batch_size) = golden_plan(&golden);
        if plan.groups() > batch_size {
            assert!(matches!(plan.targets(batch_size), Err(Error::SourcesCollide { .. })));
            continue;
        }
        let targets = plan.targets(batch_size).unwrap();
        let (counted_a, counted_w) = counted_targets(&sources(&plan, batch_size));
        assert_close(&golden.name, &dense(&targets.mix_to_origin), &counted_a, 1e-12);
        assert_close(&golden.name, &dense(&targets.mix_to_mix), &counted_w, 1e-12);
        if golden.setting::<i64>("leftover") == 0 {
            let mixed = plan.mix_images(golden.tensor("x"), golden.setting("patch_size")).unwrap();
            assert_eq!(&mixed, golden.tensor("mixed"), "{}", golden.name);
        }
    }
}
