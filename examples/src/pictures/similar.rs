//! Images, each with others most similar to it, as in the paper's figures: test images with training images, or images
//! without classes with each other.

use std::path::{Path, PathBuf};

use clap::Args;
use patchmix::data::{Dataset, epoch_order};
use patchmix::eval::{Neighbors, nearest};
use plotters::style::RGBColor;
use tch::{Device, Kind, Tensor};

use super::draw::canvas::{Align, Canvas};
use super::draw::color::{FAINT, GREEN, INK, RED};
use super::draw::tiles::Tiles;
use super::subject::{FeatureOptions, Subject, check_count, label_list};
use crate::Result;
use crate::terminal::{say, shown as shown_path};

/// Options of `similar`.
#[derive(Debug, Args)]
pub(super) struct Options {
    #[command(flatten)]
    subject: FeatureOptions,
    /// File to write the picture to (PNG)
    #[arg(long, value_name = "FILE", default_value = "similar.png")]
    out: PathBuf,
    /// Test images to show, taken from one class after the other; any of images without classes
    #[arg(long, value_name = "N", default_value_t = 10)]
    images: i64,
    /// Training images to show for each, or other images without classes
    #[arg(long, value_name = "K", default_value_t = 8, value_parser = clap::value_parser!(i64).range(1..=50))]
    neighbors: i64,
    /// Seed for the choice of images
    #[arg(long, default_value_t = 0)]
    seed: u64,
}

/// An image and its neighbors.
struct Row {
    /// Of labeled images.
    class: Option<String>,
    neighbors: Vec<Neighbor>,
}

/// An image similar to that of a row.
#[derive(Debug, PartialEq)]
struct Neighbor {
    similarity: f64,
    /// The class of a labeled image, and whether it is that of the row.
    class: Option<(String, bool)>,
}

/// Approximate side of an enlarged image.
const TILE: i32 = 96;
/// From one image to the next, and the extra space after the first image.
const PITCH: i32 = TILE + 56;
const AFTER_FIRST: i32 = 36;
const HEADER: i32 = 100;
const ROW: i32 = TILE + 56;
const MARGIN: i32 = 24;
/// Width of the colored border around a neighbor.
const BORDER: i32 = 4;

/// Draws the picture and writes it.
pub(super) fn similar(options: &Options) -> Result<()> {
    let subject = options.subject.open_any()?;
    if !subject.has_classes() {
        return similar_among(options, &subject);
    }
    let (test, train) = (subject.sample(options.images, options.seed)?, subject.train()?);
    let found = nearest(&subject.features(&test.images)?, &subject.features(&train.images)?, options.neighbors)?;
    let rows = rows(&test, &train, &found)?;
    let shown = train.images.f_index_select(0, &found.positions.f_flatten(0, 1)?)?;
    let tiles = [Tiles::new(&test.images, "test images")?, Tiles::new(&shown, "training images")?];
    picture(&options.out, &rows, &tiles)?;
    let (count, agree) = agreement(&rows);
    if train.len() < options.neighbors {
        say!("note: --neighbors {}: there are only {} training images", options.neighbors, train.len());
    }
    say!("written  {}: {agree} of {count} neighbors have the class of their test image", shown_path(&options.out));
    Ok(())
}

/// Draws images without classes, each with the others most similar to it.
fn similar_among(options: &Options, subject: &Subject) -> Result<()> {
    let images = subject.unlabeled()?;
    let count = images.size()[0];
    check_count(options.images, count)?;
    if count < 2 {
        return Err("there is no other image to be similar; name a folder with more images by --data".into());
    }
    let mut chosen = epoch_order(count, options.seed, 0)?;
    chosen.truncate(options.images as usize);
    let features = subject.features(&images)?;
    let select = |all: &Tensor, positions: &[i64]| -> Result<Tensor> {
        Ok(all.f_index_select(0, &Tensor::f_from_slice(positions)?.f_to_device(all.device())?)?)
    };
    // One more, as each image is most similar to itself.
    let found = nearest(&select(&features, &chosen)?, &features, options.neighbors + 1)?;
    let (rows, positions) = others(&chosen, &found)?;
    let tiles =
        [Tiles::new(&select(&images, &chosen)?, "images")?, Tiles::new(&select(&images, &positions)?, "images")?];
    picture(&options.out, &rows, &tiles)?;
    if count <= options.neighbors {
        say!("note: --neighbors {}: there are only {} other images", options.neighbors, count - 1);
    }
    let out = shown_path(&options.out);
    say!("written  {out}: {} of {count} images, each with the most similar of the others", chosen.len());
    Ok(())
}

/// What was found for the chosen images without these themselves, and the positions of the neighbors one after the
/// other.
fn others(chosen: &[i64], found: &Neighbors) -> Result<(Vec<Row>, Vec<i64>)> {
    let k = found.positions.size()[1] as usize;
    let positions = Vec::<i64>::try_from(found.positions.f_to_device(Device::Cpu)?.f_flatten(0, 1)?)?;
    let (mut rows, mut shown) = (Vec::new(), Vec::new());
    for ((own, positions), similarities) in chosen.iter().zip(positions.chunks(k)).zip(similarities(found)?.chunks(k)) {
        // Images with the same features may have left it no place.
        let itself = positions.iter().position(|position| position == own).unwrap_or(k - 1);
        let others = (0..k).filter(|&place| place != itself);
        shown.extend(others.clone().map(|place| positions[place]));
        let neighbors = others.map(|place| Neighbor { similarity: similarities[place], class: None });
        rows.push(Row { class: None, neighbors: neighbors.collect() });
    }
    Ok((rows, shown))
}

/// All similarities, one row after the other.
fn similarities(found: &Neighbors) -> Result<Vec<f64>> {
    let similarities = found.similarities.f_to_device(Device::Cpu)?.f_to_kind(Kind::Double)?.f_flatten(0, 1)?;
    Ok(Vec::try_from(similarities)?)
}

/// Classes and similarities of the test images and their neighbors.
fn rows(test: &Dataset, train: &Dataset, found: &Neighbors) -> Result<Vec<Row>> {
    let labels = label_list(&train.labels.f_index_select(0, &found.positions.f_flatten(0, 1)?)?)?;
    let similarities = similarities(found)?;
    let k = found.positions.size()[1] as usize;
    let rows = labels.chunks(k).zip(similarities.chunks(k));
    let rows = label_list(&test.labels)?.into_iter().zip(rows).map(|(own, (labels, similarities))| Row {
        class: Some(test.class_names[own].clone()),
        neighbors: labels
            .iter()
            .zip(similarities)
            .map(|(&label, &similarity)| Neighbor {
                similarity,
                class: Some((train.class_names[label].clone(), label == own)),
            })
            .collect(),
    });
    Ok(rows.collect())
}

/// The number of neighbors, and of those with the class of their test image.
fn agreement(rows: &[Row]) -> (usize, usize) {
    let all = || rows.iter().flat_map(|row| &row.neighbors);
    (all().count(), all().filter(|neighbor| matches!(neighbor.class, Some((_, true)))).count())
}

fn picture(path: &Path, rows: &[Row], [firsts, others]: &[Tiles; 2]) -> Result<()> {
    let k = rows.first().map_or(0, |row| row.neighbors.len());
    let first = MARGIN + PITCH + AFTER_FIRST;
    // The header needs the width of six neighbors.
    let size = (first + (k as i32).max(6) * PITCH + MARGIN - 30, HEADER + rows.len() as i32 * ROW);
    Canvas::write(path, size, |canvas| {
        draw_header(canvas, first, rows)?;
        for (index, row) in rows.iter().enumerate() {
            let top = HEADER + index as i32 * ROW;
            let below = top + TILE + 17;
            draw_image(canvas, firsts, index, (MARGIN, top), None)?;
            if let Some(class) = &row.class {
                canvas.name(class, (MARGIN, below), PITCH + AFTER_FIRST - 12, 19)?;
            }
            for (column, neighbor) in row.neighbors.iter().enumerate() {
                let left = first + column as i32 * PITCH;
                let color = neighbor.class.as_ref().map(|(_, agrees)| if *agrees { GREEN } else { RED });
                draw_image(canvas, others, index * k + column, (left, top), color)?;
                let similarity = format!("{:.3}", neighbor.similarity);
                canvas.text(&similarity, (left, below), 17, FAINT, Align::Left)?;
                let after = canvas.text_width(&similarity, 17)? + 7;
                if let Some((class, _)) = &neighbor.class {
                    canvas.name(class, (left + after, below), PITCH - 14 - after, 17)?;
                }
            }
        }
        Ok(())
    })
}

fn draw_header(canvas: &Canvas<'_>, left: i32, rows: &[Row]) -> Result<()> {
    if rows.iter().all(|row| row.class.is_none()) {
        canvas.text("image", (MARGIN, 32), 24, INK, Align::Left)?;
        canvas.text("most similar other images", (left, 32), 24, INK, Align::Left)?;
        canvas.text("cosine similarity", (left, 64), 19, FAINT, Align::Left)?;
        return Ok(());
    }
    canvas.text("test image", (MARGIN, 32), 24, INK, Align::Left)?;
    canvas.text("most similar training images", (left, 32), 24, INK, Align::Left)?;
    canvas.text("cosine similarity, class", (left, 64), 19, FAINT, Align::Left)?;
    let (count, agree) = agreement(rows);
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

    use super::*;

    #[test]
    fn rows_name_the_neighbors_and_their_classes() {
        let (test, train) = (procedural(2, 8, 1).unwrap(), procedural(12, 8, 2).unwrap());
        let found = Neighbors {
            positions: Tensor::from_slice2(&[[10_i64, 3], [0, 11]]),
            similarities: Tensor::from_slice2(&[[0.75_f32, 0.5], [0.25, -1.0]]),
        };
        let rows = rows(&test, &train, &found).unwrap();
        let neighbor = |class: usize, similarity, agrees| Neighbor {
            similarity,
            class: Some((train.class_names[class].clone(), agrees)),
        };
        assert_eq!(rows[0].neighbors, [neighbor(0, 0.75, true), neighbor(3, 0.5, false)]);
        assert_eq!(rows[1].neighbors, [neighbor(0, 0.25, false), neighbor(1, -1.0, true)]);
        assert_eq!((rows[1].class.as_ref(), agreement(&rows)), (Some(&train.class_names[1]), (4, 2)));
    }

    #[test]
    fn an_image_is_not_its_own_neighbor() {
        let found = Neighbors {
            positions: Tensor::from_slice2(&[[5_i64, 7, 2], [3, 9, 1], [8, 6, 4]]),
            similarities: Tensor::from_slice2(&[[1.0_f32, 0.75, 0.5], [1.0, 1.0, 0.25], [1.0, 1.0, 1.0]]),
        };
        // The second has a copy before it; the third has so many that it was not found itself.
        let (rows, positions) = others(&[5, 9, 0], &found).unwrap();
        assert_eq!(positions, [7, 2, 3, 1, 8, 6]);
        let found: Vec<Vec<f64>> =
            rows.iter().map(|row| row.neighbors.iter().map(|neighbor| neighbor.similarity).collect()).collect();
        assert_eq!(found, [[0.75, 0.5], [1.0, 0.25], [1.0, 1.0]]);
        assert!(rows.iter().all(|row| row.class.is_none()));
    }
}
