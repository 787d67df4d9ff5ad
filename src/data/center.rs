//! Resize of the shorter side and center crop, with torchvision's rounding.

/// How an image is resized and its central square cut out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct CenterCrop {
    /// Length of the shorter side after resizing, in pixels.
    pub(crate) resize: i64,
    /// Side of the square in pixels.
    pub(crate) size: i64,
}

impl CenterCrop {
    /// The published evaluation crop: resized to 256 pixels for an encoder of 224, in proportion for other sizes and
    /// rounded down.
    pub(crate) fn evaluation(image_size: i64) -> CenterCrop {
        CenterCrop { resize: image_size.saturating_mul(256) / 224, size: image_size }
    }

    /// For a side of an image whose shorter side is `shorter`: its length after resizing, and where the square begins
    /// on it.
    pub(crate) fn along(self, side: i64, shorter: i64) -> (i64, i64) {
        let resized = side * self.resize / shorter;
        (resized, ((resized - self.size) as f64 / 2.0).round_ties_even() as i64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `int(size / 224 * 256)`, `int(resize * long / short)` and `int(round((resized - size) / 2.0))`; Python rounds
    /// halves to even numbers.
    #[test]
    fn sides_and_offsets_are_those_of_torchvision() {
        let sizes = [224, 96, 64, 32, 16].map(|size| CenterCrop::evaluation(size).resize);
        assert_eq!(sizes, [256, 109, 73, 36, 18]);
        let crop = CenterCrop::evaluation(224);
        assert_eq!((crop.along(200, 200), crop.along(300, 200)), ((256, 16), (384, 80)));
        assert_eq!(CenterCrop::evaluation(96).along(100, 100), (109, 6), "6.5");
        assert_eq!(CenterCrop { resize: 11, size: 8 }.along(11, 11), (11, 2), "1.5");
    }
}
