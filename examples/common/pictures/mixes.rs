//! `mix.png`: images, what mixing makes of them, and the soft labels that go with it.

use std::path::Path;

use tch::Tensor;

use super::Result;
use super::canvas::{Align, Canvas, FAINT, INK, LINE};
use super::matrix::{Matrix, decimals, shade};
use super::tiles::{Scale, Tiles};

/// One way to mix, for [`mix_picture`].
pub(crate) struct MixRow {
    /// From how many images each mixed image is made.
    pub(crate) groups: i64,
    /// The mixed images, `[B, 3, H, W]` of bytes.
    pub(crate) mixed: Tensor,
    /// The share that each original has in each mixed image, `[B, B]`.
    pub(crate) mix_to_origin: Tensor,
    /// How much two mixed images share, `[B, B]`.
    pub(crate) mix_to_mix: Tensor,
}

/// How many images are shown of a batch.
const SHOWN: i64 = 8;
/// The largest batch whose targets can be shown: a cell is then four pixels wide.
const LARGEST_BATCH: i64 = 52;

const MARGIN: i32 = 24;
/// Between two images.
const GAP: i32 = 6;
/// Between the images and the first matrix, and between the matrices.
const COLUMN_GAP: i32 = 32;
/// The side of a matrix, at most.
const MATRIX: i32 = 232;
/// The side that images are enlarged to, about.
const TILE: i32 = 160;
/// The heights of the title over a row and of the numbers under it.
const TITLE: i32 = 38;
const CAPTION: i32 = 30;
/// Between two rows.
const ROW_GAP: i32 = 24;

/// Draws the first images of a batch `[B, 3, H, W]` of bytes, and below them a row for each way to mix: its images with
/// the numbers of their sources, and its two target matrices.
pub(crate) fn mix_picture(path: &Path, images: &Tensor, patch_size: i64, rows: &[MixRow]) -> Result<()> {
    let batch = Tiles::new(images, "images")?;
    if batch.count > LARGEST_BATCH {
        return Err(format!("the picture of mixing shows at most {LARGEST_BATCH} images, not {}", batch.count).into());
    }
    let rows: Vec<Prepared> = rows.iter().map(|row| Prepared::new(row, &batch)).collect::<Result<_>>()?;
    let layout = Layout::new(&batch);
    let size = (layout.matrices[1] + layout.matrix() + MARGIN, layout.top(rows.len() as i32 + 1) - ROW_GAP + MARGIN);
    Canvas::write(path, size, |canvas| {
        draw_originals(canvas, &layout, &batch, patch_size)?;
        let largest = rows.iter().map(Prepared::largest).fold(f64::MIN_POSITIVE, f64::max);
        draw_legend(canvas, &layout, largest)?;
        for (index, row) in rows.iter().enumerate() {
            draw_row(canvas, &layout, row, index, largest)?;
        }
        Ok(())
    })
}

/// How many images of a batch are drawn.
fn shown(images: &Tiles) -> i32 {
    images.count.min(SHOWN) as i32
}

/// A [`MixRow`] whose tensors have been checked and copied.
struct Prepared {
    groups: i64,
    mixed: Tiles,
    matrices: [Matrix; 2],
}

impl Prepared {
    fn new(row: &MixRow, images: &Tiles) -> Result<Self> {
        let mixed = Tiles::new(&row.mixed, "mixed images")?;
        if (mixed.count, mixed.height, mixed.width) != (images.count, images.height, images.width) {
            return Err(format!("the mixed images of {} groups differ in shape from the originals", row.groups).into());
        }
        let matrices = [
            Matrix::new(&row.mix_to_origin, images.count, "mix-to-origin")?,
            Matrix::new(&row.mix_to_mix, images.count, "mix-to-mix")?,
        ];
        Ok(Self { groups: row.groups, mixed, matrices })
    }

    fn largest(&self) -> f64 {
        self.matrices.iter().map(Matrix::largest).fold(0.0, f64::max)
    }

    /// The numbers of the originals in a mixed image: `0 + 1`, or `0 … 7` where many follow each other.
    fn sources(&self, image: usize) -> String {
        let shares = self.matrices[0].row(image);
        let sources: Vec<usize> = (0..shares.len()).filter(|&source| shares[source] > 0.0).collect();
        match sources.as_slice() {
            [first, .., last] if sources.len() > 4 && last - first + 1 == sources.len() => format!("{first} … {last}"),
            _ if sources.len() > 6 => format!("{} images", sources.len()),
            _ => sources.iter().map(usize::to_string).collect::<Vec<_>>().join(" + "),
        }
    }
}

/// Where everything lies.
struct Layout {
    scale: Scale,
    cell: i32,
    side: i32,
    /// The left edges of the two matrices.
    matrices: [i32; 2],
}

impl Layout {
    fn new(images: &Tiles) -> Self {
        let scale = images.scale(TILE);
        let side = images.count as i32;
        let cell = MATRIX / side;
        let first = MARGIN + shown(images) * (scale.size.0 + GAP) - GAP + COLUMN_GAP;
        Self { scale, cell, side, matrices: [first, first + MATRIX.max(side * cell) + COLUMN_GAP] }
    }

    fn matrix(&self) -> i32 {
        self.cell * self.side
    }

    /// The height of a row of mixed images.
    fn row(&self) -> i32 {
        TITLE + (self.scale.size.1 + CAPTION).max(self.matrix())
    }

    /// The upper edge of a row: the originals are row 0.
    fn top(&self, row: i32) -> i32 {
        let originals = TITLE + self.scale.size.1 + CAPTION + ROW_GAP;
        MARGIN + if row == 0 { 0 } else { originals + (row - 1) * (self.row() + ROW_GAP) }
    }

    fn tile_left(&self, index: i32) -> i32 {
        MARGIN + index * (self.scale.size.0 + GAP)
    }
}

fn draw_originals(canvas: &Canvas<'_>, layout: &Layout, images: &Tiles, patch_size: i64) -> Result<()> {
    let top = layout.top(0);
    canvas.text("originals", (MARGIN, top + 12), 28, INK, Align::Left)?;
    let after = MARGIN + canvas.text_width("originals", 28)? + 16;
    let patches = format!("cut into patches of {patch_size} × {patch_size} pixels");
    canvas.text(&patches, (after, top + 14), 19, FAINT, Align::Left)?;
    draw_tiles(canvas, layout, images, top + TITLE, |index| index.to_string())
}

/// The colours of the matrices, and how to read them.
fn draw_legend(canvas: &Canvas<'_>, layout: &Layout, largest: f64) -> Result<()> {
    let (left, top) = (layout.matrices[0], layout.top(0));
    let (width, height) = (layout.matrices[1] + layout.matrix() - left, 18);
    canvas.text("value of the soft label", (left, top + 13), 21, INK, Align::Left)?;
    for x in 0..width {
        canvas.fill((left + x, top + TITLE), (1, height), shade(f64::from(x) / f64::from(width - 1)))?;
    }
    canvas.frame((left, top + TITLE), (width, height), LINE)?;
    for (share, align) in [(0.0, Align::Left), (0.5, Align::Centre), (1.0, Align::Right)] {
        let x = left + (share * f64::from(width)) as i32;
        canvas.text(&decimals(share * largest, 2), (x, top + TITLE + height + 16), 18, INK, align)?;
    }
    let lines = [
        "Rows are mixed images; columns are originals",
        "(mix-to-origin) or mixed images (mix-to-mix).",
        "An empty cell is 0. Every row sums to 1.",
    ];
    for (index, line) in lines.into_iter().enumerate() {
        canvas.text(line, (left, top + TITLE + height + 58 + 26 * index as i32), 19, FAINT, Align::Left)?;
    }
    Ok(())
}

fn draw_row(canvas: &Canvas<'_>, layout: &Layout, row: &Prepared, index: usize, largest: f64) -> Result<()> {
    let top = layout.top(index as i32 + 1);
    let title = if row.groups == 1 { "1 group".to_owned() } else { format!("{} groups", row.groups) };
    canvas.text(&title, (MARGIN, top + 12), 28, INK, Align::Left)?;
    draw_tiles(canvas, layout, &row.mixed, top + TITLE, |image| row.sources(image))?;
    let titles = ["mix-to-origin target", "mix-to-mix target"];
    for ((matrix, left), title) in row.matrices.iter().zip(layout.matrices).zip(titles) {
        canvas.text(title, (left, top + 13), 21, INK, Align::Left)?;
        matrix.draw(canvas, (left, top + TITLE), layout.cell, largest, matrix.side)?;
    }
    Ok(())
}

/// A row of images with a text under each.
fn draw_tiles(
    canvas: &Canvas<'_>,
    layout: &Layout,
    images: &Tiles,
    top: i32,
    caption: impl Fn(usize) -> String,
) -> Result<()> {
    for index in 0..shown(images) {
        let left = layout.tile_left(index);
        images.draw(canvas, index as usize, (left, top), layout.scale)?;
        let below = (left + layout.scale.size.0 / 2, top + layout.scale.size.1 + 16);
        canvas.text(&caption(index as usize), below, 19, FAINT, Align::Centre)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
