//! Where every patch lies at every step.

use super::mixing::{BATCH, Mixing};

/// Over the images: the step and its caption.
pub(super) const HEADER: i32 = 112;
/// Beside the images: the names of the groups.
const LEFT: i32 = 100;
pub(super) const MARGIN: i32 = 24;
/// Over a row of images: their names.
pub(super) const LABEL: i32 = 30;
/// Between two groups.
const GROUP_GAP: i32 = 26;
/// The part of a group's band beyond its patches.
pub(super) const BAND: i32 = 9;
/// All the gaps between the patches of a cut image.
const GAPS: i32 = 18;
/// Between two images.
const BETWEEN: i32 = 22;

/// A cell of a target, and what is written over and beside its cells.
pub(super) const CELL: i32 = 44;
pub(super) const MATRIX: i32 = CELL * BATCH as i32;
pub(super) const ROW_NAMES: i32 = 84;
pub(super) const TARGETS: i32 = MATRIX + 68;
/// Between the mixed images and the targets.
const OVER_TARGETS: i32 = 28;

/// How the patches are arranged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Arrangement {
    /// Four images.
    Whole,
    /// Every patch by itself.
    Cut,
    /// In the shuffled order.
    Shuffled,
    /// The shuffled order, in groups.
    Grouped,
    /// The groups of mixed images.
    Mixed,
    /// Mixed images, every patch at its own position.
    Restored,
    /// The same, farther up: there is room for the targets below.
    Raised,
}

/// Sizes in pixels of the picture.
pub(crate) struct Layout {
    /// How many pixels of the picture a pixel of an image is wide and high.
    pub(super) zoom: i32,
    /// The side of a patch.
    pub(super) patch: i32,
    /// Between two patches of a cut image.
    gap: i32,
    /// From one image to the next.
    pub(super) pitch: i32,
    /// The side of a cut image.
    pub(super) cut: i32,
    side: i32,
    pub(crate) size: (i32, i32),
}

impl Layout {
    /// For images enlarged by `zoom`; with or without room for mixed images and targets at once.
    pub(crate) fn new(mixing: &Mixing, zoom: i32, both: bool) -> Layout {
        let side = mixing.side as i32;
        let patch = mixing.images.width * zoom / side;
        let gap = if side > 1 { (GAPS / (side - 1)).clamp(2, 6) } else { 0 };
        let cut = side * patch + (side - 1) * gap;
        let pitch = cut + BETWEEN;
        let mut layout = Layout { zoom, patch, gap, pitch, cut, side, size: (0, 0) };
        let highest = LABEL + cut.max(layout.grouped_height(mixing));
        let targets = if both { LABEL + cut + OVER_TARGETS + TARGETS } else { TARGETS };
        layout.size = (LEFT + BATCH as i32 * pitch + MARGIN, HEADER + highest.max(targets) + MARGIN);
        layout
    }

    /// The coloured line around a patch.
    pub(super) fn border(&self) -> i32 {
        (self.gap / 2).clamp(1, 2)
    }

    /// From the left edge of the first image's column to the right edge of the last: what leaves it to the left comes
    /// in from the right.
    pub(super) fn belt(&self) -> (i32, i32) {
        (LEFT, LEFT + BATCH as i32 * self.pitch)
    }

    /// The upper edge of the first patches.
    pub(super) fn top(&self, arrangement: Arrangement, mixing: &Mixing) -> i32 {
        let height = match arrangement {
            Arrangement::Whole => self.side * self.patch,
            Arrangement::Grouped | Arrangement::Mixed => self.grouped_height(mixing),
            Arrangement::Raised => return HEADER + LABEL,
            _ => self.cut,
        };
        // A little over the middle, and lower by half of the names over the images.
        HEADER + (self.size.1 - HEADER - MARGIN - height) * 2 / 5 + LABEL / 2
    }

    /// The upper edge of the targets under raised images.
    pub(super) fn targets_top(&self) -> i32 {
        HEADER + LABEL + self.cut + OVER_TARGETS
    }

    /// The upper edge and the height of a group's rows.
    pub(super) fn band(&self, group: usize, mixing: &Mixing) -> (i32, i32) {
        let above: i32 = (0..group).map(|group| self.group_height(group, mixing) + GROUP_GAP).sum();
        (self.top(Arrangement::Grouped, mixing) + above, self.group_height(group, mixing))
    }

    fn grouped_height(&self, mixing: &Mixing) -> i32 {
        let groups = mixing.group_sizes.len();
        (0..groups).map(|group| self.group_height(group, mixing)).sum::<i32>() + GROUP_GAP * (groups as i32 - 1)
    }

    fn group_height(&self, group: usize, mixing: &Mixing) -> i32 {
        let rows = mixing.group_sizes[group].div_ceil(mixing.side) as i32;
        rows * self.patch + (rows - 1) * self.gap
    }

    /// The upper left corner of the patch that `image` has at `position`.
    pub(super) fn place(&self, arrangement: Arrangement, mixing: &Mixing, image: usize, position: usize) -> (i32, i32) {
        let slot = mixing.shuffled.iter().position(|other| *other == position).unwrap_or(position);
        let column = match arrangement {
            Arrangement::Whole | Arrangement::Cut | Arrangement::Shuffled | Arrangement::Grouped => image,
            Arrangement::Mixed | Arrangement::Restored | Arrangement::Raised => mixing.destination(image, position),
        };
        let (index, top, gap) = match arrangement {
            Arrangement::Whole => (position, self.top(arrangement, mixing), 0),
            Arrangement::Shuffled => (slot, self.top(arrangement, mixing), self.gap),
            Arrangement::Grouped | Arrangement::Mixed => {
                let group = mixing.group_of_position[position];
                let before: usize = mixing.group_sizes[..group].iter().sum();
                (slot - before, self.band(group, mixing).0, self.gap)
            }
            _ => (position, self.top(arrangement, mixing), self.gap),
        };
        let (row, column_in_image) = ((index / mixing.side) as i32, (index % mixing.side) as i32);
        let width = self.side * self.patch + (self.side - 1) * gap;
        let left = LEFT + column as i32 * self.pitch + (self.pitch - width) / 2;
        (left + column_in_image * (self.patch + gap), top + row * (self.patch + gap))
    }

    /// Where a pixel of a mixed image is drawn.
    #[cfg(test)]
    pub(super) fn pixel(
        &self,
        arrangement: Arrangement,
        mixing: &Mixing,
        image: usize,
        (x, y): (i32, i32),
    ) -> (i32, i32) {
        let pixels = self.patch / self.zoom;
        let steps = |pixel: i32| pixel / pixels * (self.patch + self.gap) + pixel % pixels * self.zoom;
        let left = LEFT + image as i32 * self.pitch + (self.pitch - self.cut) / 2;
        (left + steps(x), self.top(arrangement, mixing) + steps(y))
    }
}
