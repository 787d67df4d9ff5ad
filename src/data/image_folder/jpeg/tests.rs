use image::codecs::jpeg::JpegEncoder;

use super::*;

fn jpeg(width: u32, height: u32) -> (RgbImage, Vec<u8>) {
    let image =
        RgbImage::from_fn(width, height, |x, y| image::Rgb([x / 9, y / 7, (x + y) / 16].map(|value| value as u8)));
    let mut bytes = Vec::new();
    JpegEncoder::new_with_quality(&mut bytes, 95).encode_image(&image).unwrap();
    (image, bytes)
}

fn is_truncated(bytes: &[u8]) -> bool {
    Header::read(bytes).is_err_and(|problem| problem.contains("truncated"))
}

#[test]
fn a_file_cut_off_anywhere_is_truncated() {
    let (_, mut bytes) = jpeg(40, 30);
    for length in 2..bytes.len() {
        assert!(is_truncated(&bytes[..length]), "{length} of {}", bytes.len());
    }
    assert!(Header::read(&bytes).is_ok());
    bytes.extend_from_slice(b"trailing bytes of a camera");
    assert!(Header::read(&bytes).is_ok());
}

#[test]
fn the_end_of_a_thumbnail_is_not_that_of_the_image() {
    let (_, thumbnail) = jpeg(8, 8);
    let (_, image) = jpeg(40, 30);
    let length = (thumbnail.len() + 2) as u16;
    let with_thumbnail =
        [&image[..2], &[0xFF, 0xE1], &length.to_be_bytes(), thumbnail.as_slice(), &image[2..]].concat();
    let header = Header::read(&with_thumbnail).unwrap();
    assert_eq!((header.width, header.height), (40, 30));
    assert!(is_truncated(&with_thumbnail[..with_thumbnail.len() - 2]));
}

#[test]
fn a_large_image_is_decoded_at_a_fraction_of_its_size() {
    let (image, bytes) = jpeg(2001, 1501);
    let jpeg = Jpeg::open(&bytes).unwrap();
    for reduction in [1, 2, 4, 8] {
        let (reduced, by) = jpeg.decode(reduction).unwrap();
        assert_eq!(by, reduction);
        assert_eq!(reduced.dimensions(), (2001_u32.div_ceil(reduction), 1501_u32.div_ceil(reduction)));
        // Every pixel shows the middle of the pixels that it replaces.
        for (x, y) in [(0, 0), (100, 50), (reduced.width() - 2, reduced.height() - 2)] {
            let middle = image.get_pixel(x * reduction + reduction / 2, y * reduction + reduction / 2);
            let pairs = middle.0.iter().zip(reduced.get_pixel(x, y).0);
            let differences: Vec<u8> = pairs.map(|(value, reduced)| value.abs_diff(reduced)).collect();
            assert!(differences.iter().all(|difference| *difference <= 4), "{differences:?}");
        }
    }
}

#[test]
fn a_small_image_is_left_to_the_faster_decoder() {
    let (_, bytes) = jpeg(1000, 1000);
    let (image, by) = Jpeg::open(&bytes).unwrap().decode(8).unwrap();
    assert_eq!((image.dimensions(), by), ((1000, 1000), 1));
}

/// Adds `scans` copies of the last scan, which a decoder of a sequential file may read or ignore.
fn with_more_scans(bytes: &[u8], scans: usize) -> Vec<u8> {
    let scan = bytes.windows(2).position(|pair| pair == [0xFF, 0xDA]).unwrap();
    let (end, last) = (bytes.len() - 2, &bytes[scan..bytes.len() - 2]);
    [&bytes[..end], &last.repeat(scans), &bytes[end..]].concat()
}

#[test]
fn the_number_of_scans_is_limited_for_both_decoders() {
    let (_, bytes) = jpeg(16, 16);
    assert!(Jpeg::open(&with_more_scans(&bytes, 99)).is_ok());
    let problem = Jpeg::open(&with_more_scans(&bytes, 100)).err().unwrap();
    assert_eq!(problem, "has more than 100 scans; re-encode it");
}

#[test]
fn a_second_frame_header_cannot_change_the_size() {
    let (_, bytes) = jpeg(16, 16);
    let frame = bytes.windows(2).position(|pair| pair == [0xFF, 0xC0]).unwrap();
    let length = 2 + usize::from(u16::from_be_bytes([bytes[frame + 2], bytes[frame + 3]]));
    let twice = [&bytes[..frame + length], &bytes[frame..]].concat();
    assert_eq!(Jpeg::open(&twice).err().unwrap(), "has two frame headers; re-encode it");
}
