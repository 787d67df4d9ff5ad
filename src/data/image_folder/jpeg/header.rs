//! The segments of a JPEG file: its size, how its colors are stored, and what no decoder here reads.

/// The two bytes that every JPEG file starts with.
pub(in crate::data::image_folder) const START: [u8; 2] = [0xFF, START_OF_IMAGE];

const START_OF_IMAGE: u8 = 0xD8;
const END_OF_IMAGE: u8 = 0xD9;
const SCAN: u8 = 0xDA;
const HUFFMAN_TABLES: u8 = 0xC4;
const RESTARTS: std::ops::RangeInclusive<u8> = 0xD0..=0xD7;

/// Limit of the passes over an image. Photographs have about ten, but a small file may have any number, each of which
/// takes as long as a decoded image.
const MAX_SCANS: usize = 100;

/// What decides how a file is decoded.
#[derive(Debug)]
pub(super) struct Header<'a> {
    pub(super) width: u16,
    pub(super) height: u16,
    pub(super) components: Vec<Component>,
    /// The contents of the first Exif segment.
    pub(super) exif: Option<&'a [u8]>,
    /// Whether the Huffman tables are left out, as in the frames of a Motion JPEG film: they are the standard's.
    pub(super) lacks_tables: bool,
    jfif: bool,
    /// The color transform of an Adobe segment.
    adobe: Option<u8>,
}

/// One of the planes of an image.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Component {
    pub(super) id: u8,
    /// Horizontal and vertical sampling factors: their ratio to the largest ones is the share of the pixels stored.
    pub(super) sampling: (u8, u8),
}

/// What three components mean.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Colors {
    Rgb,
    YCbCr,
}

impl<'a> Header<'a> {
    /// Walks over the whole file, so that the answer does not depend on how much of it is decoded later.
    pub(super) fn read(bytes: &'a [u8]) -> Result<Header<'a>, String> {
        let (mut frame, mut jfif, mut adobe, mut exif) = (None, false, None, None);
        let (mut has_tables, mut lacks_tables, mut scans) = (false, false, 0);
        let mut segments = Segments { bytes, place: START.len(), in_scan: false };
        loop {
            let Some((marker, body)) = segments.next_segment() else {
                return Err("is truncated: the end of the image is missing".to_owned());
            };
            match marker {
                HUFFMAN_TABLES => has_tables = true,
                // 0xC8 and 0xCC are no frames.
                0xC0..=0xCF if marker != 0xC8 && marker != 0xCC => {
                    let another = frame.replace(read_frame(marker, body)?);
                    if another.is_some() {
                        return Err("has two frame headers; re-encode it".to_owned());
                    }
                }
                0xE0 => jfif |= body.starts_with(b"JFIF\0"),
                0xE1 if exif.is_none() => exif = body.strip_prefix(b"Exif\0\0"),
                0xEE if body.starts_with(b"Adobe") => adobe = body.get(11).copied(),
                SCAN if frame.is_none() => return Err("has a scan before its frame header".to_owned()),
                SCAN => {
                    scans += 1;
                    lacks_tables |= !has_tables;
                }
                END_OF_IMAGE => break,
                _ => {}
            }
            if scans > MAX_SCANS {
                return Err(format!("has more than {MAX_SCANS} scans; re-encode it"));
            }
        }
        let Some((width, height, components)) = frame else {
            return Err("has no frame header, and so no image".to_owned());
        };
        Ok(Header { width, height, components, exif, lacks_tables, jfif, adobe })
    }

    /// What three components mean, by the rules of libjpeg.
    pub(super) fn colors(&self) -> Colors {
        match (self.jfif, self.adobe) {
            (false, Some(0)) => Colors::Rgb,
            (false, None) if self.ids() == *b"RGB" => Colors::Rgb,
            _ => Colors::YCbCr,
        }
    }

    fn ids(&self) -> Vec<u8> {
        self.components.iter().map(|component| component.id).collect()
    }

    /// Whether zune-jpeg 0.5 shows the colors of such a file as libjpeg does. It takes the first component for the one
    /// with the most samples, knows no factor of 3, and takes components named R, G and B for these whatever else the
    /// file says.
    pub(super) fn is_common(&self) -> bool {
        const COMMON: [(u8, u8); 4] = [(1, 1), (2, 1), (1, 2), (2, 2)];
        let sampling = |place: usize| self.components[place].sampling;
        let zunes = if self.adobe == Some(0) || self.ids() == *b"RGB" { Colors::Rgb } else { Colors::YCbCr };
        COMMON.contains(&sampling(0))
            && match self.components.len() {
                1 => true,
                3 => sampling(1) == (1, 1) && sampling(2) == (1, 1) && self.colors() == zunes,
                _ => (1..4).all(|place| sampling(place) == (1, 1) || place == 3 && sampling(3) == sampling(0)),
            }
    }
}

/// Reads a frame header: width, height and components.
fn read_frame(marker: u8, body: &[u8]) -> Result<(u16, u16, Vec<Component>), String> {
    match marker {
        0xC0..=0xC2 => {}
        0xC9 | 0xCA => return Err("uses arithmetic coding; convert it without loss: jpegtran OLD > NEW".to_owned()),
        _ => return Err("is of a lossless or hierarchical kind of JPEG; re-encode it".to_owned()),
    }
    let (&[bits, height_1, height_2, width_1, width_2, count], rest) =
        body.split_first_chunk().ok_or("has an incomplete frame header")?;
    if bits != 8 {
        return Err(format!("has values of {bits} bits, where 8 are read; re-encode it"));
    }
    if !matches!(count, 1 | 3 | 4) {
        return Err(format!("has {count} color components, where 1, 3 or 4 are read; re-encode it"));
    }
    let components = rest.chunks_exact(3).take(count.into());
    let components: Vec<Component> =
        components.map(|bytes| Component { id: bytes[0], sampling: (bytes[1] >> 4, bytes[1] & 15) }).collect();
    let are_valid = components
        .iter()
        .all(|Component { sampling: (across, down), .. }| (1..=4).contains(across) && (1..=4).contains(down));
    if components.len() < count.into() || !are_valid {
        return Err("has an invalid frame header".to_owned());
    }
    let (width, height) = (u16::from_be_bytes([width_1, width_2]), u16::from_be_bytes([height_1, height_2]));
    Ok((width, height, components))
}

/// The segments of a file. Those of a thumbnail are inside a segment.
struct Segments<'a> {
    bytes: &'a [u8],
    place: usize,
    in_scan: bool,
}

impl<'a> Segments<'a> {
    /// The next marker and what belongs to it, up to and including the end of the image; `None` if the file ends
    /// before.
    fn next_segment(&mut self) -> Option<(u8, &'a [u8])> {
        loop {
            if self.in_scan {
                let rest = self.bytes.get(self.place..)?;
                self.place += rest.iter().position(|&byte| byte == 0xFF)?;
            }
            let &[first, marker] = self.bytes.get(self.place..)?.first_chunk()?;
            match marker {
                _ if first != 0xFF => self.place += 1,
                0xFF => self.place += 1, // a fill byte
                // An escaped 255, a restart marker or another marker without a length.
                0x00 | 0x01 | START_OF_IMAGE => self.place += 2,
                _ if RESTARTS.contains(&marker) => self.place += 2,
                END_OF_IMAGE => return Some((marker, &[])),
                _ => {
                    let rest = &self.bytes[self.place + 2..];
                    let length = usize::from(u16::from_be_bytes(*rest.first_chunk()?));
                    let body = rest.get(2..length.max(2))?;
                    self.place += 2 + length;
                    self.in_scan = marker == SCAN;
                    return Some((marker, body));
                }
            }
        }
    }
}
