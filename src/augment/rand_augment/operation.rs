//! The fifteen operations of RandAugment, and their strength at a magnitude.

use crate::error::{Result, check_in};

/// An operation of RandAugment with its strength, on an image of bytes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum AugmentOperation {
    /// Stretches the values of each channel to `0..=255`.
    AutoContrast,
    /// Spreads the values of each channel evenly over `0..=255`.
    Equalize,
    /// Inverts all values.
    Invert,
    /// Rotates about the center, counterclockwise.
    Rotate {
        /// `-360..=360`.
        degrees: f64,
    },
    /// Keeps the highest bits of every value.
    Posterize {
        /// Bits to keep, `1..=8`.
        bits: i64,
    },
    /// Inverts the values from a threshold on.
    Solarize {
        /// The lowest value to invert, `0..=256`.
        threshold: i64,
    },
    /// Adds to the values below 128.
    SolarizeAdd {
        /// `0..=255`; sums end at 255.
        amount: i64,
    },
    /// Blends with the grayscale image.
    Color {
        /// Share of the image, `0..=1000`: above 1 is more colorful.
        factor: f64,
    },
    /// Blends with the mean gray of the image.
    Contrast {
        /// Share of the image, `0..=1000`.
        factor: f64,
    },
    /// Blends with black.
    Brightness {
        /// Share of the image, `0..=1000`.
        factor: f64,
    },
    /// Blends with a smoothed image.
    Sharpness {
        /// Share of the image, `0..=1000`.
        factor: f64,
    },
    /// Shifts each row to the left, by more the lower it is.
    ShearX {
        /// Pixels per row, `-1000..=1000`.
        slope: f64,
    },
    /// Shifts each column up, by more the farther right it is.
    ShearY {
        /// Pixels per column, `-1000..=1000`.
        slope: f64,
    },
    /// Shifts the image to the left.
    TranslateX {
        /// Share of the width, `-1000..=1000`.
        share: f64,
    },
    /// Shifts the image up.
    TranslateY {
        /// Share of the height, `-1000..=1000`.
        share: f64,
    },
}

impl AugmentOperation {
    /// All operations at `magnitude`, which is limited to `0..=10`; `negative` turns those that have a direction.
    ///
    /// The ranges are those of timm's "increasing" set, where 0 leaves the image alone or nearly so and 10 changes it
    /// most. Posterization keeps at least one bit, because without bits the image is black.
    pub fn at_magnitude(magnitude: f64, negative: bool) -> [AugmentOperation; 15] {
        use AugmentOperation::*;
        let level = magnitude.clamp(0.0, 10.0) / 10.0;
        let signed = |value: f64| if negative { -value } else { value };
        let factor = (1.0 + signed(level * 0.9)).max(0.1);
        let (slope, share) = (signed(level * 0.3), signed(level * 0.45));
        [
            AutoContrast,
            Equalize,
            Invert,
            Rotate { degrees: signed(level * 30.0) },
            Posterize { bits: (4 - (level * 4.0) as i64).max(1) },
            Solarize { threshold: 256 - (level * 256.0) as i64 },
            SolarizeAdd { amount: (level * 110.0) as i64 },
            Color { factor },
            Contrast { factor },
            Brightness { factor },
            Sharpness { factor },
            ShearX { slope },
            ShearY { slope },
            TranslateX { share },
            TranslateY { share },
        ]
    }

    /// An error unless the strength is in range.
    pub(super) fn check(&self) -> Result<()> {
        use AugmentOperation::*;
        const LIMIT: f64 = 1000.0;
        match *self {
            AutoContrast | Equalize | Invert => Ok(()),
            Rotate { degrees } => check_in("degrees", degrees, -360.0..=360.0),
            Posterize { bits } => check_in("bits", bits, 1..=8),
            Solarize { threshold } => check_in("threshold", threshold, 0..=256),
            SolarizeAdd { amount } => check_in("amount", amount, 0..=255),
            Color { factor } | Contrast { factor } | Brightness { factor } | Sharpness { factor } => {
                check_in("factor", factor, 0.0..=LIMIT)
            }
            ShearX { slope } | ShearY { slope } => check_in("slope", slope, -LIMIT..=LIMIT),
            TranslateX { share } | TranslateY { share } => check_in("share", share, -LIMIT..=LIMIT),
        }
    }
}
