//! Mixes and their targets, against the published implementation and the definition.

use patchmix::{Error, MixPlan, loss, patch_mix};
use tch::{Device, Kind, Tensor};

use crate::common::Golden;
use crate::turn::{Turn, assert_near};

/// `mixed[i, t] = x[(i + g(t)) mod B, t]`, and the targets A and W, smoothed as `target (1 - ε) + ε / N`, from column
/// `rank B` of `world_size B`.
#[test]
fn mixes_and_targets_equal_the_published_ones() {
    let turn = Turn::take();
    let mut compared = 0;
    for golden in Golden::all("mix_") {
        if golden.name.contains("leftover") || golden.name.contains("collide") {
            continue; // tests/mix shows how the published mix differs
        }
        let name = &golden.name;
        let groups = if golden.setting::<String>("mixed") == "True" { golden.setting("m") } else { 1 };
        let permutation = match golden.has("forward_indexes") {
            true => golden.integers("forward_indexes"),
            false => (0..golden.setting::<i64>("tokens")).collect(),
        };
        let plan = MixPlan::from_permutation(&permutation, groups, 1).unwrap();
        let mixed = plan.mix_images(&turn.put(golden.tensor("x"), Kind::Float), golden.setting("patch_size")).unwrap();
        assert_eq!(mixed.device(), turn.device);
        assert_near(name, &mixed, golden.tensor("mixed"), 0.0);
        let targets = plan
            .targets(golden.setting("batch"))
            .and_then(|targets| targets.smoothed(golden.setting("smoothing")))
            .and_then(|targets| targets.gathered(golden.setting("rank"), golden.setting("world_size")))
            .unwrap();
        for (target, key) in [(&targets.mix_to_origin, "soft_target"), (&targets.mix_to_mix, "soft_mix_target")] {
            let target = target.dense(Kind::Float, turn.device).unwrap();
            assert_eq!(target.device(), turn.device);
            assert_near(name, &target, golden.tensor(key), 3e-7);
        }
        compared += 1;
    }
    assert_eq!(compared, 11, "golden files compared");
}

/// Every patch holds the index of the image it is read from. Groups are uneven, and kinds of all sizes are tested.
#[test]
fn every_patch_is_read_from_the_image_the_definition_names() {
    let turn = Turn::take();
    let (batch_size, patches, side) = (9, 35, 3);
    let image_index = Tensor::arange(batch_size, (Kind::Int64, Device::Cpu)).view([batch_size, 1, 1, 1]);
    let images = image_index.expand([batch_size, 3, 5 * side, 7 * side], false);
    for (groups, mix_stride) in [(1, 1), (4, 1), (4, -2), (9, 4)] {
        let plan = MixPlan::random(patches, groups, mix_stride).unwrap();
        let sources: Vec<i64> = (0..batch_size)
            .flat_map(|image| plan.group_of_position().iter().map(move |group| (image, *group)))
            .map(|(image, group)| (image + group * mix_stride).rem_euclid(batch_size))
            .collect();
        let grid = Tensor::from_slice(&sources).view([batch_size, 1, 5, 1, 7, 1]);
        let expected = grid.expand([batch_size, 3, 5, side, 7, side], false).reshape(images.size());
        for kind in [Kind::Uint8, Kind::Half, Kind::BFloat16, Kind::Float, Kind::Double, Kind::Int64] {
            let mixed = plan.mix_images(&turn.put(&images, kind), side).unwrap();
            assert_eq!((mixed.device(), mixed.kind()), (turn.device, kind));
            assert_eq!(mixed.to(Device::Cpu).to_kind(Kind::Int64), expected, "{groups} groups, {kind:?}");
        }
    }
}

/// The targets of `patch_mix` are on the device of its batch, and the gradient flows back to the source of each patch.
#[test]
fn targets_and_gradient_of_a_mix_are_those_of_its_patches() {
    let turn = Turn::take();
    let image_index = Tensor::arange(6, (Kind::Float, Device::Cpu)).view([6, 1, 1]);
    let batch = turn.put(&image_index.expand([6, 16, 3], false), Kind::Float).set_requires_grad(true);
    let (mixed, mix_to_origin, mix_to_mix) = patch_mix(&batch, 4, 1).unwrap();
    for tensor in [&mixed, &mix_to_origin, &mix_to_mix] {
        assert_eq!((tensor.device(), tensor.kind()), (turn.device, Kind::Float));
    }
    let one_hot = mixed.detach().select(2, 0).to_kind(Kind::Int64).one_hot(6).to_kind(Kind::Float);
    let counted = one_hot.mean_dim(1, false, Kind::Float); // [6, 6]
    assert_near("mix-to-origin", &mix_to_origin, &counted, 1e-7);
    assert_near("mix-to-mix", &mix_to_mix, &counted.matmul(&counted.tr()), 1e-6);
    // The gradient of a patch is the index of the mixed image that it is in.
    let image_index = turn.put(&image_index, Kind::Float);
    (mixed * image_index).sum(Kind::Float).backward();
    let expected = counted.tr().matmul(&Tensor::arange(6, (Kind::Float, turn.device))) * 16.0;
    assert_near("gradient", &batch.grad().select(2, 0).sum_dim_intlist(1, false, Kind::Float), &expected, 1e-6);
}

#[test]
fn tensors_on_two_devices_are_refused() {
    let turn = Turn::take();
    if turn.device == Device::Cpu {
        return; // the only device
    }
    let rows = |device| Tensor::ones([4, 8], (Kind::Float, device));
    let (q, k) = (rows(turn.device), rows(Device::Cpu));
    assert!(matches!(loss::origin_to_origin(&q, &k, 0.2), Err(Error::Device { name: "k", .. })));
    assert!(matches!(loss::mix_to_mix(&q, &q, &k.narrow(1, 0, 4), 0.2), Err(Error::Device { name: "target", .. })));
}
