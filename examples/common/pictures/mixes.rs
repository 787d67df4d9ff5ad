//! `mix.png`: images, what mixing makes of them, and the soft labels that go with it.

use std::path::Path;

use plotters::style::RGBColor;
use tch::{Device, Kind, Tensor};

use super::Result;
use super::canvas::{Align, Canvas, FAINT, INK, LINE};

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

/// Images as bytes, and their shape.
struct Tiles {
    pixels: Vec<u8>,
    batch: i64,
    height: i32,
    width: i32,
}

impl Tiles {
    fn new(images: &Tensor, name: &str) -> Result<Self> {
        let shape = images.size();
        let &[batch @ 1..=LARGEST_BATCH, 3, height @ 1..=4096, width @ 1..=4096] = shape.as_slice() else {
            return Err(format!(
                "the picture of mixing needs {name} of shape [1..={LARGEST_BATCH}, 3, H, W], found {shape:?}"
            )
            .into());
        };
        if images.kind() != Kind::Uint8 {
            return Err(format!("the picture of mixing needs {name} as bytes, found {:?}", images.kind()).into());
        }
        let flat = images.f_to_device(Device::Cpu)?.f_contiguous()?.f_view([-1])?;
        Ok(Self { pixels: Vec::try_from(flat)?, batch, height: height as i32, width: width as i32 })
    }

    fn pixel(&self, image: usize, x: i32, y: i32) -> RGBColor {
        let plane = (self.height * self.width) as usize;
        let start = image * 3 * plane + (y * self.width + x) as usize;
        RGBColor(self.pixels[start], self.pixels[start + plane], self.pixels[start + 2 * plane])
    }

    /// How many images are drawn.
    fn shown(&self) -> i32 {
        self.batch.min(SHOWN) as i32
    }
}

/// A square matrix of shares.
struct Matrix {
    values: Vec<f64>,
    side: usize,
}

impl Matrix {
    fn new(matrix: &Tensor, batch: i64, name: &str) -> Result<Self> {
        if matrix.size() != [batch, batch] {
            return Err(format!("the {name} target has shape {:?} instead of [{batch}, {batch}]", matrix.size()).into());
        }
        let flat = matrix.f_to_device(Device::Cpu)?.f_to_kind(Kind::Double)?.f_contiguous()?.f_view([-1])?;
        Ok(Self { values: Vec::try_from(flat)?, side: batch as usize })
    }

    fn row(&self, row: usize) -> &[f64] {
        &self.values[row * self.side..(row + 1) * self.side]
    }

    fn largest(&self) -> f64 {
        self.values.iter().copied().fold(0.0, f64::max)
    }
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
        if (mixed.batch, mixed.height, mixed.width) != (images.batch, images.height, images.width) {
            return Err(format!("the mixed images of {} groups differ in shape from the originals", row.groups).into());
        }
        let matrices = [
            Matrix::new(&row.mix_to_origin, images.batch, "mix-to-origin")?,
            Matrix::new(&row.mix_to_mix, images.batch, "mix-to-mix")?,
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
    /// How many pixels of the picture a pixel of an image is wide and high.
    zoom: i32,
    /// Of how many pixels of an image only one is drawn, each way: images beyond the size of a tile.
    step: i32,
    tile: (i32, i32),
    cell: i32,
    side: i32,
    /// The left edges of the two matrices.
    matrices: [i32; 2],
}

impl Layout {
    fn new(images: &Tiles) -> Self {
        let longest = images.height.max(images.width);
        let (zoom, step) = ((TILE / longest).max(1), (longest + 2 * TILE - 1) / (2 * TILE));
        let tile = (images.width / step * zoom, images.height / step * zoom);
        let side = images.batch as i32;
        let cell = MATRIX / side;
        let first = MARGIN + images.shown() * (tile.0 + GAP) - GAP + COLUMN_GAP;
        Self { zoom, step, tile, cell, side, matrices: [first, first + MATRIX.max(side * cell) + COLUMN_GAP] }
    }

    fn matrix(&self) -> i32 {
        self.cell * self.side
    }

    /// The height of a row of mixed images.
    fn row(&self) -> i32 {
        TITLE + (self.tile.1 + CAPTION).max(self.matrix())
    }

    /// The upper edge of a row: the originals are row 0.
    fn top(&self, row: i32) -> i32 {
        let originals = TITLE + self.tile.1 + CAPTION + ROW_GAP;
        MARGIN + if row == 0 { 0 } else { originals + (row - 1) * (self.row() + ROW_GAP) }
    }

    fn tile_left(&self, index: i32) -> i32 {
        MARGIN + index * (self.tile.0 + GAP)
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
        canvas.text(&decimals(share * largest), (x, top + TITLE + height + 16), 18, INK, align)?;
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
        draw_matrix(canvas, layout, matrix, (left, top + TITLE), largest)?;
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
    let zoom = layout.zoom;
    for index in 0..images.shown() {
        let left = layout.tile_left(index);
        for y in 0..images.height / layout.step {
            for x in 0..images.width / layout.step {
                let color = images.pixel(index as usize, x * layout.step, y * layout.step);
                canvas.fill((left + x * zoom, top + y * zoom), (zoom, zoom), color)?;
            }
        }
        let below = (left + layout.tile.0 / 2, top + layout.tile.1 + 16);
        canvas.text(&caption(index as usize), below, 19, FAINT, Align::Centre)?;
    }
    Ok(())
}

fn draw_matrix(
    canvas: &Canvas<'_>,
    layout: &Layout,
    matrix: &Matrix,
    (left, top): (i32, i32),
    largest: f64,
) -> Result<()> {
    let cell = layout.cell;
    for row in 0..matrix.side {
        for (column, &value) in matrix.row(row).iter().enumerate() {
            let (x, y) = (left + column as i32 * cell, top + row as i32 * cell);
            let share = value / largest;
            canvas.fill((x, y), (cell, cell), shade(share))?;
            // Numbers only where there is room for them; in small cells the colour has to do.
            if cell >= 24 {
                canvas.frame((x, y), (cell - 1, cell - 1), LINE)?;
                let ink = if share > 0.5 { RGBColor(255, 255, 255) } else { INK };
                if value > 0.0 {
                    canvas.text(&decimals(value), (x + cell / 2, y + cell / 2), 15, ink, Align::Centre)?;
                }
            }
        }
    }
    canvas.frame((left, top), (layout.matrix(), layout.matrix()), LINE)
}

/// A share with two decimals and no idle zeros: `0.5`, `0.25`, `0.06`, `1`.
fn decimals(value: f64) -> String {
    let text = format!("{value:.2}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// From white at 0 to a dark blue at 1; it grows darker all the way, so that it can be read without its hue.
fn shade(share: f64) -> RGBColor {
    let share = if share.is_finite() { share.clamp(0.0, 1.0) } else { 0.0 };
    let mix = |from: f64, to: f64| (from + (to - from) * share).round() as u8;
    RGBColor(mix(255.0, 8.0), mix(255.0, 69.0), mix(255.0, 148.0))
}

#[cfg(test)]
mod tests;
