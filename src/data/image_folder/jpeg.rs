//! JPEG files: detecting truncation, and decoding at a fraction of the size.

use image::RgbImage;
use jpeg_decoder::{Decoder, PixelFormat};

/// From this many pixels on, decoding at half the size or less is faster than decoding all pixels. The decoder that can
/// scale is the slower one on small images.
const WORTHWHILE_PIXELS: u64 = 1 << 21;

/// Whether the file is a truncated JPEG file. Decoders silently fill the rest with gray.
///
/// A complete file ends its last scan with the end-of-image marker. The markers of thumbnails are inside segments.
pub(super) fn is_truncated(bytes: &[u8]) -> bool {
    const START: u8 = 0xD8;
    const END: u8 = 0xD9;
    const SCAN: u8 = 0xDA;
    if !bytes.starts_with(&[0xFF, START]) {
        return false;
    }
    let mut place = 2;
    let mut in_scan = false;
    while let Some(&[first, marker]) = bytes.get(place..place + 2) {
        match marker {
            _ if first != 0xFF => place += 1,
            END => return false,
            // Fill bytes; then an escaped 255, a restart marker or another marker without a length.
            0xFF => place += 1,
            0x00 | 0x01 | 0xD0..=START => place += 2,
            _ => {
                let length =
                    bytes.get(place + 2..place + 4).map_or(0, |length| length[0] as usize * 256 + length[1] as usize);
                place += 2 + length;
                in_scan = marker == SCAN;
            }
        }
        if in_scan {
            let rest = bytes.get(place..).unwrap_or_default();
            place += rest.iter().position(|&byte| byte == 0xFF).unwrap_or(rest.len());
        }
    }
    true
}

/// The image at one half, quarter or eighth of its height and width, rounded up, if that is faster than at full size.
///
/// `None` if it is not, or if this decoder does not understand the file: the other decoder then reports what is wrong.
pub(super) fn decode_reduced(bytes: &[u8], pixels: u64, reduction: u32) -> Option<RgbImage> {
    if reduction < 2 || pixels < WORTHWHILE_PIXELS || !bytes.starts_with(&[0xFF, 0xD8]) {
        return None;
    }
    let mut decoder = Decoder::new(bytes);
    decoder.read_info().ok()?;
    let format = decoder.info()?.pixel_format;
    if !matches!(format, PixelFormat::RGB24 | PixelFormat::L8) {
        return None;
    }
    let (full_width, full_height) = decoder.info().map(|info| (u32::from(info.width), u32::from(info.height)))?;
    let reduced = [full_width, full_height].map(|side| side.div_ceil(reduction));
    let (width, height) = decoder.scale(reduced[0] as u16, reduced[1] as u16).ok()?;
    if [width, height].map(u32::from) != reduced {
        return None;
    }
    let mut values = decoder.decode().ok()?;
    if format == PixelFormat::L8 {
        values = values.into_iter().flat_map(|value| [value; 3]).collect();
    }
    RgbImage::from_raw(reduced[0], reduced[1], values)
}

#[cfg(test)]
mod tests {
    use super::*;
    use image::codecs::jpeg::JpegEncoder;

    fn jpeg(width: u32, height: u32) -> (RgbImage, Vec<u8>) {
        let image =
            RgbImage::from_fn(width, height, |x, y| image::Rgb([x / 9, y / 7, (x + y) / 16].map(|value| value as u8)));
        let mut bytes = Vec::new();
        JpegEncoder::new_with_quality(&mut bytes, 95).encode_image(&image).unwrap();
        (image, bytes)
    }

    #[test]
    fn a_file_cut_off_anywhere_is_truncated() {
        let (_, mut bytes) = jpeg(40, 30);
        for length in 2..bytes.len() {
            assert!(is_truncated(&bytes[..length]), "{length} of {}", bytes.len());
        }
        assert!(!is_truncated(&bytes));
        bytes.extend_from_slice(b"trailing bytes of a camera");
        assert!(!is_truncated(&bytes));
    }

    #[test]
    fn the_end_of_a_thumbnail_is_not_that_of_the_image() {
        let (_, thumbnail) = jpeg(8, 8);
        let (_, image) = jpeg(40, 30);
        let length = (thumbnail.len() + 2) as u16;
        let with_thumbnail =
            [&image[..2], &[0xFF, 0xE1], &length.to_be_bytes(), thumbnail.as_slice(), &image[2..]].concat();
        assert!(!is_truncated(&with_thumbnail));
        assert!(is_truncated(&with_thumbnail[..with_thumbnail.len() - 2]));
    }

    #[test]
    fn a_large_image_is_decoded_at_a_fraction_of_its_size() {
        let (image, bytes) = jpeg(2001, 1501);
        for reduction in [2, 4, 8] {
            let reduced = decode_reduced(&bytes, 2001 * 1501, reduction).unwrap();
            assert_eq!(reduced.dimensions(), (2001_u32.div_ceil(reduction), 1501_u32.div_ceil(reduction)));
            // Every pixel shows the middle of the pixels that it replaces.
            for (x, y) in [(0, 0), (100, 50), (reduced.width() - 2, reduced.height() - 2)] {
                let middle = image.get_pixel(x * reduction + reduction / 2, y * reduction + reduction / 2);
                let pairs = middle.0.iter().zip(reduced.get_pixel(x, y).0);
                assert!(
                    pairs.clone().all(|(value, reduced)| value.abs_diff(reduced) <= 4),
                    "{:?}",
                    pairs.collect::<Vec<_>>()
                );
            }
        }
        assert!(decode_reduced(&bytes, 2001 * 1501, 1).is_none());
    }

    #[test]
    fn a_small_image_is_left_to_the_faster_decoder() {
        let (_, bytes) = jpeg(1000, 1000);
        assert!(decode_reduced(&bytes, 1_000_000, 8).is_none());
    }
}
