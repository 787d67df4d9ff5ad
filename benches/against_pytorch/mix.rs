//! Mixing whole images, against a clone, masks and rolls, and the published procedure in PyTorch.

use patchmix::MixPlan;
use tch::{Kind, Tensor};

use crate::peer::Peer;
use crate::{budget, device, heading, is_rehearsal, medians, milliseconds, row, timed, times};

pub(crate) fn run(peer: &mut Peer) {
    let columns = [
        "images",
        "patch",
        "M",
        "clone",
        "copy in place",
        "patchmix",
        "patchmix / clone",
        "masks and rolls",
        "PyTorch",
        "PyTorch / patchmix",
    ];
    heading("Mixing images, with both targets", &columns);
    let [small, large] = if is_rehearsal() { [16, 8] } else { [512, 256] };
    for (shape, patch) in [([small, 3, 32, 32], 2), ([large, 3, 224, 224], 16)] {
        let images = Tensor::rand(shape, (Kind::Float, device()));
        let mut memory = images.copy();
        let [batch, _, side, _] = shape;
        for groups in [2, 4, 8] {
            let mixed = || {
                let plan = MixPlan::random((side / patch) * (side / patch), groups, 1).unwrap();
                (plan.mix_images(&images, patch).unwrap(), plan.targets(batch).unwrap())
            };
            let plan = MixPlan::random((side / patch) * (side / patch), groups, 1).unwrap();
            let masks = masks(&plan, side, patch);
            assert_eq!(plan.mix_images(&images, patch).unwrap(), masks_and_rolls(&images, &masks));
            let case = format!("mix {batch} {side} {patch} {groups}");
            let [clone, copy, ours, rolls, pytorch] = medians(
                budget(12),
                [
                    &mut || timed(|| images.copy()),
                    &mut || timed(|| memory.copy_(&images)),
                    &mut || timed(mixed),
                    &mut || timed(|| masks_and_rolls(&images, &masks)),
                    &mut || peer.seconds(&case),
                ],
            );
            row(&[
                format!("{shape:?}"),
                patch.to_string(),
                groups.to_string(),
                milliseconds(clone),
                milliseconds(copy),
                milliseconds(ours),
                times(ours / clone),
                milliseconds(rolls),
                milliseconds(pytorch),
                times(pytorch / ours),
            ]);
        }
    }
}

/// A mask per group: 1 for its pixels, 0 elsewhere.
fn masks(plan: &MixPlan, side: i64, patch: i64) -> Vec<Tensor> {
    let across = side / patch;
    let group = Tensor::from_slice(plan.group_of_position()).view([across, 1, across, 1]);
    let group = group.expand([across, patch, across, patch], false).reshape([side, side]);
    (0..plan.groups()).map(|index| group.eq(index).to_kind(Kind::Float).to(device())).collect()
}

/// The batch rolled for every group, masked, and summed.
fn masks_and_rolls(images: &Tensor, masks: &[Tensor]) -> Tensor {
    let mut mixed = images * &masks[0];
    for (group, mask) in masks.iter().enumerate().skip(1) {
        let _ = mixed.f_addcmul_(&images.roll([-(group as i64)], [0]), mask).unwrap();
    }
    mixed
}
