//! Test images, each with the training images most similar to it, as in the paper's figures.

use std::path::{Path, PathBuf};

use clap::Args;
use patchmix::data::Dataset;
use patchmix::eval::{Neighbors, nearest};
use plotters::style::RGBColor;
use tch::{Device, Kind};

use super::draw::canvas::{Align, Canvas};
use super::draw::color::{FAINT, GREEN, INK, RED};
use super::draw::tiles::Tiles;
use super::subject::{FeatureOptions, label_list};
use crate::Result;
use crate::terminal::say;

/// Options of `similar`.
#[derive(Debug, Args)]
pub(super) struct Options {
    #[command(flatten)]
    subject: FeatureOptions,
    /// File to write the picture to (PNG)
    #[arg(long, value_name = "FILE", default_value = "similar.png")]
    out: PathBuf,
    /// Test images to show, taken from one class after the other
    #[arg(long, value_name = "N", default_value_t = 10)]
    images: i64,
    /// Training images to show for each
    #[arg(long, value_name = "K", default_value_t = 8, value_parser = clap::value_parser!(i64).range(1..=50))]
    neighbors: i64,
    /// Seed for the choice of test images
    #[arg(long, default_value_t = 0)]
    seed: u64,
}

/// A test image and its neighbors.
struct Row {
    class: String,
    neighbors: Vec<Neighbor>,
}

/// A training image similar to a test image.
#[derive(Debug, PartialEq)]
struct Neighbor {
    class: String,
    similarity: f64,
    /// Whether it has the class of the test image.
    agrees: bool,
}

/// Approximate side of an enlarged image.
const TILE: i32 = 96;
/// From one image to the next, and the extra space after the test image.
const PITCH: i32 = TILE + 56;
const AFTER_TEST: i32 = 36;
const HEADER: i32 = 100;
const ROW: i32 = TILE + 56;
const MARGIN: i32 = 24;
/// Width of the colored border around a neighbor.
const BORDER: i32 = 4;

/// Draws the picture and writes it.
pub(super) fn similar(options: &Options) -> Result<()> {
    let subject = options.subject.open()?;
    let (test, train) = (subject.sample(options.images, options.seed)?, subject.train()?);
    let found = nearest(&subject.features(&test)?, &subject.features(&train)?, options.neighbors)?;
    let rows = rows(&test, &train, &found)?;
    let shown = train.images.f_index_select(0, &found.positions.f_flatten(0, 1)?)?;
    let tiles = [Tiles::new(&test.images, "test images")?, Tiles::new(&shown, "training images")?];
    picture(&options.out, &rows, &tiles)?;
    let (count, agree) = agreement(&rows);
    if train.len() < options.neighbors {
        say!("note: --neighbors {}: there are only {} training images", options.neighbors, train.len());
    }
    say!("written  {}: {agree} of {count} neighbors have the class of their test image", options.out.display());
    Ok(())
}

/// Classes and similarities of the test images and their neighbors.
fn rows(test: &Dataset, train: &Dataset, found: &Neighbors) -> Result<Vec<Row>> {
    let labels = label_list(&train.labels.f_index_select(0, &found.positions.f_flatten(0, 1)?)?)?;
    let similarities = found.similarities.f_to_device(Device::Cpu)?.f_to_kind(Kind::Double)?.f_flatten(0, 1)?;
    let similarities = Vec::<f64>::try_from(similarities)?;
    let k = found.positions.size()[1] as usize;
    let rows = labels.chunks(k).zip(similarities.chunks(k));
    let rows = label_list(&test.labels)?.into_iter().zip(rows).map(|(own, (labels, similarities))| Row {
        class: test.class_names[own].clone(),
        neighbors: labels
            .iter()
            .zip(similarities)
            .map(|(&label, &similarity)| Neighbor {
                class: train.class_names[label].clone(),
                similarity,
                agrees: label == own,
            })
            .collect(),
    });
    Ok(rows.collect())
}

/// The number of neighbors, and of those with the class of their test image.
fn agreement(rows: &[Row]) -> (usize, usize) {
    let all = || rows.iter().flat_map(|row| &row.neighbors);
    (all().count(), all().filter(|neighbor| neighbor.agrees).count())
}

fn picture(path: &Path, rows: &[Row], [test, train]: &[Tiles; 2]) -> Result<()> {
    let k = rows.first().map_or(0, |row| row.neighbors.len());
    let first = MARGIN + PITCH + AFTER_TEST;
    // The header needs the width of six neighbors.
    let size = (first + (k as i32).max(6) * PITCH + MARGIN - 30, HEADER + rows.len() as i32 * ROW);
    Canvas::write(path, size, |canvas| {
        draw_header(canvas, first, agreement(rows))?;
        for (index, row) in rows.iter().enumerate() {
            let top = HEADER + index as i32 * ROW;
            let below = top + TILE + 17;
            draw_image(canvas, test, index, (MARGIN, top), None)?;
            canvas.name(&row.class, (MARGIN, below), PITCH + AFTER_TEST - 12, 19)?;
            for (column, neighbor) in row.neighbors.iter().enumerate() {
                let left = first + column as i32 * PITCH;
                let color = if neighbor.agrees { GREEN } else { RED };
                draw_image(canvas, train, index * k + column, (left, top), Some(color))?;
                let similarity = format!("{:.3}", neighbor.similarity);
                canvas.text(&similarity, (left, below), 17, FAINT, Align::Left)?;
                let after = canvas.text_width(&similarity, 17)? + 7;
                canvas.name(&neighbor.class, (left + after, below), PITCH - 14 - after, 17)?;
            }
        }
        Ok(())
    })
}

fn draw_header(canvas: &Canvas<'_>, left: i32, (count, agree): (usize, usize)) -> Result<()> {
    canvas.text("test image", (MARGIN, 32), 24, INK, Align::Left)?;
    canvas.text("most similar training images", (left, 32), 24, INK, Align::Left)?;
    canvas.text("cosine similarity, class", (left, 64), 19, FAINT, Align::Left)?;
    let keys = [(2, GREEN, format!("same class: {agree} of {count}")), (4, RED, "different class".to_owned())];
    for (column, color, text) in keys {
        let x = left + column * PITCH;
        canvas.fill((x, 57), (14, 14), color)?;
        canvas.text(&text, (x + 22, 64), 19, FAINT, Align::Left)?;
    }
    Ok(())
}

/// An image in the middle of its square, with a border of some color or none.
fn draw_image(
    canvas: &Canvas<'_>,
    tiles: &Tiles,
    index: usize,
    (left, top): (i32, i32),
    border: Option<RGBColor>,
) -> Result<()> {
    let scale = tiles.scale(TILE);
    let (width, height) = scale.size;
    let (left, top) = (left + (TILE - width) / 2, top + (TILE - height) / 2);
    if let Some(color) = border {
        canvas.fill((left - BORDER, top - BORDER), (width + 2 * BORDER, height + 2 * BORDER), color)?;
    }
    tiles.draw(canvas, index, (left, top), scale)
}

#[cfg(test)]
mod tests {
    use patchmix::data::procedural;
    use tch::Tensor;

    use super::*;

    #[test]
    fn rows_name_the_neighbors_and_their_classes() {
        let (test, train) = (procedural(2, 8, 1).unwrap(), procedural(12, 8, 2).unwrap());
        let found = Neighbors {
            positions: Tensor::from_slice2(&[[10_i64, 3], [0, 11]]),
            similarities: Tensor::from_slice2(&[[0.75_f32, 0.5], [0.25, -1.0]]),
        };
        let rows = rows(&test, &train, &found).unwrap();
        let neighbor =
            |class: usize, similarity, agrees| Neighbor { class: train.class_names[class].clone(), similarity, agrees };
        assert_eq!(rows[0].neighbors, [neighbor(0, 0.75, true), neighbor(3, 0.5, false)]);
        assert_eq!(rows[1].neighbors, [neighbor(0, 0.25, false), neighbor(1, -1.0, true)]);
        assert_eq!((rows[1].class.as_str(), agreement(&rows)), (train.class_names[1].as_str(), (4, 2)));
    }
}
