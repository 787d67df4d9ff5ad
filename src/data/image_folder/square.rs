//! Resizes a window of an image to a square.

use fast_image_resize::images::{TypedCroppedImage, TypedImage, TypedImageRef};
use fast_image_resize::pixels::U8x3;
use fast_image_resize::{FilterType, ImageView, ResizeAlg, ResizeOptions, Resizer};
use image::metadata::Orientation;
use image::{DynamicImage, RgbImage};

use super::decode::in_words;
use super::window::Window;

/// One window of the image, resized (bicubic with antialiasing) and turned upright.
///
/// Pillow resizes horizontally first, this vertically first: values differ by more than one level where they leave
/// `0..=255` in between.
pub(super) fn cut_out(
    image: &RgbImage,
    window: &Window,
    orientation: Orientation,
    resizer: &mut Resizer,
) -> Result<Vec<u8>, String> {
    let (width, height) = image.dimensions();
    // With the type of its pixels: otherwise the resizer is compiled, in minutes, for the thirteen that it knows.
    let view = TypedImageRef::<U8x3>::from_buffer(width, height, image.as_raw()).map_err(in_words)?;
    let [first_column, first_row, end_column, end_row] = window.readable(width, height);
    let (width, height) = (end_column - first_column, end_row - first_row);
    let view = TypedCroppedImage::from_ref(&view, first_column, first_row, width, height).map_err(in_words)?;
    // Rounding can exceed the ends.
    let within = |start: f64, first: u32, length: f64, limit: u32| {
        let start = (start - f64::from(first)).max(0.0);
        (start, length.min(f64::from(limit) - start))
    };
    let (left, width) = within(window.left, first_column, window.width, width);
    let (top, height) = within(window.top, first_row, window.height, height);
    let bicubic = ResizeOptions::new().resize_alg(ResizeAlg::Convolution(FilterType::CatmullRom));
    // In two passes of one direction each. In a pass of both, fast_image_resize 6.1 reads out of bounds if weights at
    // the ends of the filter are zero: it takes the first and the last column of the result for the outermost ones.
    let mut rows = TypedImage::<U8x3>::new(view.width(), window.size);
    let whole_rows = bicubic.crop(0.0, top, f64::from(view.width()), height);
    resizer.resize_typed(&view, &mut rows, &whole_rows).map_err(in_words)?;
    let mut square = RgbImage::new(window.size, window.size);
    let mut pixels = TypedImage::<U8x3>::from_buffer(window.size, window.size, &mut square).map_err(in_words)?;
    let columns = bicubic.crop(left, 0.0, width, f64::from(window.size));
    resizer.resize_typed(&rows, &mut pixels, &columns).map_err(in_words)?;
    let mut square = DynamicImage::from(square);
    square.apply_orientation(orientation);
    Ok(planes(square.as_bytes()))
}

/// The pixels as planes: all red values, all green, all blue.
fn planes(pixels: &[u8]) -> Vec<u8> {
    let mut planes = vec![0; pixels.len()];
    let (red, rest) = planes.split_at_mut(pixels.len() / 3);
    let (green, blue) = rest.split_at_mut(pixels.len() / 3);
    for (((pixel, red), green), blue) in pixels.chunks_exact(3).zip(red).zip(green).zip(blue) {
        (*red, *green, *blue) = (pixel[0], pixel[1], pixel[2]);
    }
    planes
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::data::Cut;

    fn fixture(name: &str) -> RgbImage {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/images");
        image::open(folder.join(name)).unwrap().into_rgb8()
    }

    /// The fixtures were made with Pillow by `scripts/make_image_fixtures.py`.
    #[test]
    fn parts_are_cut_and_resized_as_pillow_does_it() {
        for numbers in
            [[0, 0, 61, 47, 16], [3, 5, 40, 33, 24], [20, 10, 8, 9, 32], [60, 46, 1, 1, 8], [7, 0, 20, 47, 20]]
        {
            let [left, top, width, height, size] = numbers;
            let expected = fixture(&format!("crop_{left}_{top}_{width}_{height}_{size}.png"));
            let [left, top, width, height] = [left, top, width, height].map(f64::from);
            let window = Window { left, top, width, height, size, reads_around: false };
            let image = fixture("noise.png");
            let square = cut_out(&image, &window, Orientation::NoTransforms, &mut Resizer::new()).unwrap();
            let expected = planes(expected.as_raw());
            let largest = square.iter().zip(&expected).map(|(value, expected)| value.abs_diff(*expected)).max();
            assert!(largest <= Some(1), "{numbers:?}: {largest:?}");
        }
    }

    /// A white image stays white. At some sizes the first weights of the filter are zero, where a resize in both
    /// directions at once reads out of bounds.
    #[test]
    fn images_of_every_small_size_are_enlarged_and_reduced() {
        let mut resizer = Resizer::new();
        for (width, height) in (1..=64).flat_map(|width| (1..=64).map(move |height| (width, height))) {
            let white = RgbImage::from_pixel(width, height, image::Rgb([255; 3]));
            let window = Cut::Center { resize: 36, size: 32 }.window(0, height, width, Orientation::NoTransforms);
            let square = cut_out(&white, &window, Orientation::NoTransforms, &mut resizer).unwrap();
            assert!(square.iter().all(|value| *value == 255), "{width} x {height}");
        }
    }
}
