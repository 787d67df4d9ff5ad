//! Position of every patch at every step.

use super::mixing::{BATCH, Mixing};

/// Above the images: the step and its caption.
pub(super) const HEADER: i32 = 112;
/// Left of the images: the names of the groups.
const LEFT: i32 = 100;
pub(super) const MARGIN: i32 = 24;
/// Above a row of images: their names.
pub(super) const LABEL: i32 = 30;
/// Between two groups.
const GROUP_GAP: i32 = 26;
/// How far the band of a group extends beyond its patches.
pub(super) const BAND: i32 = 9;
/// Total of the gaps between the patches of a cut image.
const GAPS: i32 = 18;
/// Between two images.
const BETWEEN: i32 = 22;

/// Side of a cell of a target.
pub(super) const CELL: i32 = 44;
pub(super) const MATRIX: i32 = CELL * BATCH as i32;
/// Left of a target: the names of its rows.
pub(super) const ROW_NAMES: i32 = 84;
/// Height of a target with its titles.
pub(super) const TARGETS: i32 = MATRIX + 68;
/// Between the mixed images and the targets.
const ABOVE_TARGETS: i32 = 28;

/// An arrangement of the patches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Arrangement {
    /// Four images.
    Whole,
    /// The patches of each image, with gaps between them.
    Cut,
    /// In the shuffled order.
    Shuffled,
    /// The shuffled order, in groups.
    Grouped,
    /// The groups of mixed images.
    Mixed,
    /// Mixed images, each patch at its own position.
    Restored,
    /// The same, higher up, with room for the targets below.
    Raised,
}

/// Sizes in pixels of the picture.
pub(super) struct Layout {
    /// Pixels of the picture per pixel of an image.
    pub(super) zoom: i32,
    /// Side of a patch.
    pub(super) patch: i32,
    /// Between two patches of a cut image.
    gap: i32,
    /// From one image to the next.
    pub(super) pitch: i32,
    /// Side of a cut image.
    pub(super) cut: i32,
    side: i32,
    pub(super) size: (i32, i32),
}

impl Layout {
    /// For images enlarged by `zoom`; `both` makes room for mixed images and targets at once.
    pub(super) fn new(mixing: &Mixing, zoom: i32, both: bool) -> Layout {
        let side = mixing.side as i32;
        let patch = mixing.images.width * zoom / side;
        let gap = if side > 1 { (GAPS / (side - 1)).clamp(2, 6) } else { 0 };
        let cut = side * patch + (side - 1) * gap;
        let pitch = cut + BETWEEN;
        let mut layout = Layout { zoom, patch, gap, pitch, cut, side, size: (0, 0) };
        let highest = LABEL + cut.max(layout.grouped_height(mixing));
        let targets = if both { LABEL + cut + ABOVE_TARGETS + TARGETS } else { TARGETS };
        layout.size = (LEFT + BATCH as i32 * pitch + MARGIN, HEADER + highest.max(targets) + MARGIN);
        layout
    }

    /// Width of the colored line around a patch.
    pub(super) fn border(&self) -> i32 {
        (self.gap / 2).clamp(1, 2)
    }

    /// Left and right edge of the columns of images. Patches that leave to the left come in from the right.
    pub(super) fn belt(&self) -> (i32, i32) {
        (LEFT, LEFT + BATCH as i32 * self.pitch)
    }

    /// Upper edge of the first patches.
    pub(super) fn top(&self, arrangement: Arrangement, mixing: &Mixing) -> i32 {
        let height = match arrangement {
            Arrangement::Whole => self.side * self.patch,
            Arrangement::Grouped | Arrangement::Mixed => self.grouped_height(mixing),
            Arrangement::Raised => return HEADER + LABEL,
            _ => self.cut,
        };
        // Slightly above the middle, and lower by half of the names above the images.
        HEADER + (self.size.1 - HEADER - MARGIN - height) * 2 / 5 + LABEL / 2
    }

    /// Upper edge of the targets below raised images.
    pub(super) fn targets_top(&self) -> i32 {
        HEADER + LABEL + self.cut + ABOVE_TARGETS
    }

    /// Upper edge and height of a group's rows.
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

    /// Upper left corner of the patch of `image` at `position`.
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

    /// Position in the picture of a pixel of a mixed image.
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
