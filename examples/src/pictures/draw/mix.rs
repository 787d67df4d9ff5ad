//! `mix.png`: images, their mixes, and the soft labels of the mixes.

use std::path::Path;

use tch::Tensor;

use super::canvas::{Align, Canvas};
use super::color::{FAINT, INK};
use super::decimals;
use super::matrix::Matrix;
use super::tiles::{Scale, Tiles};
use crate::Result;

/// One way to mix, for [`mix_picture`].
pub(crate) struct MixRow {
    /// Number of images in each mixed image.
    pub(crate) groups: i64,
    /// The mixed images, `[B, 3, H, W]` of bytes.
    pub(crate) mixed: Tensor,
    /// The share of each original in each mixed image, `[B, B]`.
    pub(crate) mix_to_origin: Tensor,
    /// The overlap of each pair of mixed images, `[B, B]`.
    pub(crate) mix_to_mix: Tensor,
}

/// Number of images shown from a batch.
const SHOWN: i64 = 8;
/// The largest batch whose targets fit: a cell is then four pixels wide.
const MAX_BATCH: i64 = 52;

const MARGIN: i32 = 24;
/// Between two images.
const GAP: i32 = 6;
/// Between the images and the first matrix, and between the matrices.
const COLUMN_GAP: i32 = 32;
/// Largest side of a matrix.
const MATRIX: i32 = 232;
/// Approximate side of an enlarged image.
const TILE: i32 = 160;
/// Heights of the title above a row and of the captions below its images.
const TITLE: i32 = 38;
const CAPTION: i32 = 30;
/// Between two rows.
const ROW_GAP: i32 = 24;

/// Draws the first images of a batch `[B, 3, H, W]` of bytes and, below them, a row for each way to mix: the mixed
/// images with the numbers of their sources, and both target matrices.
pub(crate) fn mix_picture(path: &Path, images: &Tensor, patch_size: i64, rows: &[MixRow]) -> Result<()> {
    let batch = Tiles::new(images, "images")?;
    if batch.count > MAX_BATCH {
        return Err(format!("the picture of mixing shows at most {MAX_BATCH} images, found {}", batch.count).into());
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

/// Number of images drawn from a batch.
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

    /// The numbers of the originals in a mixed image: `0 + 1`, or `0 … 7` for many in a row.
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

/// Positions and sizes of everything in the picture.
struct Layout {
    scale: Scale,
    cell: i32,
    side: i32,
    /// Left edges of the two matrices.
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

    /// Side of a matrix.
    fn matrix(&self) -> i32 {
        self.cell * self.side
    }

    /// Height of a row of mixed images.
    fn row(&self) -> i32 {
        TITLE + (self.scale.size.1 + CAPTION).max(self.matrix())
    }

    /// Upper edge of a row; row 0 holds the originals.
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

/// The colors of the matrices, and how to read them.
fn draw_legend(canvas: &Canvas<'_>, layout: &Layout, largest: f64) -> Result<()> {
    let (left, top) = (layout.matrices[0], layout.top(0));
    let (width, height) = (layout.matrices[1] + layout.matrix() - left, 18);
    canvas.text("value of the soft label", (left, top + 13), 21, INK, Align::Left)?;
    canvas.scale((left, top + TITLE), (width, height))?;
    for (share, align) in [(0.0, Align::Left), (0.5, Align::Center), (1.0, Align::Right)] {
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

/// A row of images, each with a caption.
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
        canvas.text(&caption(index as usize), below, 19, FAINT, Align::Center)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use tch::{Device, Kind};

    use super::*;

    /// One way to mix these images: like PatchMix, but unshuffled, so that groups are columns of patches.
    fn row(images: &Tensor, groups: i64) -> MixRow {
        let batch = images.size()[0];
        let width = images.size()[3];
        let mixed = Tensor::zeros_like(images);
        let mut origin = Tensor::zeros([batch, batch], (Kind::Float, Device::Cpu));
        for group in 0..groups {
            let part = |images: &Tensor| images.narrow(3, group * width / groups, width / groups);
            part(&mixed).copy_(&part(&images.roll([-group], [0])));
            origin += Tensor::eye(batch, (Kind::Float, Device::Cpu)).roll([group], [1]) / groups as f64;
        }
        let mix_to_mix = origin.matmul(&origin.tr());
        MixRow { groups, mixed, mix_to_origin: origin, mix_to_mix }
    }

    fn images(batch: i64, height: i64, width: i64) -> Tensor {
        let values = Tensor::arange(batch * 3 * height * width, (Kind::Int64, Device::Cpu));
        (values * 37).remainder(251).to_kind(Kind::Uint8).view([batch, 3, height, width])
    }

    fn draw(images: &Tensor, groups: &[i64]) -> image::RgbImage {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("mix.png");
        let rows: Vec<MixRow> = groups.iter().map(|&groups| row(images, groups)).collect();
        mix_picture(&path, images, 4, &rows).unwrap();
        image::open(path).unwrap().into_rgb8()
    }

    #[test]
    fn each_way_to_mix_gets_a_row() {
        let images = images(8, 32, 32);
        let (three, one) = (draw(&images, &[2, 4, 8]), draw(&images, &[2]));
        assert_eq!(three.dimensions(), (1898, 1158));
        assert_eq!(one.width(), three.width());
        assert!(one.height() < three.height());
        assert_ne!(draw(&images, &[2]), draw(&images, &[4]));
        assert_ne!(draw(&images, &[2]), draw(&(&images + 1), &[2]));
    }

    #[test]
    fn enlarged_pixels_stay_sharp() {
        let images = images(8, 32, 32);
        let picture = draw(&images, &[2]);
        let byte = |channel| images.int64_value(&[3, channel, 5, 7]) as u8;
        let (left, top) = (MARGIN + 3 * (160 + GAP) + 7 * 5, MARGIN + TITLE + 5 * 5);
        for (x, y) in [(0, 0), (4, 0), (0, 4), (4, 4)] {
            let pixel = picture.get_pixel((left + x) as u32, (top + y) as u32);
            assert_eq!(pixel.0, [byte(0), byte(1), byte(2)]);
        }
    }

    #[test]
    fn other_sizes_fit() {
        for (batch, height, width) in [(1, 32, 32), (3, 8, 16), (20, 32, 32), (52, 8, 8), (8, 224, 224), (8, 700, 600)]
        {
            let picture = draw(&images(batch, height, width), &[1]);
            assert!(picture.width() < 2800 && picture.height() < 1400, "{:?}", picture.dimensions());
        }
    }

    #[test]
    fn wrong_shapes_are_named() {
        let images = images(8, 32, 32);
        let path = Path::new("never-written.png");
        let error = mix_picture(path, &images.narrow(1, 0, 2), 4, &[]).unwrap_err().to_string();
        assert!(error.contains("[8, 2, 32, 32]"), "{error}");
        let bad = MixRow { mix_to_mix: Tensor::zeros([8, 7], (Kind::Float, Device::Cpu)), ..row(&images, 2) };
        let error = mix_picture(path, &images, 4, &[bad]).unwrap_err().to_string();
        assert!(error.contains("mix-to-mix") && error.contains("[8, 7]"), "{error}");
    }
}
