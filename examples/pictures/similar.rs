//! Test images and the training images that an encoder finds most similar, as in the paper's figures.

use std::path::PathBuf;

use clap::Args;
use patchmix::data::{Dataset, Split};
use patchmix::eval::{Neighbours, nearest};
use plotters::style::RGBColor;
use tch::{Device, Kind, Tensor};

use crate::Result;
use crate::pictures::canvas::{Align, Canvas, FAINT, GREEN, INK, RED};
use crate::pictures::tiles::Tiles;
use crate::pooling::PoolingName;
use crate::source::{EncoderOptions, draw};

/// Options of `similar`.
#[derive(Debug, Args)]
pub(crate) struct Options {
    #[command(flatten)]
    encoder: EncoderOptions,
    /// How features are read [default: as the checkpoint says, which for a run is class-token]
    #[arg(long, value_enum)]
    pooling: Option<PoolingName>,
    /// The picture
    #[arg(long, value_name = "FILE", default_value = "similar.png")]
    out: PathBuf,
    /// Test images to show, from one class after the other
    #[arg(long, value_name = "N", default_value_t = 10)]
    queries: i64,
    /// Training images to show for each
    #[arg(long, value_name = "K", default_value_t = 8, value_parser = clap::value_parser!(i64).range(1..=50))]
    neighbours: i64,
    /// Decides which test images
    #[arg(long, default_value_t = 0)]
    seed: u64,
}

/// A test image, and what was found for it.
struct Row {
    class: String,
    found: Vec<Found>,
}

/// A training image that was found.
#[derive(Debug, PartialEq)]
struct Found {
    class: String,
    similarity: f64,
    agrees: bool,
}

/// The side that images are enlarged to, about.
const TILE: i32 = 96;
/// From one image to the next, and between the test image and what was found.
const PITCH: i32 = TILE + 56;
const AFTER_QUERY: i32 = 36;
const HEADER: i32 = 100;
const ROW: i32 = TILE + 56;
const MARGIN: i32 = 24;
/// The colour around an image.
const BORDER: i32 = 4;

pub(crate) fn similar(options: &Options) -> Result<()> {
    let source = options.encoder.open()?;
    let (train, test) = (source.images(Split::Train)?, source.images(Split::Test)?);
    let (images, labels) = test.select(&draw(&test, options.queries, options.seed)?)?;
    let queries = Dataset { images, labels, class_names: test.class_names };
    let query_features = source.features(&queries, options.pooling)?;
    let found = nearest(&query_features, &source.features(&train, options.pooling)?, options.neighbours)?;
    let rows = rows(&queries, &train, &found)?;
    let shown = train.images.f_index_select(0, &found.positions.f_flatten(0, 1)?)?;
    let (count, agree) = agreement(&rows);
    picture(&rows, &Tiles::new(&queries.images, "test images")?, &Tiles::new(&shown, "training images")?, options)?;
    println!("written  {}: {agree} of {count} neighbours have the class of their test image", options.out.display());
    Ok(())
}

/// What was found for every test image.
fn rows(queries: &Dataset, train: &Dataset, found: &Neighbours) -> Result<Vec<Row>> {
    let list = |labels: &Tensor| Vec::<i64>::try_from(labels.f_to_device(Device::Cpu)?.f_flatten(0, -1)?);
    let found_labels = list(&train.labels.f_index_select(0, &found.positions.f_flatten(0, 1)?)?)?;
    let similarities = found.similarities.f_to_device(Device::Cpu)?.f_to_kind(Kind::Double)?.f_flatten(0, 1)?;
    let similarities = Vec::<f64>::try_from(similarities)?;
    let k = found.positions.size()[1] as usize;
    let of_query = found_labels.chunks(k).zip(similarities.chunks(k));
    let rows = list(&queries.labels)?.into_iter().zip(of_query).map(|(label, (labels, similarities))| Row {
        class: queries.class_names[label as usize].clone(),
        found: labels
            .iter()
            .zip(similarities)
            .map(|(other, similarity)| Found {
                class: train.class_names[*other as usize].clone(),
                similarity: *similarity,
                agrees: *other == label,
            })
            .collect(),
    });
    Ok(rows.collect())
}

/// How many images were found, and how many of them are of the class that was looked for.
fn agreement(rows: &[Row]) -> (usize, usize) {
    let found = || rows.iter().flat_map(|row| &row.found);
    (found().count(), found().filter(|found| found.agrees).count())
}

fn picture(rows: &[Row], queries: &Tiles, found: &Tiles, options: &Options) -> Result<()> {
    let k = rows.first().map_or(0, |row| row.found.len());
    let first = MARGIN + PITCH + AFTER_QUERY;
    let size = ((first + k as i32 * PITCH).max(first + 6 * PITCH) + MARGIN - 30, HEADER + rows.len() as i32 * ROW);
    let (count, agree) = agreement(rows);
    Canvas::write(&options.out, size, |canvas| {
        canvas.text("test image", (MARGIN, 32), 24, INK, Align::Left)?;
        canvas.text("the most similar training images", (first, 32), 24, INK, Align::Left)?;
        canvas.text("cosine similarity, class", (first, 64), 19, FAINT, Align::Left)?;
        draw_key(canvas, (first + 2 * PITCH, 64), GREEN, &format!("same class: {agree} of {count}"))?;
        draw_key(canvas, (first + 4 * PITCH, 64), RED, "another class")?;
        for (index, row) in rows.iter().enumerate() {
            let top = HEADER + index as i32 * ROW;
            draw_image(canvas, queries, index, (MARGIN, top), None)?;
            draw_name(canvas, &row.class, (MARGIN, top + TILE + 17))?;
            for (place, other) in row.found.iter().enumerate() {
                let left = first + place as i32 * PITCH;
                draw_image(canvas, found, index * k + place, (left, top), Some(other.agrees))?;
                let similarity = format!("{:.3}", other.similarity);
                let after = canvas.text_width(&similarity, 17)? + 7;
                canvas.text(&similarity, (left, top + TILE + 17), 17, FAINT, Align::Left)?;
                let class = canvas.shortened(&other.class.replace('_', " "), PITCH - 14 - after, 17)?;
                canvas.text(&class, (left + after, top + TILE + 17), 17, INK, Align::Left)?;
            }
        }
        Ok(())
    })
}

/// An image in the middle of its square, framed where it was found.
fn draw_image(
    canvas: &Canvas<'_>,
    tiles: &Tiles,
    index: usize,
    (left, top): (i32, i32),
    agrees: Option<bool>,
) -> Result<()> {
    let scale = tiles.scale(TILE);
    let (width, height) = scale.size;
    let place = (left + (TILE - width) / 2, top + (TILE - height) / 2);
    if let Some(agrees) = agrees {
        let (corner, size) = ((place.0 - BORDER, place.1 - BORDER), (width + 2 * BORDER, height + 2 * BORDER));
        canvas.fill(corner, size, if agrees { GREEN } else { RED })?;
    }
    tiles.draw(canvas, index, place, scale)
}

/// What a colour stands for.
fn draw_key(canvas: &Canvas<'_>, (x, y): (i32, i32), color: RGBColor, text: &str) -> Result<()> {
    canvas.fill((x, y - 7), (14, 14), color)?;
    canvas.text(text, (x + 22, y), 19, FAINT, Align::Left)
}

fn draw_name(canvas: &Canvas<'_>, class: &str, place: (i32, i32)) -> Result<()> {
    canvas.text(&canvas.shortened(&class.replace('_', " "), PITCH + AFTER_QUERY - 12, 19)?, place, 19, INK, Align::Left)
}

#[cfg(test)]
mod tests {
    use patchmix::data::procedural;

    use super::*;

    #[test]
    fn rows_say_what_was_found() {
        let (queries, train) = (procedural(2, 8, 1).unwrap(), procedural(12, 8, 2).unwrap());
        let found = Neighbours {
            positions: Tensor::from_slice2(&[[10_i64, 3], [0, 11]]),
            similarities: Tensor::from_slice2(&[[0.75_f32, 0.5], [0.25, -1.0]]),
        };
        let rows = rows(&queries, &train, &found).unwrap();
        let found =
            |class: usize, similarity, agrees| Found { class: train.class_names[class].clone(), similarity, agrees };
        assert_eq!(rows[0].found, [found(0, 0.75, true), found(3, 0.5, false)]);
        assert_eq!(rows[1].found, [found(0, 0.25, false), found(1, -1.0, true)]);
        assert_eq!((rows[1].class.as_str(), agreement(&rows)), (train.class_names[1].as_str(), (4, 2)));
    }
}
