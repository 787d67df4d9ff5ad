//! JPEG files: what their headers say, and decoding, at a fraction of the size where that is faster.
//!
//! Two decoders share the work. zune-jpeg is the faster one. jpeg-decoder can scale down, and reads every sampling of
//! the colors.

mod header;

use std::borrow::Cow;
use std::io::Cursor;

use image::codecs::jpeg::JpegDecoder;
use image::metadata::Orientation;
use image::{DynamicImage, ImageDecoder, RgbImage};
use jpeg_decoder::{ColorTransform, Decoder, PixelFormat};

use super::decode::in_words;
use header::{Colors, Header};

pub(super) use header::START;

/// From this many pixels on, decoding at half the size or less is faster than decoding all pixels. Fuzzing
/// covers both ways with small images.
const WORTHWHILE_PIXELS: u64 = if cfg!(fuzzing) { 1 << 12 } else { 1 << 21 };

/// A complete JPEG file of a kind that is read here.
pub(super) struct Jpeg<'a> {
    bytes: Cow<'a, [u8]>,
    header: Header<'a>,
}

impl<'a> Jpeg<'a> {
    /// Checks the whole file without decoding it.
    pub(super) fn open(bytes: &'a [u8]) -> Result<Jpeg<'a>, String> {
        let header = Header::read(bytes)?;
        if header.components.len() == 4 && !header.is_common() {
            return Err("has four colors of unusual sampling; re-encode it".to_owned());
        }
        let bytes = match header.lacks_tables {
            true => Cow::Owned(as_film_frame(bytes)),
            false => Cow::Borrowed(bytes),
        };
        Ok(Jpeg { bytes, header })
    }

    /// Width and height in pixels, as stored.
    pub(super) fn dimensions(&self) -> (u32, u32) {
        (self.header.width.into(), self.header.height.into())
    }

    pub(super) fn orientation(&self) -> Orientation {
        self.header.exif.and_then(Orientation::from_exif_chunk).unwrap_or(Orientation::NoTransforms)
    }

    /// The image, and by how much its height and width are reduced (rounded up): by `reduction` (1, 2, 4 or 8), or not
    /// at all.
    ///
    /// What one decoder refuses is left to the other, so that a file is good or broken whatever the reduction.
    pub(super) fn decode(&self, reduction: u32) -> Result<(RgbImage, u32), String> {
        if !self.header.is_common() {
            return Ok((self.decode_scaled(reduction)?, reduction));
        }
        let (width, height) = self.dimensions();
        if reduction > 1 && u64::from(width) * u64::from(height) >= WORTHWHILE_PIXELS {
            return self.decode_scaled(reduction).map(|image| (image, reduction)).or_else(|_| self.decode_fast());
        }
        self.decode_fast().or_else(|problem| Ok((self.decode_scaled(1).map_err(|_| problem)?, 1)))
    }

    fn decode_fast(&self) -> Result<(RgbImage, u32), String> {
        let decoder = JpegDecoder::new(Cursor::new(&*self.bytes)).map_err(in_words)?;
        self.check_dimensions(decoder.dimensions())?;
        Ok((DynamicImage::from_decoder(decoder).map_err(in_words)?.into_rgb8(), 1))
    }

    fn decode_scaled(&self, reduction: u32) -> Result<RgbImage, String> {
        let mut decoder = Decoder::new(&*self.bytes);
        decoder.read_info().map_err(in_words)?;
        let info = decoder.info().ok_or("has no frame header")?;
        self.check_dimensions((info.width.into(), info.height.into()))?;
        let is_gray = match info.pixel_format {
            PixelFormat::L8 => true,
            PixelFormat::RGB24 => false,
            other => return Err(format!("has pixels of the kind {other:?}; re-encode it")),
        };
        decoder.set_color_transform(match self.header.colors() {
            _ if is_gray => ColorTransform::Grayscale,
            Colors::Rgb => ColorTransform::RGB,
            Colors::YCbCr => ColorTransform::YCbCr,
        });
        let (width, height) = self.dimensions();
        let [width, height] = [width, height].map(|side| side.div_ceil(reduction));
        let scaled = decoder.scale(width as u16, height as u16).map_err(in_words)?;
        if (u32::from(scaled.0), u32::from(scaled.1)) != (width, height) {
            return Err(format!("cannot be scaled to {width} x {height} pixels"));
        }
        let mut values = decoder.decode().map_err(in_words)?;
        if is_gray {
            values = values.into_iter().flat_map(|value| [value; 3]).collect();
        }
        RgbImage::from_raw(width, height, values).ok_or_else(|| "has too few pixels".to_owned())
    }

    /// An error unless a decoder sees the size that was checked.
    fn check_dimensions(&self, (width, height): (u32, u32)) -> Result<(), String> {
        match (width, height) == self.dimensions() {
            true => Ok(()),
            false => Err(format!("has a second frame header, of {width} x {height} pixels; re-encode it")),
        }
    }
}

/// The file with the segment of a Motion JPEG film, for which both decoders use the standard's Huffman tables.
fn as_film_frame(bytes: &[u8]) -> Vec<u8> {
    let (start, rest) = bytes.split_at(START.len());
    [start, b"\xFF\xE0\x00\x0AAVI1\0\0\0\0", rest].concat()
}

#[cfg(test)]
mod tests;
