use tch::{Device, Kind};

use super::*;

/// Images with a colour each and some structure, mixed as PatchMix does without shuffling: by columns of patches.
fn row(images: &Tensor, groups: i64) -> MixRow {
    let batch = images.size()[0];
    let width = images.size()[3];
    let mixed = Tensor::zeros_like(images);
    let mut origin = Tensor::zeros([batch, batch], (Kind::Float, Device::Cpu));
    for group in 0..groups {
        let part = |images: &Tensor| images.narrow(3, group * width / groups, width / groups);
        part(&mixed).copy_(&part(&images.roll([-group], [0])));
        origin += Tensor::eye(batch, (Kind::Float, Device::Cpu)).roll([group], [1]) / groups as f64;
    }
    let mix_to_mix = origin.matmul(&origin.tr());
    MixRow { groups, mixed, mix_to_origin: origin, mix_to_mix }
}

fn images(batch: i64, height: i64, width: i64) -> Tensor {
    let values = Tensor::arange(batch * 3 * height * width, (Kind::Int64, Device::Cpu));
    (values * 37).remainder(251).to_kind(Kind::Uint8).view([batch, 3, height, width])
}

fn draw(images: &Tensor, groups: &[i64]) -> image::RgbImage {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("mix.png");
    let rows: Vec<MixRow> = groups.iter().map(|&groups| row(images, groups)).collect();
    mix_picture(&path, images, 4, &rows).unwrap();
    image::open(path).unwrap().into_rgb8()
}

#[test]
fn the_picture_has_a_row_for_each_way_to_mix() {
    let images = images(8, 32, 32);
    let (three, one) = (draw(&images, &[2, 4, 8]), draw(&images, &[2]));
    assert_eq!(three.dimensions(), (1898, 1158));
    assert_eq!(one.width(), three.width());
    assert!(one.height() < three.height());
    assert_ne!(draw(&images, &[2]), draw(&images, &[4]));
    assert_ne!(draw(&images, &[2]), draw(&(&images + 1), &[2]));
}

#[test]
fn pixels_are_enlarged_without_blur() {
    let images = images(8, 32, 32);
    let picture = draw(&images, &[2]);
    let byte = |channel| images.int64_value(&[3, channel, 5, 7]) as u8;
    let (left, top) = (MARGIN + 3 * (160 + GAP) + 7 * 5, MARGIN + TITLE + 5 * 5);
    for (x, y) in [(0, 0), (4, 0), (0, 4), (4, 4)] {
        let pixel = picture.get_pixel((left + x) as u32, (top + y) as u32);
        assert_eq!(pixel.0, [byte(0), byte(1), byte(2)]);
    }
}

#[test]
fn other_sizes_fit() {
    for (batch, height, width) in [(1, 32, 32), (3, 8, 16), (20, 32, 32), (52, 8, 8), (8, 224, 224), (8, 700, 600)] {
        let picture = draw(&images(batch, height, width), &[1]);
        assert!(picture.width() < 2800 && picture.height() < 1400, "{:?}", picture.dimensions());
    }
}

#[test]
fn wrong_shapes_are_named() {
    let images = images(8, 32, 32);
    let path = Path::new("never-written.png");
    let error = mix_picture(path, &images.narrow(1, 0, 2), 4, &[]).unwrap_err().to_string();
    assert!(error.contains("[8, 2, 32, 32]"), "{error}");
    let bad = MixRow { mix_to_mix: Tensor::zeros([8, 7], (Kind::Float, Device::Cpu)), ..row(&images, 2) };
    let error = mix_picture(path, &images, 4, &[bad]).unwrap_err().to_string();
    assert!(error.contains("mix-to-mix") && error.contains("[8, 7]"), "{error}");
}
