//! A map of test images: their features along the two directions in which these differ most.

use std::path::{Path, PathBuf};

use clap::Args;
use patchmix::data::Split;
use patchmix::eval::principal_components;
use plotters::style::RGBColor;
use tch::{Device, Tensor};

use crate::Result;
use crate::marks::Mark;
use crate::pictures::canvas::{Align, Canvas, FAINT, INK, LINE};
use crate::pooling::PoolingName;
use crate::source::EncoderOptions;

/// Options of `map`.
#[derive(Debug, Args)]
pub(crate) struct Options {
    #[command(flatten)]
    encoder: EncoderOptions,
    /// How features are read [default: as the checkpoint says, which for a run is class-token]
    #[arg(long, value_enum)]
    pooling: Option<PoolingName>,
    /// The picture
    #[arg(long, value_name = "FILE", default_value = "map.png")]
    out: PathBuf,
    /// Show the first N test images; 0 for all
    #[arg(long, value_name = "N", default_value_t = 2000, allow_negative_numbers = true, value_parser = clap::value_parser!(i64).range(0..))]
    images: i64,
}

/// Ten colours that colour-blind people can tell apart (the muted ones of Paul Tol, the last darker).
const COLOURS: [RGBColor; 10] = [
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

/// The width of the map, and its least height as a share of it.
const WIDTH: i32 = 840;
const FLATTEST: f64 = 0.4;
/// Between the map's frame and the points.
const INSIDE: i32 = 16;
const MARGIN: i32 = 24;
const TOP: i32 = 100;
/// Below the map: the names of its axes.
const AXIS: i32 = 44;
/// The names of the classes.
const LEGEND_ROW: i32 = 30;
const LEGEND_COLUMNS: i32 = 5;

pub(crate) fn map(options: &Options) -> Result<()> {
    let source = options.encoder.open()?;
    let test = source.images(Split::Test)?;
    let count = if options.images == 0 { test.len() } else { options.images.min(test.len()) };
    if count < 2 {
        return Err(format!("--images {count}: a map needs two images or more").into());
    }
    let test = test.take(count)?;
    let features = source.features(&test, options.pooling)?;
    let components = principal_components(&features, 2)?;
    let places = places(&components.project(&features)?)?;
    let labels = Vec::<i64>::try_from(test.labels.f_to_device(Device::Cpu)?)?;
    let explained = [components.explained[0], components.explained[1]];
    picture(&options.out, &places, &labels, &test.class_names, explained)?;
    let share = 100.0 * (explained[0] + explained[1]);
    println!("written  {}: {count} test images, {share:.1} % of the variance", options.out.display());
    Ok(())
}

/// Coordinates `[N, 2]` as pairs.
fn places(projected: &Tensor) -> Result<Vec<(f64, f64)>> {
    let flat = Vec::<f64>::try_from(projected.f_to_device(Device::Cpu)?.f_contiguous()?.f_flatten(0, 1)?)?;
    Ok(flat.chunks(2).map(|pair| (pair[0], pair[1])).collect())
}

fn picture(
    path: &Path,
    places: &[(f64, f64)],
    labels: &[i64],
    class_names: &[String],
    explained: [f64; 2],
) -> Result<()> {
    let rows = (class_names.len() as i32 + LEGEND_COLUMNS - 1) / LEGEND_COLUMNS;
    let scale = Scale::new(places);
    let bottom = TOP + scale.height;
    let size = (MARGIN + WIDTH + MARGIN, bottom + AXIS + rows * LEGEND_ROW + MARGIN);
    Canvas::write(path, size, |canvas| {
        let [first, second] = explained.map(|share| format!("{:.1} %", 100.0 * share));
        let both = 100.0 * (explained[0] + explained[1]);
        let title = format!("{} test images along two principal components", places.len());
        canvas.text(&title, (MARGIN, 32), 26, INK, Align::Left)?;
        let said = format!("of the encoder's features, which explain {both:.1} % of their variance");
        canvas.text(&said, (MARGIN, 68), 20, FAINT, Align::Left)?;
        canvas.frame((MARGIN, TOP), (WIDTH, scale.height), LINE)?;
        for (place, label) in places.iter().zip(labels) {
            draw_mark(canvas, scale.place(*place), *label as usize)?;
        }
        let axes = format!("across: the first component ({first}); up: the second ({second})");
        canvas.text(&axes, (MARGIN, bottom + 20), 19, FAINT, Align::Left)?;
        for (class, name) in class_names.iter().enumerate() {
            let (row, column) = (class as i32 / LEGEND_COLUMNS, class as i32 % LEGEND_COLUMNS);
            let width = WIDTH / LEGEND_COLUMNS;
            let (x, y) = (MARGIN + column * width, bottom + AXIS + row * LEGEND_ROW + LEGEND_ROW / 2);
            draw_mark(canvas, (x + 8, y), class)?;
            let name = canvas.shortened(&name.replace('_', " "), width - 32, 19)?;
            canvas.text(&name, (x + 22, y), 19, INK, Align::Left)?;
        }
        Ok(())
    })
}

/// The way from coordinates to pixels: both axes are stretched alike, and all points lie inside the frame.
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
        let inner = f64::from(WIDTH - 2 * INSIDE);
        let length = across.max(up);
        let zoom = if length > 0.0 { inner / length } else { 0.0 };
        let height = (up * zoom).max(FLATTEST * inner).round() as i32 + 2 * INSIDE;
        Scale { middle: ((x.0 + x.1) / 2.0, (y.0 + y.1) / 2.0), zoom, height }
    }

    fn place(&self, (x, y): (f64, f64)) -> (i32, i32) {
        let across = MARGIN + WIDTH / 2 + ((x - self.middle.0) * self.zoom).round() as i32;
        (across, TOP + self.height / 2 - ((y - self.middle.1) * self.zoom).round() as i32)
    }
}

/// Ten classes differ by their colour, and the next ten by their shape.
fn draw_mark(canvas: &Canvas<'_>, place: (i32, i32), class: usize) -> Result<()> {
    Mark::ALL[class / COLOURS.len() % Mark::ALL.len()].draw(canvas, place, COLOURS[class % COLOURS.len()])
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
            let names: Vec<String> = (0..classes).map(|class| format!("some_long_class_name_{class}")).collect();
            let labels: Vec<i64> = (0..classes as i64).collect();
            let places: Vec<_> = labels.iter().map(|label| (*label as f64, (label * 37 % 50) as f64)).collect();
            picture(&path, &places, &labels, &names, [0.5, 0.25]).unwrap();
            image::open(path).unwrap().into_rgb8().dimensions()
        };
        let (ten, hundred) = (size_with(10), size_with(100));
        assert_eq!((ten.0, ten.1 < hundred.1), (hundred.0, true));
    }
}
