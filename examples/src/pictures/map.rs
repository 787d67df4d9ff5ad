//! A map of test images: their features along the first two principal components.

use std::path::{Path, PathBuf};

use clap::Args;
use patchmix::eval::principal_components;
use plotters::style::RGBColor;
use tch::{Device, Tensor};

use super::draw::canvas::{Align, Canvas};
use super::draw::color::{FAINT, INK, LINE};
use super::subject::{FeatureOptions, label_list};
use crate::Result;
use crate::terminal::say;

/// Options of `map`.
#[derive(Debug, Args)]
pub(super) struct Options {
    #[command(flatten)]
    subject: FeatureOptions,
    /// File to write the picture to (PNG)
    #[arg(long, value_name = "FILE", default_value = "map.png")]
    out: PathBuf,
    /// Show N test images, spread evenly over the classes; 0 for all
    #[arg(long, value_name = "N", default_value_t = 2000, allow_negative_numbers = true,
        value_parser = clap::value_parser!(i64).range(0..))]
    images: i64,
}

/// Width of the map, and its smallest height as a share of the width.
const WIDTH: i32 = 840;
const MIN_HEIGHT: f64 = 0.4;
/// Between the map's frame and the points.
const PADDING: i32 = 16;
const MARGIN: i32 = 24;
const TOP: i32 = 100;
/// Height of the text about the axes, below the map.
const AXES: i32 = 44;
const LEGEND_ROW: i32 = 30;
const LEGEND_COLUMNS: usize = 5;

/// Draws the map and writes it.
pub(super) fn map(options: &Options) -> Result<()> {
    let subject = options.subject.open()?;
    let test = subject.test(options.images)?;
    if test.len() < 2 {
        return Err(format!("--images {}: a map needs at least 2 images", options.images).into());
    }
    let features = subject.features(&test.images)?;
    let components = principal_components(&features, 2)?;
    let map = Map {
        places: pairs(&components.project(&features)?)?,
        labels: label_list(&test.labels)?,
        class_names: test.class_names,
        explained: [components.explained[0], components.explained[1]],
    };
    map.write(&options.out)?;
    say!("written  {}: {} test images, {} of the variance", options.out.display(), map.places.len(), map.share());
    Ok(())
}

/// Coordinates `[N, 2]` as pairs.
fn pairs(projected: &Tensor) -> Result<Vec<(f64, f64)>> {
    let flat = Vec::<f64>::try_from(projected.f_to_device(Device::Cpu)?.f_contiguous()?.f_flatten(0, 1)?)?;
    Ok(flat.chunks(2).map(|pair| (pair[0], pair[1])).collect())
}

/// A share as a percentage.
fn percent(share: f64) -> String {
    format!("{:.1} %", 100.0 * share)
}

struct Map {
    /// Coordinates of each image along the two components.
    places: Vec<(f64, f64)>,
    /// Class of each image.
    labels: Vec<usize>,
    class_names: Vec<String>,
    /// Share of the variance that each component explains.
    explained: [f64; 2],
}

impl Map {
    /// Share of the variance that both components explain.
    fn share(&self) -> String {
        percent(self.explained[0] + self.explained[1])
    }

    fn write(&self, path: &Path) -> Result<()> {
        let scale = Scale::new(&self.places);
        let bottom = TOP + scale.height;
        let rows = self.class_names.len().div_ceil(LEGEND_COLUMNS) as i32;
        let size = (MARGIN + WIDTH + MARGIN, bottom + AXES + rows * LEGEND_ROW + MARGIN);
        Canvas::write(path, size, |canvas| {
            let title = format!("{} test images along two principal components", self.places.len());
            canvas.text(&title, (MARGIN, 32), 26, INK, Align::Left)?;
            let variance = format!("of the encoder's features, which explain {} of their variance", self.share());
            canvas.text(&variance, (MARGIN, 68), 20, FAINT, Align::Left)?;
            canvas.frame((MARGIN, TOP), (WIDTH, scale.height), LINE)?;
            for (place, label) in self.places.iter().zip(&self.labels) {
                draw_mark(canvas, scale.place(*place), *label)?;
            }
            let [first, second] = self.explained.map(percent);
            let axes = format!("horizontal: first component ({first}); vertical: second component ({second})");
            canvas.text(&axes, (MARGIN, bottom + 20), 19, FAINT, Align::Left)?;
            self.draw_legend(canvas, bottom + AXES)
        })
    }

    fn draw_legend(&self, canvas: &Canvas<'_>, top: i32) -> Result<()> {
        let width = WIDTH / LEGEND_COLUMNS as i32;
        for (class, name) in self.class_names.iter().enumerate() {
            let (row, column) = ((class / LEGEND_COLUMNS) as i32, (class % LEGEND_COLUMNS) as i32);
            let (x, y) = (MARGIN + column * width, top + row * LEGEND_ROW + LEGEND_ROW / 2);
            draw_mark(canvas, (x + 8, y), class)?;
            canvas.name(name, (x + 22, y), width - 32, 19)?;
        }
        Ok(())
    }
}

/// Maps coordinates to pixels: both axes have the same scale, and all points lie inside the frame.
struct Scale {
    middle: (f64, f64),
    zoom: f64,
    height: i32,
}

impl Scale {
    fn new(places: &[(f64, f64)]) -> Scale {
        let range = |value: fn(&(f64, f64)) -> f64| {
            let values = || places.iter().map(value);
            (values().fold(f64::INFINITY, f64::min), values().fold(f64::NEG_INFINITY, f64::max))
        };
        let (x, y) = (range(|place| place.0), range(|place| place.1));
        let (across, up) = (x.1 - x.0, y.1 - y.0);
        let inner = f64::from(WIDTH - 2 * PADDING);
        let length = across.max(up);
        let zoom = if length > 0.0 { inner / length } else { 0.0 };
        let height = (up * zoom).max(MIN_HEIGHT * inner).round() as i32 + 2 * PADDING;
        Scale { middle: ((x.0 + x.1) / 2.0, (y.0 + y.1) / 2.0), zoom, height }
    }

    fn place(&self, (x, y): (f64, f64)) -> (i32, i32) {
        let across = MARGIN + WIDTH / 2 + ((x - self.middle.0) * self.zoom).round() as i32;
        (across, TOP + self.height / 2 - ((y - self.middle.1) * self.zoom).round() as i32)
    }
}

/// Paul Tol's muted palette, which color-blind readers can tell apart; the last color is darker than his.
const COLORS: [RGBColor; 10] = [
    RGBColor(51, 34, 136),
    RGBColor(136, 204, 238),
    RGBColor(68, 170, 153),
    RGBColor(17, 119, 51),
    RGBColor(153, 153, 51),
    RGBColor(221, 204, 119),
    RGBColor(204, 102, 119),
    RGBColor(136, 34, 85),
    RGBColor(170, 68, 153),
    RGBColor(120, 120, 120),
];

/// The shape of a mark.
#[derive(Clone, Copy)]
enum Shape {
    Disc,
    Square,
    Triangle,
    Diamond,
    Ring,
    Plus,
    Cross,
    Frame,
    Inverted,
    Lozenge,
}

const SHAPES: [Shape; 10] = [
    Shape::Disc,
    Shape::Square,
    Shape::Triangle,
    Shape::Diamond,
    Shape::Ring,
    Shape::Plus,
    Shape::Cross,
    Shape::Frame,
    Shape::Inverted,
    Shape::Lozenge,
];

/// Draws the mark of a class: ten classes differ by color, the next ten by shape.
fn draw_mark(canvas: &Canvas<'_>, place: (i32, i32), class: usize) -> Result<()> {
    SHAPES[class / COLORS.len() % SHAPES.len()].draw(canvas, place, COLORS[class % COLORS.len()])
}

impl Shape {
    fn draw(self, canvas: &Canvas<'_>, (x, y): (i32, i32), color: RGBColor) -> Result<()> {
        const R: i32 = 4;
        let at = |points: &[(i32, i32)]| points.iter().map(|(dx, dy)| (x + dx, y + dy)).collect::<Vec<_>>();
        let diamond = [(0, -R - 1), (R + 1, 0), (0, R + 1), (-R - 1, 0), (0, -R - 1)];
        match self {
            Shape::Disc => canvas.dot((x, y), R, color),
            Shape::Square => canvas.fill((x - R + 1, y - R + 1), (2 * R - 1, 2 * R - 1), color),
            Shape::Triangle => canvas.polygon(&at(&[(-R, R), (R, R), (0, -R)]), color),
            Shape::Inverted => canvas.polygon(&at(&[(-R, -R), (R, -R), (0, R)]), color),
            Shape::Diamond => canvas.polygon(&at(&diamond), color),
            Shape::Lozenge => canvas.line(&at(&diamond), 1, color),
            Shape::Ring => {
                let corners = [(R, 0), (3, 3), (0, R), (-3, 3), (-R, 0), (-3, -3), (0, -R), (3, -3), (R, 0)];
                canvas.line(&at(&corners), 1, color)
            }
            Shape::Plus => {
                canvas.fill((x - R, y - 1), (2 * R + 1, 2), color)?;
                canvas.fill((x - 1, y - R), (2, 2 * R + 1), color)
            }
            Shape::Cross => {
                canvas.line(&at(&[(-R, -R), (R, R)]), 2, color)?;
                canvas.line(&at(&[(-R, R), (R, -R)]), 2, color)
            }
            Shape::Frame => canvas.outline((x - R, y - R), (2 * R + 1, 2 * R + 1), 1, color),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_points_lie_on_the_map() {
        for places in [vec![(-3.0, 1.0), (7.0, 2.0), (0.0, -40.0)], vec![(5.0, 5.0)], vec![(1e-9, 0.0), (0.0, 0.0)]] {
            let scale = Scale::new(&places);
            for place in &places {
                let (x, y) = scale.place(*place);
                let inside = (MARGIN..MARGIN + WIDTH).contains(&x) && (TOP..TOP + scale.height).contains(&y);
                assert!(inside, "{place:?} at {x}, {y}");
            }
        }
    }

    #[test]
    fn every_class_has_its_place_in_the_legend() {
        let folder = tempfile::tempdir().unwrap();
        let size_with = |classes: usize| {
            let path = folder.path().join("map.png");
            let labels: Vec<usize> = (0..classes).collect();
            let places = labels.iter().map(|label| (*label as f64, (label * 37 % 50) as f64)).collect();
            let class_names = labels.iter().map(|class| format!("some_long_class_name_{class}")).collect();
            Map { places, labels, class_names, explained: [0.5, 0.25] }.write(&path).unwrap();
            image::open(path).unwrap().into_rgb8().dimensions()
        };
        let (ten, hundred) = (size_with(10), size_with(100));
        assert_eq!((ten.0, ten.1 < hundred.1), (hundred.0, true));
    }
}
