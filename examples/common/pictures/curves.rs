//! `curves.png`: the course of a run.

use std::path::Path;

use plotters::coord::ranged1d::Ranged;
use plotters::coord::types::RangedCoordf64;
use plotters::style::RGBColor;

use super::Result;
use super::canvas::{Align, Canvas, FAINT, INK, LINE};

/// What is known of one epoch. A value that is not finite is left out of the picture.
#[derive(Clone, Debug)]
pub(crate) struct Epoch {
    /// Counted from 1.
    pub(crate) epoch: i64,
    /// The total of the three losses.
    pub(crate) loss: f64,
    pub(crate) origin_to_origin: f64,
    pub(crate) mix_to_origin: f64,
    pub(crate) mix_to_mix: f64,
    /// Top-1 accuracy in percent, in the epochs that were evaluated.
    pub(crate) knn: Option<f64>,
    pub(crate) learning_rate: f64,
}

/// A run, or as much of it as there is.
#[derive(Clone, Debug, Default)]
pub(crate) struct Metrics {
    pub(crate) epochs: Vec<Epoch>,
    /// The kNN accuracy on the pixels themselves, in percent.
    pub(crate) raw_pixels: Option<f64>,
    /// The kNN accuracy of the encoder before training, in percent.
    pub(crate) untrained_encoder: Option<f64>,
}

// The colours of Okabe and Ito, which colour-blind people can tell apart.
const BLUE: RGBColor = RGBColor(0, 114, 178);
const ORANGE: RGBColor = RGBColor(230, 159, 0);
const GREEN: RGBColor = RGBColor(0, 158, 115);
const RED: RGBColor = RGBColor(213, 94, 0);
const PURPLE: RGBColor = RGBColor(204, 121, 167);

/// The size of the picture.
const SIZE: (i32, i32) = (1600, 560);
/// The left edge and the width of each plot, without its labels.
const PLOTS: [(i32, i32); 3] = [(92, 500), (688, 440), (1236, 336)];
const TOP: i32 = 140;
const BOTTOM: i32 = SIZE.1 - 76;
const TEXT: i32 = 19;

/// Draws the losses, the accuracy and the learning rate over the epochs.
pub(crate) fn curves_picture(path: &Path, curves: &Metrics) -> Result<()> {
    let panels = [loss_panel(curves), accuracy_panel(curves), rate_panel(curves)];
    let epochs = curves.epochs.iter().map(|row| row.epoch as f64);
    let last = epochs.clone().fold(f64::NEG_INFINITY, f64::max);
    let first = epochs.fold(f64::INFINITY, f64::min);
    // A single epoch stands in the middle, and no epoch leaves the frame empty.
    let epochs = match (first.is_finite(), first < last) {
        (true, true) => (first, last),
        (true, false) => (first - 1.0, first + 1.0),
        (false, _) => (0.0, 1.0),
    };
    Canvas::write(path, SIZE, |canvas| {
        for (panel, (left, width)) in panels.iter().zip(PLOTS) {
            panel.draw(canvas, left, width, epochs)?;
        }
        Ok(())
    })
}

/// The points of one quantity whose values are finite.
fn points(curves: &Metrics, value: impl Fn(&Epoch) -> f64) -> Vec<(f64, f64)> {
    let points = curves.epochs.iter().map(|row| (row.epoch as f64, value(row)));
    points.filter(|(_, value)| value.is_finite()).collect()
}

fn loss_panel(curves: &Metrics) -> Panel {
    let series = |name, color, points| Series { name, color, shape: Shape::Line(points) };
    Panel {
        title: "loss",
        unit: "",
        series: vec![
            series("total", INK, points(curves, |row| row.loss)),
            series("origin-to-origin", BLUE, points(curves, |row| row.origin_to_origin)),
            series("mix-to-origin", ORANGE, points(curves, |row| row.mix_to_origin)),
            series("mix-to-mix", GREEN, points(curves, |row| row.mix_to_mix)),
        ],
    }
}

fn accuracy_panel(curves: &Metrics) -> Panel {
    let knn = Shape::Dots(points(curves, |row| row.knn.unwrap_or(f64::NAN)));
    let mut series = vec![Series { name: "trained encoder", color: BLUE, shape: knn }];
    let references = [("raw pixels", RED, curves.raw_pixels), ("untrained encoder", PURPLE, curves.untrained_encoder)];
    for (name, color, value) in references {
        if let Some(value) = value.filter(|value| value.is_finite()) {
            series.push(Series { name, color, shape: Shape::Level(value) });
        }
    }
    Panel { title: "kNN top-1 accuracy", unit: "%", series }
}

fn rate_panel(curves: &Metrics) -> Panel {
    let rates = Shape::Line(points(curves, |row| row.learning_rate));
    Panel { title: "learning rate", unit: "", series: vec![Series { name: "", color: INK, shape: rates }] }
}

/// How a series is drawn.
enum Shape {
    /// A line from point to point.
    Line(Vec<(f64, f64)>),
    /// A line that shows where its points are: there is not one for each epoch.
    Dots(Vec<(f64, f64)>),
    /// A value that does not change.
    Level(f64),
}

struct Series {
    /// What the legend says; nothing where it is empty.
    name: &'static str,
    color: RGBColor,
    shape: Shape,
}

struct Panel {
    title: &'static str,
    unit: &'static str,
    series: Vec<Series>,
}

/// The way from epochs and values to pixels.
struct Axes {
    left: i32,
    width: i32,
    epochs: (f64, f64),
    values: (f64, f64),
}

impl Axes {
    fn x(&self, epoch: f64) -> i32 {
        self.left + ((epoch - self.epochs.0) / (self.epochs.1 - self.epochs.0) * f64::from(self.width)).round() as i32
    }

    fn y(&self, value: f64) -> i32 {
        let share = (value - self.values.0) / (self.values.1 - self.values.0);
        BOTTOM - (share * f64::from(BOTTOM - TOP)).round() as i32
    }
}

impl Panel {
    fn draw(&self, canvas: &Canvas<'_>, left: i32, width: i32, epochs: (f64, f64)) -> Result<()> {
        let axes = Axes { left, width, epochs, values: self.range() };
        canvas.text(self.title, (left, 34), 26, INK, Align::Left)?;
        self.draw_legend(canvas, &axes)?;
        self.draw_grid(canvas, &axes)?;
        for series in &self.series {
            series.draw(canvas, &axes)?;
        }
        Ok(())
    }

    /// From below the smallest to above the largest value.
    fn range(&self) -> (f64, f64) {
        let values = || self.series.iter().flat_map(Series::values);
        let (low, high) = (values().fold(f64::INFINITY, f64::min), values().fold(f64::NEG_INFINITY, f64::max));
        if !low.is_finite() {
            return (0.0, 1.0);
        }
        // Values that are all alike get a range, too.
        let margin = if high > low { 0.06 * (high - low) } else { (0.1 * high.abs()).max(1e-9) };
        let floor = if low >= 0.0 { 0.0 } else { f64::NEG_INFINITY };
        ((low - margin).max(floor), high + margin)
    }

    /// The names over the plot, where they cover no data, in two columns.
    fn draw_legend(&self, canvas: &Canvas<'_>, axes: &Axes) -> Result<()> {
        let named = self.series.iter().filter(|series| !series.name.is_empty());
        for (index, series) in named.enumerate() {
            let (column, row) = (index as i32 % 2, index as i32 / 2);
            let (x, y) = (axes.left + column * axes.width / 2, 74 + 30 * row);
            match series.shape {
                Shape::Level(_) => canvas.dashes((x, x + 31), y, series.color)?,
                _ => canvas.line(&[(x, y), (x + 31, y)], 3, series.color)?,
            }
            if let Shape::Dots(_) = series.shape {
                canvas.dot((x + 16, y), 5, series.color)?;
            }
            canvas.text(series.name, (x + 42, y), TEXT, INK, Align::Left)?;
        }
        Ok(())
    }

    fn draw_grid(&self, canvas: &Canvas<'_>, axes: &Axes) -> Result<()> {
        let right = axes.left + axes.width;
        for value in ticks(axes.values, 6) {
            let y = axes.y(value);
            canvas.line(&[(axes.left, y), (right, y)], 1, LINE)?;
            canvas.text(&format!("{}{}", number(value), self.unit), (axes.left - 10, y), TEXT, INK, Align::Right)?;
        }
        // There are no halves of epochs.
        for epoch in ticks(axes.epochs, axes.width as usize / 80).into_iter().filter(|epoch| epoch.fract() == 0.0) {
            let x = axes.x(epoch);
            canvas.line(&[(x, BOTTOM), (x, BOTTOM + 6)], 1, FAINT)?;
            canvas.text(&number(epoch), (x, BOTTOM + 22), TEXT, INK, Align::Centre)?;
        }
        canvas.line(&[(axes.left, TOP), (axes.left, BOTTOM), (right, BOTTOM)], 1, FAINT)?;
        canvas.text("epoch", (axes.left + axes.width / 2, BOTTOM + 52), TEXT, FAINT, Align::Centre)
    }
}

impl Series {
    fn values(&self) -> Vec<f64> {
        match &self.shape {
            Shape::Line(points) | Shape::Dots(points) => points.iter().map(|(_, value)| *value).collect(),
            Shape::Level(value) => vec![*value],
        }
    }

    fn draw(&self, canvas: &Canvas<'_>, axes: &Axes) -> Result<()> {
        let (points, dots) = match &self.shape {
            Shape::Level(value) => {
                return canvas.dashes((axes.left + 1, axes.left + axes.width), axes.y(*value), self.color);
            }
            // A line of one point would not be seen.
            Shape::Line(points) => (points, points.len() == 1),
            Shape::Dots(points) => (points, points.len() <= 60),
        };
        let places: Vec<_> = points.iter().map(|&(epoch, value)| (axes.x(epoch), axes.y(value))).collect();
        if dots {
            for &place in &places {
                canvas.dot(place, 5, self.color)?;
            }
        }
        canvas.line(&places, 3, self.color)
    }
}

/// Round numbers in a range, about so many.
fn ticks((low, high): (f64, f64), count: usize) -> Vec<f64> {
    RangedCoordf64::from(low..high).key_points(count)
}

/// A number as short as it can be read: `0.25`, `12`, `2e-6`.
fn number(value: f64) -> String {
    // What remains of 0 after counting in steps.
    if value.abs() < 1e-12 {
        return "0".to_owned();
    }
    if value.abs() < 1e-3 {
        let text = format!("{value:.1e}");
        return text.replace(".0e", "e");
    }
    let text = format!("{value:.4}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests;
