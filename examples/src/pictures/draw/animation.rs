//! Animated PNG files: every browser plays them, in exact colors.

use std::path::Path;

use image::{RgbImage, imageops};
use patchmix::checkpoint::write_atomic;
use png::{BlendOp, ColorType, Compression, Encoder};

use crate::Result;

/// Pictures played in a loop. Of each picture only the part that changes is kept.
#[derive(Default)]
pub(crate) struct Animation {
    last: RgbImage,
    frames: Vec<Frame>,
}

/// The part of a picture that differs from the one before.
struct Frame {
    left: u32,
    top: u32,
    part: RgbImage,
    milliseconds: u16,
}

impl Animation {
    /// Appends a picture, shown for `milliseconds`. All pictures must have the same size.
    pub(crate) fn show(&mut self, picture: RgbImage, milliseconds: u16) {
        let size = picture.dimensions();
        let changed = if self.frames.is_empty() { Some((0, 0, size.0, size.1)) } else { changes(&self.last, &picture) };
        match (changed, self.frames.last_mut()) {
            (None, Some(frame)) => frame.milliseconds = frame.milliseconds.saturating_add(milliseconds),
            (changed, _) => {
                let (left, top, width, height) = changed.unwrap_or((0, 0, size.0, size.1));
                let part = imageops::crop_imm(&picture, left, top, width, height).to_image();
                self.frames.push(Frame { left, top, part, milliseconds });
                self.last = picture;
            }
        }
    }

    /// Number of frames; equal pictures in a row make one frame.
    pub(crate) fn frames(&self) -> usize {
        self.frames.len()
    }

    /// Duration of one loop.
    pub(crate) fn seconds(&self) -> f64 {
        self.frames.iter().map(|frame| f64::from(frame.milliseconds)).sum::<f64>() / 1000.0
    }

    /// Writes the file and returns its length in bytes.
    pub(crate) fn write(&self, path: &Path) -> Result<usize> {
        let mut bytes = Vec::new();
        let mut encoder = Encoder::new(&mut bytes, self.last.width(), self.last.height());
        encoder.set_color(ColorType::Rgb);
        encoder.set_compression(Compression::Balanced);
        encoder.set_animated(u32::try_from(self.frames.len())?, 0)?;
        encoder.set_blend_op(BlendOp::Source)?;
        let mut writer = encoder.write_header()?;
        for frame in &self.frames {
            writer.reset_frame_position()?;
            writer.set_frame_dimension(frame.part.width(), frame.part.height())?;
            writer.set_frame_position(frame.left, frame.top)?;
            writer.set_frame_delay(frame.milliseconds, 1000)?;
            writer.write_image_data(&frame.part)?;
        }
        writer.finish()?;
        write_atomic(path, &bytes)?;
        Ok(bytes.len())
    }
}

/// The smallest rectangle around all pixels that differ: left, top, width and height.
fn changes(before: &RgbImage, after: &RgbImage) -> Option<(u32, u32, u32, u32)> {
    const CHANNELS: usize = 3;
    let row_length = after.width() as usize * CHANNELS;
    let rows = before.chunks(row_length).zip(after.chunks(row_length)).enumerate();
    let mut differing = rows.filter(|(_, (before, after))| before != after).map(|(y, (before, after))| {
        let differs = |x: &usize| before[*x] != after[*x];
        let (first, last) = ((0..row_length).find(differs), (0..row_length).rfind(differs));
        (first.unwrap_or(0) / CHANNELS, last.unwrap_or(0) / CHANNELS, y)
    });
    let (left, right, top) = differing.next()?;
    let (left, right, bottom) =
        differing.fold((left, right, top), |(left, right, _), (first, last, y)| (left.min(first), right.max(last), y));
    Some((left as u32, top as u32, (right - left + 1) as u32, (bottom - top + 1) as u32))
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::BufReader;

    use image::Rgb;

    use super::*;

    #[test]
    fn only_changes_are_written() {
        let white = RgbImage::from_pixel(30, 20, Rgb([255; 3]));
        let mut dotted = white.clone();
        dotted.put_pixel(4, 5, Rgb([1, 2, 3]));
        dotted.put_pixel(6, 9, Rgb([1, 2, 3]));
        let mut animation = Animation::default();
        animation.show(white.clone(), 500);
        animation.show(dotted.clone(), 50);
        animation.show(dotted, 250);
        animation.show(white, 100);
        assert_eq!((animation.frames(), animation.seconds()), (3, 0.9));

        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("animation.png");
        animation.write(&path).unwrap();
        let mut reader = png::Decoder::new(BufReader::new(File::open(path).unwrap())).read_info().unwrap();
        let control = reader.info().animation_control.unwrap();
        assert_eq!((control.num_frames, control.num_plays), (3, 0));
        let mut pixels = vec![0; 30 * 20 * 3];
        let parts = [0; 3].map(|_| {
            reader.next_frame(&mut pixels).unwrap();
            let frame = *reader.info().frame_control().unwrap();
            ((frame.x_offset, frame.y_offset, frame.width, frame.height), frame.delay_num)
        });
        assert_eq!(parts, [((0, 0, 30, 20), 500), ((4, 5, 3, 5), 300), ((4, 5, 3, 5), 100)]);
    }
}
