//! Decodes an image file and cuts squares out of it.

use std::io::Cursor;

use fast_image_resize::Resizer;
use image::metadata::Orientation;
use image::{DynamicImage, ImageDecoder, ImageReader, Limits, RgbImage};

use super::cut::Cut;
use super::jpeg::{self, Jpeg};
use super::square::cut_out;
use super::window::Window;

/// Limit of an image's pixels, which a file of a few bytes can claim to have. Fewer when fuzzing, which
/// decodes thousands of images per second.
const MAX_PIXELS: u64 = if cfg!(fuzzing) { 1_000_000 } else { 100_000_000 };
/// Limit of the bytes of its decoded pixels, which have up to 8 bytes each.
const MAX_DECODED: u64 = 4 * MAX_PIXELS;
/// Limit of a file's bytes, far more than any JPEG of so many pixels has.
pub(in crate::data) const MAX_FILE: u64 = 1 << 28;
/// Limit of the bytes of a color profile and the like, which may be compressed.
const MAX_METADATA: u64 = 1 << 26;

/// Decodes the contents of a file and cuts one square per entry of `cuts` out of the image, each as its red, green and
/// blue planes.
///
/// The error is a description of what is wrong with the file.
pub(super) fn cut_bytes(
    mut bytes: Vec<u8>,
    position: i64,
    cuts: &[Cut],
    resizer: &mut Resizer,
) -> Result<Vec<Vec<u8>>, String> {
    complete(&mut bytes);
    let picture = Picture::open(&bytes)?;
    // Cuts refer to the upright image; the file may store it rotated.
    let ((width, height), orientation) = (picture.dimensions, picture.orientation);
    let windows: Vec<Window> = cuts.iter().map(|cut| cut.window(position, height, width, orientation)).collect();
    let (image, reduction) = picture.decode(windows.iter().map(Window::reduction).min().unwrap_or(1))?;
    windows.iter().map(|window| cut_out(&image, &window.reduced(reduction), orientation, resizer)).collect()
}

/// Appends the last chunk of a PNG file, which has no content and is missing in some. Whatever follows it is ignored.
fn complete(bytes: &mut Vec<u8>) {
    if bytes.starts_with(b"\x89PNG") {
        bytes.extend_from_slice(b"\0\0\0\0IEND\xAE\x42\x60\x82");
    }
}

pub(super) fn in_words(error: impl ToString) -> String {
    error.to_string()
}

/// An image whose header was read.
struct Picture<'a> {
    /// Width and height in pixels, as stored.
    dimensions: (u32, u32),
    orientation: Orientation,
    format: Format<'a>,
}

enum Format<'a> {
    Jpeg(Jpeg<'a>),
    Other(Box<dyn ImageDecoder + 'a>),
}

impl Picture<'_> {
    /// Reads the header and checks the size that it claims, before there is memory for the pixels.
    fn open(bytes: &[u8]) -> Result<Picture<'_>, String> {
        let picture = if bytes.starts_with(&jpeg::START) {
            let jpeg = Jpeg::open(bytes)?;
            Picture { dimensions: jpeg.dimensions(), orientation: jpeg.orientation(), format: Format::Jpeg(jpeg) }
        } else {
            let mut reader = ImageReader::new(Cursor::new(bytes)).with_guessed_format().map_err(in_words)?;
            let mut limits = Limits::no_limits();
            limits.max_alloc = Some(MAX_METADATA);
            reader.limits(limits);
            let mut decoder: Box<dyn ImageDecoder> = Box::new(reader.into_decoder().map_err(in_words)?);
            let orientation = decoder.orientation().map_err(in_words)?;
            Picture { dimensions: decoder.dimensions(), orientation, format: Format::Other(decoder) }
        };
        let (width, height) = picture.dimensions;
        let pixels = u64::from(width) * u64::from(height);
        let bytes = match &picture.format {
            Format::Jpeg(_) => 0, // at most three per pixel
            Format::Other(decoder) => decoder.total_bytes(),
        };
        let claim = format!("claims {width} x {height} pixels");
        match pixels {
            0 => Err("has no pixels".to_owned()),
            1..=MAX_PIXELS if bytes <= MAX_DECODED => Ok(picture),
            1..=MAX_PIXELS => {
                let of_each = bytes / pixels;
                Err(format!("{claim} of {of_each} bytes, more than {MAX_DECODED} bytes; scale it down"))
            }
            _ => Err(format!("{claim}, more than {MAX_PIXELS}; scale it down")),
        }
    }

    /// The image, and by how much its height and width are reduced: by `reduction` or not at all.
    fn decode(self, reduction: u32) -> Result<(RgbImage, u32), String> {
        match self.format {
            Format::Jpeg(jpeg) => jpeg.decode(reduction),
            Format::Other(decoder) => Ok((on_white(DynamicImage::from_decoder(decoder).map_err(in_words)?), 1)),
        }
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
