//! The animation shows what the library computes.

use patchmix::MixPlan;
use patchmix::data::procedural;
use tch::{Device, Kind};

use super::layout::Arrangement;
use super::story::{origins, rule, sizes};
use super::*;

fn images() -> Tensor {
    procedural(4, 32, 1).unwrap().images
}

/// Patches per side, groups and strides.
const CASES: [(i64, i64, i64); 7] = [(4, 2, 1), (4, 4, 1), (4, 3, -1), (2, 2, 2), (8, 4, 3), (16, 2, 1), (1, 1, 1)];

/// The same plan, from the library alone.
fn plan(side: i64, groups: i64, mix_stride: i64) -> MixPlan {
    tch::manual_seed(5);
    let permutation = Tensor::randperm(side * side, (Kind::Int64, Device::Cpu));
    MixPlan::from_permutation(&Vec::<i64>::try_from(permutation).unwrap(), groups, mix_stride).unwrap()
}

#[test]
fn drawn_mixed_images_match_the_library() {
    for (side, groups, mix_stride) in CASES {
        let mixing = Mixing::new(&images(), side, groups, mix_stride, 5).unwrap();
        let layout = Layout::new(&mixing, ZOOM, true);
        let mixed = plan(side, groups, mix_stride).mix_images(&images(), 32 / side).unwrap();
        for step in steps(&mixing).iter().filter(|step| step.number > 5) {
            let picture = step.scene(1.0).draw(&mixing, &layout).unwrap();
            for image in 0..BATCH {
                for (y, x) in (0..32).flat_map(|y| (0..32).map(move |x| (y, x))) {
                    let expected = [0, 1, 2].map(|channel| mixed.int64_value(&[image as i64, channel, y, x]) as u8);
                    let (left, top) = layout.pixel(step.to, &mixing, image, (x as i32, y as i32));
                    assert_eq!(
                        picture.get_pixel(left as u32, top as u32).0,
                        expected,
                        "{side} {groups} {image} {y} {x}"
                    );
                }
            }
        }
    }
}

#[test]
fn drawn_targets_match_the_library() {
    for (side, groups, mix_stride) in CASES {
        let mixing = Mixing::new(&images(), side, groups, mix_stride, 5).unwrap();
        let targets = plan(side, groups, mix_stride).targets(4).unwrap();
        let both = [
            (&mixing.mix_to_origin, targets.mix_to_origin.dense(Kind::Double, Device::Cpu).unwrap()),
            (&mixing.mix_to_mix, targets.mix_to_mix.dense(Kind::Double, Device::Cpu).unwrap()),
        ];
        for (drawn, target) in both {
            for row in 0..BATCH {
                assert_eq!(drawn.row(row), Vec::<f64>::try_from(target.get(row as i64)).unwrap());
            }
        }
        // The number of patches from each image agrees with the target.
        for (row, image) in (0..BATCH).flat_map(|row| (0..BATCH).map(move |image| (row, image))) {
            let share = mixing.count_from(row, image) as f64 / mixing.patches() as f64;
            assert!((share - mixing.mix_to_origin.row(row)[image]).abs() < 1e-12);
        }
    }
}

#[test]
fn every_patch_goes_to_one_mixed_image_and_keeps_its_position() {
    let mixing = Mixing::new(&images(), 4, 3, 1, 5).unwrap();
    let layout = Layout::new(&mixing, ZOOM, true);
    let patches = || (0..BATCH).flat_map(|image| (0..16).map(move |position| (image, position)));
    use Arrangement::{Cut, Grouped, Mixed, Raised, Restored, Shuffled, Whole};
    for arrangement in [Whole, Cut, Shuffled, Grouped, Mixed, Restored, Raised] {
        let mut places: Vec<_> =
            patches().map(|(image, position)| layout.place(arrangement, &mixing, image, position)).collect();
        places.sort_unstable();
        places.dedup();
        assert_eq!(places.len(), 64, "{arrangement:?}");
        let (width, height) = (layout.size.0 - layout.patch, layout.size.1 - layout.patch);
        assert!(places.iter().all(|(x, y)| (0..=width).contains(x) && (0..=height).contains(y)), "{arrangement:?}");
    }
    for (image, position) in patches() {
        let (_, cut) = layout.place(Cut, &mixing, image, position);
        assert_eq!(layout.place(Restored, &mixing, image, position).1, cut);
    }
}

#[test]
fn captions_match_the_mix() {
    let mixing = Mixing::new(&images(), 4, 3, 1, 5).unwrap();
    assert_eq!(sizes(&mixing), "3 groups of 5, 5 and 6");
    let caption = origins(&mixing, 3);
    assert_eq!(caption, "Mixed image 3 has 5 of its 16 patches from image 0, 6 from image 1 and 5 from image 3.");
    let mixing = Mixing::new(&images(), 4, 2, 1, 5).unwrap();
    assert_eq!(sizes(&mixing), "2 groups of 8");
    for (mix_stride, expected) in [(1, "image i + g,"), (3, "image i + 3 g,"), (-1, "image i - g,")] {
        let mixing = Mixing::new(&images(), 4, 2, mix_stride, 5).unwrap();
        assert!(rule(&mixing).contains(expected), "{}", rule(&mixing));
    }
}

#[test]
fn impossible_mixes_are_explained() {
    let error = |side, groups, mix_stride| {
        Mixing::new(&images(), side, groups, mix_stride, 0).err().map(|error| error.to_string()).unwrap()
    };
    assert!(error(5, 2, 1).contains("--patches-per-side 5"));
    assert!(error(4, 5, 1).contains("5 distinct images"));
    assert!(error(4, 17, 1).contains("17"));
    assert!(error(4, 3, 2).contains("stride 2"));
}
