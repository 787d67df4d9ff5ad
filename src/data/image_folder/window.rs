//! Crop windows in the coordinates of a file, for rotated and reduced images.

use image::metadata::Orientation;

/// A part of an image, in fractional pixels.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Window {
    pub(super) left: f64,
    pub(super) top: f64,
    pub(super) width: f64,
    pub(super) height: f64,
    /// Side of the square to resize it to.
    pub(super) size: u32,
    /// Whether resizing may read pixels around the window, as if the whole image were resized before it is cropped.
    pub(super) reads_around: bool,
}

impl Window {
    /// The largest reduction of the image, 1, 2, 4 or 8, that leaves a pixel for every pixel of the square.
    pub(super) fn reduction(&self) -> u32 {
        let spare = self.width.min(self.height) / f64::from(self.size);
        [8, 4, 2].into_iter().find(|&reduction| f64::from(reduction) <= spare).unwrap_or(1)
    }

    /// The same window in the reduced image.
    pub(super) fn reduced(&self, reduction: u32) -> Window {
        let part = 1.0 / f64::from(reduction);
        let [left, top, width, height] = [self.left, self.top, self.width, self.height].map(|length| length * part);
        Window { left, top, width, height, ..*self }
    }

    /// The pixels that may be read in an image of `width` x `height`, as left, top, right and bottom.
    pub(super) fn readable(&self, width: u32, height: u32) -> [u32; 4] {
        if self.reads_around {
            return [0, 0, width, height];
        }
        let end = |first: f64, length: f64, limit: u32| ((first + length).ceil() as u32).min(limit);
        let (right, bottom) = (end(self.left, self.width, width), end(self.top, self.height, height));
        [self.left as u32, self.top as u32, right, bottom]
    }
}

/// How an image becomes upright: transpose first, then flip.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Turn {
    pub(super) transposed: bool,
    left_to_right: bool,
    upside_down: bool,
}

impl Turn {
    pub(super) fn upright(orientation: Orientation) -> Turn {
        let (transposed, left_to_right, upside_down) = match orientation {
            Orientation::NoTransforms => (false, false, false),
            Orientation::FlipHorizontal => (false, true, false),
            Orientation::Rotate180 => (false, true, true),
            Orientation::FlipVertical => (false, false, true),
            Orientation::Rotate90FlipH => (true, false, false),
            Orientation::Rotate90 => (true, true, false),
            Orientation::Rotate270FlipH => (true, true, true),
            Orientation::Rotate270 => (true, false, true),
        };
        Turn { transposed, left_to_right, upside_down }
    }

    /// The window in the file for a window of the upright image of `height` x `width` pixels.
    pub(super) fn undo(&self, window: Window, height: u32, width: u32) -> Window {
        let mut rotated = window;
        if self.left_to_right {
            rotated.left = f64::from(width) - window.left - window.width;
        }
        if self.upside_down {
            rotated.top = f64::from(height) - window.top - window.height;
        }
        if self.transposed {
            (rotated.left, rotated.top) = (rotated.top, rotated.left);
            (rotated.width, rotated.height) = (rotated.height, rotated.width);
        }
        rotated
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn window(left: f64, top: f64, width: f64, height: f64) -> Window {
        Window { left, top, width, height, size: 100, reads_around: false }
    }

    #[test]
    fn a_reduction_leaves_a_pixel_for_every_pixel() {
        for (side, reduction) in [(1, 1), (100, 1), (199, 1), (200, 2), (399, 2), (400, 4), (800, 8), (5000, 8)] {
            assert_eq!(window(0.0, 0.0, 9000.0, f64::from(side)).reduction(), reduction, "{side}");
            assert_eq!(window(0.0, 0.0, f64::from(side), 9000.0).reduction(), reduction, "{side}");
        }
    }

    #[test]
    fn a_reduced_window_may_read_the_pixels_that_it_touches() {
        let part = window(10.0, 21.0, 33.0, 8.0);
        assert_eq!(part.readable(50, 50), [10, 21, 43, 29]);
        assert_eq!(part.reduced(4).readable(13, 13), [2, 5, 11, 8]);
        assert_eq!(Window { reads_around: true, ..part }.readable(50, 40), [0, 0, 50, 40]);
    }

    #[test]
    fn a_window_of_the_upright_image_is_found_in_the_file() {
        // An image of 60 x 40 pixels (columns x rows); its window starts 5 columns from the left and 7 rows from the
        // top.
        let upright = window(5.0, 7.0, 20.0, 10.0);
        let (from_right, from_below) = (60.0 - 5.0 - 20.0, 40.0 - 7.0 - 10.0);
        for (orientation, expected) in [
            (Orientation::NoTransforms, upright),
            (Orientation::FlipHorizontal, window(from_right, 7.0, 20.0, 10.0)),
            (Orientation::Rotate180, window(from_right, from_below, 20.0, 10.0)),
            (Orientation::FlipVertical, window(5.0, from_below, 20.0, 10.0)),
            (Orientation::Rotate90FlipH, window(7.0, 5.0, 10.0, 20.0)),
            (Orientation::Rotate90, window(7.0, from_right, 10.0, 20.0)),
            (Orientation::Rotate270FlipH, window(from_below, from_right, 10.0, 20.0)),
            (Orientation::Rotate270, window(from_below, 5.0, 10.0, 20.0)),
        ] {
            assert_eq!(Turn::upright(orientation).undo(upright, 40, 60), expected, "{orientation:?}");
        }
    }
}
