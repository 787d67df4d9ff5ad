//! The crop to cut out of an image, and its size.

use image::metadata::Orientation;

use super::window::{Turn, Window};
use crate::augment::{Crop, ViewRecipe, check_range};
use crate::data::center::CenterCrop;
use crate::error::{Result, check_in};
use crate::random::Stream;

/// The crop to cut out of every image; it is resized to a square.
#[derive(Debug, Clone, PartialEq)]
pub enum Cut {
    /// For training: a random crop, drawn as in torchvision's `RandomResizedCrop`. It depends only on the seed, the
    /// position of the image in its folder, and its height and width.
    Random {
        /// Side of the square in pixels, `1..=8192`.
        size: i64,
        /// Range of the crop's share of the image's area, `0 < least <= greatest <= 1`.
        scale: (f64, f64),
        /// Range of the crop's width divided by its height, `0 < least <= greatest`.
        ratio: (f64, f64),
        /// Use another one for every view of every epoch.
        seed: u64,
    },
    /// For evaluation: resizes the shorter side to `resize` and cuts out the central square.
    Center {
        /// Length of the shorter side in pixels, `size` or more, at most 8192.
        resize: i64,
        /// Side of the square in pixels, 1 or more.
        size: i64,
    },
}

/// The largest side of a square, as for a view.
const MAX_SIZE: i64 = 1 << 13;

impl Cut {
    /// The random crop of a recipe: its size, `crop_scale` and `crop_ratio`.
    ///
    /// [`ViewRecipe::view_of_crops`] makes the rest of the view.
    pub fn random(recipe: &ViewRecipe, seed: u64) -> Cut {
        Cut::Random { size: recipe.size, scale: recipe.crop_scale, ratio: recipe.crop_ratio, seed }
    }

    /// Side of the square in pixels.
    pub fn size(&self) -> i64 {
        match self {
            Cut::Random { size, .. } | Cut::Center { size, .. } => *size,
        }
    }

    /// An error unless every setting lies within its range.
    pub(super) fn check(&self) -> Result<()> {
        let size = self.size();
        check_in("size", size, 1..=MAX_SIZE)?;
        match *self {
            Cut::Random { scale, ratio, .. } => {
                check_range("scale", scale, 1.0)?;
                check_range("ratio", ratio, f64::MAX)
            }
            Cut::Center { resize, size } => check_in("resize", resize, size..=MAX_SIZE),
        }
    }

    /// The crop of the image at `position`, in the coordinates of its file, which stores `height` rows and `width`
    /// columns.
    pub(super) fn window(&self, position: i64, height: u32, width: u32, orientation: Orientation) -> Window {
        let turned = Turn::upright(orientation);
        let (upright_height, upright_width) = if turned.transposed { (width, height) } else { (height, width) };
        turned.undo(self.upright_window(position, upright_height, upright_width), upright_height, upright_width)
    }

    fn upright_window(&self, position: i64, height: u32, width: u32) -> Window {
        match *self {
            Cut::Random { size, scale, ratio, seed } => {
                let mut stream = Stream::new(seed, position as u64);
                let numbers: [f64; Crop::NUMBERS] = std::array::from_fn(|_| stream.unit());
                let crop = Crop::from_uniform(scale, ratio, i64::from(height), i64::from(width), &numbers);
                let [left, top, width, height] = [crop.left, crop.top, crop.width, crop.height].map(|side| side as f64);
                Window { left, top, width, height, size: size as u32, reads_around: false }
            }
            Cut::Center { resize, size } => {
                let crop = CenterCrop { resize, size };
                let stretch = |side: u32| {
                    let (resized, start) = crop.along(side.into(), height.min(width).into());
                    let pixel = f64::from(side) / resized as f64;
                    (start as f64 * pixel, size as f64 * pixel)
                };
                let ((top, height), (left, width)) = (stretch(height), stretch(width));
                Window { left, top, width, height, size: size as u32, reads_around: true }
            }
        }
    }
}
