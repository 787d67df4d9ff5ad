//! Decodes an image file and cuts squares out of it.

use std::fs;
use std::io::Cursor;
use std::path::Path;

use fast_image_resize::images::{TypedCroppedImage, TypedImage, TypedImageRef};
use fast_image_resize::pixels::U8x3;
use fast_image_resize::{FilterType, ImageView, ResizeAlg, ResizeOptions, Resizer};
use image::metadata::Orientation;
use image::{DynamicImage, ImageDecoder, ImageReader, RgbImage};

use super::cut::Cut;
use super::jpeg;
use super::window::Window;

/// Limit of the bytes of an image's pixels: 178 million pixels of three bytes. A file of a few bytes can claim any
/// size.
const MAX_BYTES: u64 = 1 << 29;

/// Reads an image and cuts one square per entry of `cuts` out of it, each as its red, green and blue planes.
///
/// The error is a description of what is wrong with the file.
pub(super) fn cut_file(
    path: &Path,
    position: i64,
    cuts: &[Cut],
    resizer: &mut Resizer,
) -> Result<Vec<Vec<u8>>, String> {
    let bytes = read(path)?;
    let reader = ImageReader::new(Cursor::new(&bytes)).with_guessed_format().map_err(in_words)?;
    let mut decoder = reader.into_decoder().map_err(in_words)?;
    let (width, height) = decoder.dimensions();
    if decoder.total_bytes() > MAX_BYTES {
        return Err(format!("{width} x {height} pixels take {} bytes, more than {MAX_BYTES}", decoder.total_bytes()));
    }
    if width == 0 || height == 0 {
        return Err("has no pixels".to_owned());
    }
    if jpeg::is_truncated(&bytes) {
        return Err("is truncated: the end of the image is missing".to_owned());
    }

    // Cuts refer to the upright image; the file may store it rotated.
    let orientation = decoder.orientation().map_err(in_words)?;
    let windows = cuts.iter().map(|cut| cut.window(position, height, width, orientation));
    let windows: Vec<Window> = windows.collect();
    let reduction = windows.iter().map(Window::reduction).min().unwrap_or(1);
    let (image, reduction) = match jpeg::decode_reduced(&bytes, u64::from(width) * u64::from(height), reduction) {
        Some(image) => (image, reduction),
        None => (on_white(DynamicImage::from_decoder(decoder).map_err(in_words)?), 1),
    };
    let squares = windows.iter().map(|window| cut_out(&image, &window.reduced(reduction), orientation, resizer));
    squares.collect()
}

fn in_words(error: impl ToString) -> String {
    error.to_string()
}

fn read(path: &Path) -> Result<Vec<u8>, String> {
    // Opening a named pipe could block forever.
    match fs::metadata(path).map_err(in_words)?.is_file() {
        true => fs::read(path).map_err(in_words),
        false => Err("is not a file".to_owned()),
    }
}

/// The image in RGB, with transparency composited over white.
fn on_white(image: DynamicImage) -> RgbImage {
    if !image.color().has_alpha() {
        return image.into_rgb8();
    }
    let image = image.into_rgba8();
    let (width, height) = image.dimensions();
    let mut opaque = RgbImage::new(width, height);
    for (pixel, opaque) in image.pixels().zip(opaque.pixels_mut()) {
        let [red, green, blue, alpha] = pixel.0.map(u32::from);
        opaque.0 = [red, green, blue].map(|value| ((value * alpha + 255 * (255 - alpha) + 127) / 255) as u8);
    }
    opaque
}

/// One window of the image, resized (bicubic with antialiasing) and turned upright.
///
/// Pillow resizes horizontally first, this vertically first: values differ by more than one level where they leave
/// `0..=255` in between.
fn cut_out(
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
    use super::*;

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
