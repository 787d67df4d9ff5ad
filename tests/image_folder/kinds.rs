//! Every kind of file shows what viewers show.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use image::{DynamicImage, ImageBuffer, Luma, LumaA, Rgb, RgbImage, Rgba};
use patchmix::data::{Cut, ImageFolder};
use tch::{Kind, Tensor};

use crate::{picture, random_cut, read, save};

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/images").join(name)
}

/// Writes a copy of a fixture.
fn copy_of(name: impl AsRef<str>) -> impl Fn(&Path) {
    move |path| {
        fs::copy(fixture(name.as_ref()), path).unwrap();
    }
}

/// What `cut` makes of the file that `write` writes to a path with this ending: `[3, size, size]`.
fn cut_of(ending: &str, cut: Cut, write: impl FnOnce(&Path)) -> Tensor {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("class").join(format!("file.{ending}"));
    fs::create_dir(path.parent().unwrap()).unwrap();
    write(&path);
    let folder = Arc::new(ImageFolder::open(place.path()).unwrap());
    let batch = read(&folder, &[vec![0]], &[cut], 1).remove(0);
    assert_eq!(batch.broken, []);
    batch.crops[0].get(0)
}

/// The square about the centre of the file that `write` writes, unscaled.
fn centre_of(ending: &str, size: i64, write: impl FnOnce(&Path)) -> Tensor {
    cut_of(ending, Cut::Centre { resize: size, size }, write)
}

/// The square about the centre of an image whose shorter side is `size`, as planes.
fn centre(image: &RgbImage, size: u32) -> Tensor {
    let [left, top] =
        [image.width(), image.height()].map(|side| (f64::from(side - size) / 2.0).round_ties_even() as u32);
    let part = image::imageops::crop_imm(image, left, top, size, size).to_image();
    Tensor::from_slice(part.as_raw()).view([i64::from(size), i64::from(size), 3]).permute([2, 0, 1])
}

#[track_caller]
fn assert_near(actual: &Tensor, expected: &Tensor, tolerance: i64) {
    let difference = (actual.to_kind(Kind::Int64) - expected.to_kind(Kind::Int64)).abs().max().int64_value(&[]);
    assert!(difference <= tolerance, "differs by {difference}");
}

#[test]
fn lossless_files_show_their_pixels() {
    let image = picture(24, 16, 1);
    for ending in ["png", "webp"] {
        assert_eq!(centre_of(ending, 16, |path| save(path, image.clone())), centre(&image, 16), "{ending}");
    }
    // The content decides what a file is, and not its name.
    let misnamed = centre_of("jpg", 16, |path| {
        DynamicImage::from(image.clone()).save_with_format(path, image::ImageFormat::Png).unwrap();
    });
    assert_eq!(misnamed, centre(&image, 16));
}

#[test]
fn jpeg_files_show_their_pixels_but_for_compression() {
    let image = picture(24, 16, 1);
    let encode = |path: &Path| {
        let file = fs::File::create(path).unwrap();
        image::codecs::jpeg::JpegEncoder::new_with_quality(file, 98).encode_image(&image).unwrap();
    };
    assert_near(&centre_of("jpg", 16, encode), &centre(&image, 16), 6);
}

#[test]
fn grey_files_become_colour_files_of_equal_channels() {
    let grey = ImageBuffer::from_fn(24, 16, |x, y| Luma([(10 * x + y) as u8]));
    let expected = centre(&DynamicImage::from(grey.clone()).into_rgb8(), 16);
    for (ending, tolerance) in [("png", 0), ("webp", 0), ("jpg", 8)] {
        assert_near(&centre_of(ending, 16, |path| save(path, grey.clone())), &expected, tolerance);
    }
}

#[test]
fn sixteen_bits_become_eight() {
    let deep = ImageBuffer::from_fn(16, 16, |x, y| Rgb([(x * 4096) as u16, (y * 4096) as u16, 65535]));
    let expected = RgbImage::from_fn(16, 16, |x, y| Rgb([x * 4096, y * 4096, 65535].map(|value| (value / 257) as u8)));
    assert_near(&centre_of("png", 16, |path| save(path, deep)), &centre(&expected, 16), 1);
    let deep_grey = ImageBuffer::from_fn(16, 16, |x, _| Luma([(x * 4096) as u16]));
    let expected = RgbImage::from_fn(16, 16, |x, _| Rgb([(x * 4096 / 257) as u8; 3]));
    assert_near(&centre_of("png", 16, |path| save(path, deep_grey)), &centre(&expected, 16), 1);
}

#[test]
fn what_is_transparent_shows_white() {
    let alpha = |x: u32| (x * 17) as u8;
    let over_white =
        |value: f64, x: u32| (value * f64::from(alpha(x)) / 255.0 + 255.0 - f64::from(alpha(x))).round() as u8;
    let colour = ImageBuffer::from_fn(16, 16, |x, y| Rgba([200, (y * 10) as u8, 0, alpha(x)]));
    let expected =
        RgbImage::from_fn(16, 16, |x, y| Rgb([200.0, f64::from(y * 10), 0.0].map(|value| over_white(value, x))));
    for ending in ["png", "webp"] {
        assert_near(&centre_of(ending, 16, |path| save(path, colour.clone())), &centre(&expected, 16), 1);
    }
    let grey = ImageBuffer::from_fn(16, 16, |x, _| LumaA([80, alpha(x)]));
    let expected = RgbImage::from_fn(16, 16, |x, _| Rgb([over_white(80.0, x); 3]));
    assert_near(&centre_of("png", 16, |path| save(path, grey)), &centre(&expected, 16), 1);
}

#[test]
fn palettes_are_looked_up() {
    // Four colours, the last of them transparent.
    let palette = [[255, 0, 0], [0, 255, 0], [10, 20, 30], [0, 0, 0]];
    let write = |path: &Path| {
        let mut encoder = png::Encoder::new(fs::File::create(path).unwrap(), 8, 8);
        encoder.set_color(png::ColorType::Indexed);
        encoder.set_depth(png::BitDepth::Two);
        encoder.set_palette(palette.concat());
        encoder.set_trns(vec![255, 255, 255, 0]);
        let mut writer = encoder.write_header().unwrap();
        writer.write_image_data(&[0b00_01_10_11; 16]).unwrap();
        writer.finish().unwrap();
    };
    let colours = [palette[0], palette[1], palette[2], [255, 255, 255]];
    let expected = RgbImage::from_fn(8, 8, |x, _| Rgb(colours[x as usize % 4]));
    assert_eq!(centre_of("png", 8, write), centre(&expected, 8));
}

#[test]
fn print_colours_and_progressive_files_look_as_in_pillow() {
    for name in ["cmyk", "ycck", "progressive"] {
        let expected = image::open(fixture(&format!("{name}.expected.png"))).unwrap().into_rgb8();
        assert_near(&centre_of("jpg", 16, copy_of(format!("{name}.jpg"))), &centre(&expected, 16), 4);
    }
}

#[test]
fn every_orientation_of_a_camera_is_put_upright() {
    let upright = image::open(fixture("upright.png")).unwrap().into_rgb8();
    for orientation in 1..=8 {
        let lying = copy_of(format!("orientation_{orientation}.jpg"));
        assert_near(&centre_of("jpg", 16, &lying), &centre(&upright, 16), 6);
        // The box is drawn in the upright image: the same for all of them.
        let expected = cut_of("png", random_cut(8), copy_of("upright.png"));
        assert_near(&cut_of("jpg", random_cut(8), lying), &expected, 6);
    }
}

#[test]
fn the_centre_is_torchvisions() {
    for (resize, size) in [(32, 28), (20, 20), (64, 51)] {
        let actual = cut_of("png", Cut::Centre { resize, size }, copy_of("noise.png"));
        let expected = image::open(fixture(&format!("centre_{resize}_{size}.png"))).unwrap().into_rgb8();
        assert_near(&actual, &centre(&expected, size as u32), 2);
    }
}

#[test]
fn a_large_image_is_cut_alike_whether_or_not_it_is_decoded_scaled_down() {
    let image = picture(2400, 1601, 2);
    for (size, seed) in [(24, 0), (64, 1), (96, 2), (224, 3)] {
        let cut = Cut::Random { size, scale: (0.2, 0.9), ratio: (3.0 / 4.0, 4.0 / 3.0), seed };
        // No decoder of png files scales down.
        let [scaled, whole] =
            ["jpg", "png"].map(|ending| cut_of(ending, cut.clone(), |path| save(path, image.clone())));
        assert_near(&scaled, &whole, 6);
    }
}
