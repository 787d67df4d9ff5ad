//! Every kind of image file decodes as in an image viewer.

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

/// The crop of the file that `write` writes to a path with this extension: `[3, size, size]`.
fn cut_of(extension: &str, cut: Cut, write: impl FnOnce(&Path)) -> Tensor {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("class").join(format!("file.{extension}"));
    fs::create_dir(path.parent().unwrap()).unwrap();
    write(&path);
    let folder = Arc::new(ImageFolder::open(place.path()).unwrap());
    let batch = read(&folder, &[vec![0]], &[cut], 1).remove(0);
    assert_eq!(batch.broken, []);
    batch.crops[0].get(0)
}

/// The central square of the file that `write` writes, at the original scale.
fn center_of(extension: &str, size: i64, write: impl FnOnce(&Path)) -> Tensor {
    cut_of(extension, Cut::Center { resize: size, size }, write)
}

/// The central square of an image whose shorter side is `size`, as planes.
fn center(image: &RgbImage, size: u32) -> Tensor {
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
fn lossless_files_decode_exactly() {
    let image = picture(24, 16, 1);
    for extension in ["png", "webp"] {
        assert_eq!(center_of(extension, 16, |path| save(path, image.clone())), center(&image, 16), "{extension}");
    }
    // The content determines the format, not the name.
    let misnamed = center_of("jpg", 16, |path| {
        DynamicImage::from(image.clone()).save_with_format(path, image::ImageFormat::Png).unwrap();
    });
    assert_eq!(misnamed, center(&image, 16));
}

#[test]
fn jpeg_files_decode_up_to_compression() {
    let image = picture(24, 16, 1);
    let encode = |path: &Path| {
        let file = fs::File::create(path).unwrap();
        image::codecs::jpeg::JpegEncoder::new_with_quality(file, 98).encode_image(&image).unwrap();
    };
    assert_near(&center_of("jpg", 16, encode), &center(&image, 16), 6);
}

#[test]
fn gray_images_become_color_images_of_equal_channels() {
    let gray = ImageBuffer::from_fn(24, 16, |x, y| Luma([(10 * x + y) as u8]));
    let expected = center(&DynamicImage::from(gray.clone()).into_rgb8(), 16);
    for (extension, tolerance) in [("png", 0), ("webp", 0), ("jpg", 8)] {
        assert_near(&center_of(extension, 16, |path| save(path, gray.clone())), &expected, tolerance);
    }
}

#[test]
fn sixteen_bits_become_eight() {
    let deep = ImageBuffer::from_fn(16, 16, |x, y| Rgb([(x * 4096) as u16, (y * 4096) as u16, 65535]));
    let expected = RgbImage::from_fn(16, 16, |x, y| Rgb([x * 4096, y * 4096, 65535].map(|value| (value / 257) as u8)));
    assert_near(&center_of("png", 16, |path| save(path, deep)), &center(&expected, 16), 1);
    let deep_gray = ImageBuffer::from_fn(16, 16, |x, _| Luma([(x * 4096) as u16]));
    let expected = RgbImage::from_fn(16, 16, |x, _| Rgb([(x * 4096 / 257) as u8; 3]));
    assert_near(&center_of("png", 16, |path| save(path, deep_gray)), &center(&expected, 16), 1);
}

#[test]
fn transparency_is_composited_over_white() {
    let alpha = |x: u32| (x * 17) as u8;
    let over_white =
        |value: f64, x: u32| (value * f64::from(alpha(x)) / 255.0 + 255.0 - f64::from(alpha(x))).round() as u8;
    let color = ImageBuffer::from_fn(16, 16, |x, y| Rgba([200, (y * 10) as u8, 0, alpha(x)]));
    let expected =
        RgbImage::from_fn(16, 16, |x, y| Rgb([200.0, f64::from(y * 10), 0.0].map(|value| over_white(value, x))));
    for extension in ["png", "webp"] {
        assert_near(&center_of(extension, 16, |path| save(path, color.clone())), &center(&expected, 16), 1);
    }
    let gray = ImageBuffer::from_fn(16, 16, |x, _| LumaA([80, alpha(x)]));
    let expected = RgbImage::from_fn(16, 16, |x, _| Rgb([over_white(80.0, x); 3]));
    assert_near(&center_of("png", 16, |path| save(path, gray)), &center(&expected, 16), 1);
}

#[test]
fn palette_images_are_decoded() {
    // Four colors, the last of them transparent.
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
    let colors = [palette[0], palette[1], palette[2], [255, 255, 255]];
    let expected = RgbImage::from_fn(8, 8, |x, _| Rgb(colors[x as usize % 4]));
    assert_eq!(center_of("png", 8, write), center(&expected, 8));
}

#[test]
fn cmyk_and_progressive_files_decode_as_in_pillow() {
    for name in ["cmyk", "ycck", "progressive"] {
        let expected = image::open(fixture(&format!("{name}.expected.png"))).unwrap().into_rgb8();
        assert_near(&center_of("jpg", 16, copy_of(format!("{name}.jpg"))), &center(&expected, 16), 4);
    }
}

#[test]
fn every_exif_orientation_is_applied() {
    let upright = image::open(fixture("upright.png")).unwrap().into_rgb8();
    for orientation in 1..=8 {
        let lying = copy_of(format!("orientation_{orientation}.jpg"));
        assert_near(&center_of("jpg", 16, &lying), &center(&upright, 16), 6);
        // The random crop refers to the upright image, so it is the same for all orientations.
        let expected = cut_of("png", random_cut(8), copy_of("upright.png"));
        assert_near(&cut_of("jpg", random_cut(8), lying), &expected, 6);
    }
}

#[test]
fn the_center_crop_is_torchvisions() {
    for (resize, size) in [(32, 28), (20, 20), (64, 51)] {
        let actual = cut_of("png", Cut::Center { resize, size }, copy_of("noise.png"));
        let expected = image::open(fixture(&format!("center_{resize}_{size}.png"))).unwrap().into_rgb8();
        assert_near(&actual, &center(&expected, size as u32), 2);
    }
}

#[test]
fn decoding_at_reduced_size_does_not_change_a_crop() {
    let image = picture(2400, 1601, 2);
    for (size, seed) in [(24, 0), (64, 1), (96, 2), (224, 3)] {
        let cut = Cut::Random { size, scale: (0.2, 0.9), ratio: (3.0 / 4.0, 4.0 / 3.0), seed };
        // PNG files are always decoded at full size.
        let [scaled, whole] =
            ["jpg", "png"].map(|extension| cut_of(extension, cut.clone(), |path| save(path, image.clone())));
        assert_near(&scaled, &whole, 6);
    }
}

/// A 4:2:0 file of 2.1 million pixels, decoded at a half, a quarter and an eighth of its size, against Pillow at the
/// same fraction (`draft`) and at full size (`whole`).
///
/// The bounds are mean differences in levels, of brightness and of a color channel. A shift by a pixel of the square
/// would change the brightness by 0.6 levels at a half, and by 1.6 at an eighth. Color is less sharp than Pillow's:
/// this decoder scales the stored color planes, of half the size, by the same fraction, where Pillow's scales them to
/// the size of the result. So colored edges, of which this image is full, differ by up to 49 levels.
#[test]
fn large_subsampled_files_decode_as_in_pillow_up_to_the_sharpness_of_color() {
    for (resize, fraction, max_brightness, max_color) in [(480, 2, 0.16, 0.4), (256, 4, 0.2, 0.8), (128, 8, 0.5, 2.2)] {
        let actual = cut_of("jpg", Cut::Center { resize, size: 96 }, copy_of("large.jpg"));
        for version in ["draft", "whole"] {
            let name = format!("large_{resize}_96_{fraction}_{version}.png");
            let expected = center(&image::open(fixture(&name)).unwrap().into_rgb8(), 96);
            let difference = actual.to_kind(Kind::Double) - expected;
            let luma = Tensor::from_slice(&[0.299, 0.587, 0.114]).view([3, 1, 1]);
            let brightness = (&difference * luma).sum_dim_intlist(0, false, None);
            let mean = |difference: &Tensor| difference.abs().mean(None).double_value(&[]);
            let (brightness, color) = (mean(&brightness), mean(&difference));
            assert!(brightness <= max_brightness, "{name}: brightness differs by {brightness}");
            assert!(color <= max_color, "{name}: colors differ by {color}");
        }
    }
}
