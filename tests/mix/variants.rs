//! Bands instead of scattered patches, and plans per image.

use patchmix::{Error, MixPlan};
use proptest::prelude::*;
use tch::{Kind, Tensor};

use crate::common::{dense, largest_difference};
use crate::{CPU, counted_targets, shuffled, sources};

/// Plans for every image of a batch, joined: scattered patches or bands in grids of up to 5 x 5 blocks.
fn plans_per_image() -> impl Strategy<Value = (MixPlan, i64, (i64, i64))> {
    (1..9_i64, 1..6_i64, 1..6_i64, 1..8_i64, -9..9_i64, any::<u64>(), any::<bool>()).prop_filter_map(
        "sources must be distinct",
        |(batch_size, rows, columns, groups, stride, seed, bands)| {
            let (patches, groups) = (rows * columns, groups.min(rows * columns));
            MixPlan::check_batch_size(batch_size, groups, stride).ok()?;
            let plans = (0..batch_size as u64).map(|image| match bands {
                true => MixPlan::bands(rows, columns, groups, stride),
                false => MixPlan::from_permutation(&shuffled(patches, seed ^ (image << 32)), groups, stride),
            });
            let plans = plans.collect::<Result<Vec<_>, _>>().unwrap();
            Some((MixPlan::per_image(&plans).unwrap(), batch_size, (rows, columns)))
        },
    )
}

proptest! {
    /// Every patch of an image that holds its own number tells where it comes from; both targets are what is counted.
    #[test]
    fn targets_of_a_plan_per_image_are_the_counted_shares((plan, batch_size, _) in plans_per_image()) {
        let patches = plan.patches();
        let batch = Tensor::arange(batch_size, (Kind::Int64, CPU)).view([batch_size, 1, 1]);
        let mixed = plan.mix_patches(&batch.expand([batch_size, patches, 2], false)).unwrap();
        let read_from = |image: i64| Vec::<i64>::try_from(mixed.get(image).select(1, 1)).unwrap();
        let counted: Vec<Vec<i64>> = (0..batch_size).map(read_from).collect();
        prop_assert_eq!(&counted, &sources(&plan, batch_size));
        let (a, w) = counted_targets(&counted);
        let targets = plan.targets(batch_size).unwrap();
        prop_assert!(largest_difference(&dense(&targets.mix_to_origin), &a) < 1e-12);
        prop_assert!(largest_difference(&dense(&targets.mix_to_mix), &w) < 1e-12);
        let scattered = MixPlan::random(patches, plan.groups(), plan.mix_stride()).unwrap();
        prop_assert_eq!(targets, scattered.targets(batch_size).unwrap());
    }

    /// As images and as patches, with and without a gradient.
    #[test]
    fn mixing_images_each_by_its_plan_is_mixing_their_patches(
        (plan, batch_size, (rows, columns)) in plans_per_image(),
        patch in 1..4_i64,
        requires_grad: bool,
    ) {
        let shape = [batch_size, 3, rows * patch, columns * patch];
        let images = Tensor::rand(shape, (Kind::Float, CPU)).set_requires_grad(requires_grad);
        let cut = |images: &Tensor| {
            images.view([batch_size, 3, rows, patch, columns, patch]).permute([0, 2, 4, 1, 3, 5])
                .reshape([batch_size, rows * columns, 3 * patch * patch])
        };
        let mixed = plan.mix_images(&images, patch).unwrap();
        prop_assert_eq!(mixed.requires_grad(), requires_grad);
        prop_assert_eq!(cut(&mixed), plan.mix_patches(&cut(&images)).unwrap());
    }

    /// Joined plans that are all the same are that plan.
    #[test]
    fn a_plan_per_image_with_one_partition_mixes_all_images_alike(groups in 1..5_i64, seed in any::<u64>()) {
        let plan = MixPlan::from_permutation(&shuffled(12, seed), groups, 2).unwrap();
        let joined = MixPlan::per_image(&vec![plan.clone(); 9]).unwrap();
        let images = Tensor::rand([9, 3, 6, 8], (Kind::Double, CPU));
        prop_assert_eq!(joined.mix_images(&images, 2).unwrap(), plan.mix_images(&images, 2).unwrap());
    }

    /// In the order of rows or of columns and around the end, every group is one run of its size.
    #[test]
    fn a_band_is_one_run_of_rows_or_of_columns((rows, columns) in (1..7_i64, 1..7_i64), groups in 1..9_i64) {
        let groups = groups.min(rows * columns);
        let plan = MixPlan::bands(rows, columns, groups, 1).unwrap();
        let by_rows = plan.group_of_position().to_vec();
        let place = |place: i64| by_rows[(place % rows * columns + place / rows) as usize];
        let by_columns: Vec<i64> = (0..rows * columns).map(place).collect();
        // Where a group begins, around the circle: once for each group, in their order.
        let is_runs = |groups_in_order: &[i64]| {
            let before = groups_in_order.iter().rev().take(1).chain(groups_in_order);
            let begins = before.zip(groups_in_order).filter(|(one, next)| one != next);
            let begins: Vec<i64> = begins.map(|(_, next)| *next).collect();
            let next = |(one, next): (&i64, &i64)| (one + 1) % groups == *next;
            let wanted = if groups == 1 { 0 } else { groups as usize };
            begins.len() == wanted && begins.iter().zip(begins.iter().cycle().skip(1)).all(next)
        };
        prop_assert!(is_runs(&by_rows) || is_runs(&by_columns), "{:?}", by_rows);
        let scattered = MixPlan::random(rows * columns, groups, 1).unwrap();
        prop_assert_eq!(plan.targets(40).unwrap(), scattered.targets(40).unwrap());
    }
}

/// From 200 draws; a start or a direction that never came up would have odds below 1 to 10^10.
#[test]
fn bands_begin_everywhere_and_run_both_ways() {
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..200 {
        seen.insert(MixPlan::bands(2, 2, 2, 1).unwrap().group_of_position().to_vec());
    }
    // Two rows or two columns, begun at any of four positions.
    let expected: [&[i64]; 6] =
        [&[0, 0, 1, 1], &[0, 1, 0, 1], &[0, 1, 1, 0], &[1, 0, 0, 1], &[1, 0, 1, 0], &[1, 1, 0, 0]];
    assert_eq!(seen.iter().map(Vec::as_slice).collect::<Vec<_>>(), expected);
}

#[test]
fn the_gradient_of_a_plan_per_image_flows_to_the_source_of_every_patch() {
    let plans: Vec<MixPlan> = (0..4).map(|seed| MixPlan::from_permutation(&shuffled(6, seed), 3, 1).unwrap()).collect();
    let plan = MixPlan::per_image(&plans).unwrap();
    let batch = Tensor::rand([4, 6, 2], (Kind::Double, CPU)).set_requires_grad(true);
    let weight = Tensor::rand([4, 6, 2], (Kind::Double, CPU));
    (plan.mix_patches(&batch).unwrap() * &weight).sum(Kind::Double).backward();
    let mut expected = vec![0.0; 4 * 6 * 2];
    for (image, sources) in sources(&plan, 4).iter().enumerate() {
        for (patch, &source) in sources.iter().enumerate() {
            for column in 0..2 {
                let from = weight.double_value(&[image as i64, patch as i64, column]);
                expected[(source as usize * 6 + patch) * 2 + column as usize] += from;
            }
        }
    }
    assert!(largest_difference(&batch.grad(), &Tensor::from_slice(&expected).view([4, 6, 2])) < 1e-12);
}

#[test]
fn plans_that_do_not_belong_together_are_refused() {
    let plan = |patches, groups, stride| MixPlan::random(patches, groups, stride).unwrap();
    let refused = |plans: &[MixPlan], wanted: &str| {
        let error = MixPlan::per_image(plans).unwrap_err();
        assert!(matches!(error, Error::Value { name, .. } if name == wanted), "{error}");
    };
    refused(&[], "number of plans");
    refused(&[plan(6, 2, 1), plan(5, 2, 1)], "patches of a plan");
    refused(&[plan(6, 2, 1), plan(6, 3, 1)], "groups of a plan");
    refused(&[plan(6, 2, 1), plan(6, 2, 3)], "mix_stride of a plan");
    let joined = MixPlan::per_image(&[plan(4, 2, 1), plan(4, 2, 1)]).unwrap();
    refused(&[joined.clone(), joined.clone()], "images of a plan");
    refused(&[MixPlan::per_image(&[plan(4, 2, 1)]).unwrap()], "images of a plan");

    let floats = |shape: &[i64]| Tensor::zeros(shape, (Kind::Float, CPU));
    assert!(matches!(joined.mix_patches(&floats(&[3, 4, 1])), Err(Error::Shape { name: "batch", .. })));
    assert!(matches!(joined.mix_images(&floats(&[3, 1, 2, 2]), 1), Err(Error::Shape { name: "images", .. })));
    assert!(matches!(joined.targets(3), Err(Error::Value { name: "batch_size", .. })));
    assert_eq!((joined.patches(), joined.targets(2).is_ok()), (4, true));
    assert!(matches!(MixPlan::bands(0, 4, 1, 1), Err(Error::Value { name: "rows", .. })));
    assert!(matches!(MixPlan::bands(-2, -2, 1, 1), Err(Error::Value { name: "rows", .. })));
    assert!(matches!(MixPlan::bands(2, 2, 5, 1), Err(Error::Groups { groups: 5, patches: 4 })));
    assert!(matches!(MixPlan::bands(i64::MAX, 2, 2, 1), Err(Error::Value { name: "patches", .. })));
}
