//! Where a square is read from: upright or in a file that holds the image lying, at full size or at a fraction of it.

use image::metadata::Orientation;

/// A part of an image in pixels, which need not be whole.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Window {
    pub(super) left: f64,
    pub(super) top: f64,
    pub(super) width: f64,
    pub(super) height: f64,
    /// Side of the square that it is resized to.
    pub(super) size: u32,
    /// Whether the pixels about it are read, too, as if the whole image had been resized and then been cut.
    pub(super) looks_beyond: bool,
}

impl Window {
    /// By how much the image may be scaled down, 1, 2, 4 or 8, so that the square still has a pixel for each of its own.
    pub(super) fn reduction(&self) -> u32 {
        let spare = self.width.min(self.height) / f64::from(self.size);
        [8, 4, 2].into_iter().find(|&reduction| f64::from(reduction) <= spare).unwrap_or(1)
    }

    /// The same part of an image that is scaled down.
    pub(super) fn reduced(&self, reduction: u32) -> Window {
        let part = 1.0 / f64::from(reduction);
        let [left, top, width, height] = [self.left, self.top, self.width, self.height].map(|length| length * part);
        Window { left, top, width, height, ..*self }
    }

    /// The whole pixels, from left and top up to right and bottom, that may be read of an image of `width` x `height`.
    pub(super) fn readable(&self, width: u32, height: u32) -> [u32; 4] {
        if self.looks_beyond {
            return [0, 0, width, height];
        }
        let end = |first: f64, length: f64, limit: u32| ((first + length).ceil() as u32).min(limit);
        let (right, bottom) = (end(self.left, self.width, width), end(self.top, self.height, height));
        [self.left as u32, self.top as u32, right, bottom]
    }
}

/// How an image in a file becomes upright: rows and columns are exchanged, and then it is flipped.
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

    /// Where a window of the upright image, of `height` x `width` pixels, lies in the file.
    pub(super) fn undo(&self, window: Window, height: u32, width: u32) -> Window {
        let mut lying = window;
        if self.left_to_right {
            lying.left = f64::from(width) - window.left - window.width;
        }
        if self.upside_down {
            lying.top = f64::from(height) - window.top - window.height;
        }
        if self.transposed {
            (lying.left, lying.top) = (lying.top, lying.left);
            (lying.width, lying.height) = (lying.height, lying.width);
        }
        lying
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn window(left: f64, top: f64, width: f64, height: f64) -> Window {
        Window { left, top, width, height, size: 100, looks_beyond: false }
    }

    #[test]
    fn no_reduction_leaves_less_than_a_pixel_for_a_pixel() {
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
        assert_eq!(Window { looks_beyond: true, ..part }.readable(50, 40), [0, 0, 50, 40]);
    }

    #[test]
    fn a_window_of_the_upright_image_is_found_in_the_file() {
        // An image of 60 x 40 pixels (columns x rows) whose window begins 5 columns from the left and 7 rows from the top.
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
