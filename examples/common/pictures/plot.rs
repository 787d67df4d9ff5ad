//! Plots of quantities over the epochs.

use plotters::coord::ranged1d::Ranged;
use plotters::coord::types::RangedCoordf64;
use plotters::style::RGBColor;

use super::Result;
use super::canvas::{Align, Canvas, FAINT, INK, LINE};
use super::curves::Metrics;

const TEXT: i32 = 19;

/// The first and the last epoch of all runs.
pub(crate) fn epoch_range(runs: &[&Metrics]) -> (f64, f64) {
    let epochs = runs.iter().flat_map(|run| &run.epochs).map(|row| row.epoch as f64);
    let last = epochs.clone().fold(f64::NEG_INFINITY, f64::max);
    let first = epochs.fold(f64::INFINITY, f64::min);
    // A single epoch stands in the middle, and no epoch leaves the frame empty.
    match (first.is_finite(), first < last) {
        (true, true) => (first, last),
        (true, false) => (first - 1.0, first + 1.0),
        (false, _) => (0.0, 1.0),
    }
}

/// How a series is drawn.
pub(crate) enum Shape {
    /// A line from point to point.
    Line(Vec<(f64, f64)>),
    /// A line that shows where its points are: there is not one for each epoch.
    Dots(Vec<(f64, f64)>),
    /// A value that does not change.
    Level(f64),
}

pub(crate) struct Series {
    /// What the legend says; nothing where it is empty.
    pub(crate) name: String,
    pub(crate) color: RGBColor,
    pub(crate) shape: Shape,
}

pub(crate) struct Panel {
    pub(crate) title: &'static str,
    pub(crate) unit: &'static str,
    pub(crate) series: Vec<Series>,
}

/// Where the axes of a plot lie, without its labels.
#[derive(Clone, Copy)]
pub(crate) struct Frame {
    pub(crate) left: i32,
    pub(crate) width: i32,
    pub(crate) top: i32,
    pub(crate) bottom: i32,
    /// How far over the top the title stands; the legend has its place between.
    pub(crate) head: i32,
}

/// The way from epochs and values to pixels.
struct Axes {
    frame: Frame,
    epochs: (f64, f64),
    values: (f64, f64),
}

impl Axes {
    fn x(&self, epoch: f64) -> i32 {
        let share = (epoch - self.epochs.0) / (self.epochs.1 - self.epochs.0);
        self.frame.left + (share * f64::from(self.frame.width)).round() as i32
    }

    fn y(&self, value: f64) -> i32 {
        let share = (value - self.values.0) / (self.values.1 - self.values.0);
        self.frame.bottom - (share * f64::from(self.frame.bottom - self.frame.top)).round() as i32
    }
}

impl Panel {
    pub(crate) fn draw(&self, canvas: &Canvas<'_>, frame: Frame, epochs: (f64, f64)) -> Result<()> {
        let axes = Axes { frame, epochs, values: self.range() };
        canvas.text(self.title, (frame.left, frame.top - frame.head), 26, INK, Align::Left)?;
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
            let (x, y) =
                (axes.frame.left + column * axes.frame.width / 2, axes.frame.top - axes.frame.head + 40 + 30 * row);
            match series.shape {
                Shape::Level(_) => canvas.dashes((x, x + 31), y, series.color)?,
                _ => canvas.line(&[(x, y), (x + 31, y)], 3, series.color)?,
            }
            if let Shape::Dots(_) = series.shape {
                canvas.dot((x + 16, y), 5, series.color)?;
            }
            canvas.text(&series.name, (x + 42, y), TEXT, INK, Align::Left)?;
        }
        Ok(())
    }

    fn draw_grid(&self, canvas: &Canvas<'_>, axes: &Axes) -> Result<()> {
        let Frame { left, width, top, bottom, .. } = axes.frame;
        let right = left + width;
        for value in ticks(axes.values, 6) {
            let y = axes.y(value);
            canvas.line(&[(left, y), (right, y)], 1, LINE)?;
            canvas.text(&format!("{}{}", number(value), self.unit), (left - 10, y), TEXT, INK, Align::Right)?;
        }
        // There are no halves of epochs.
        for epoch in ticks(axes.epochs, width as usize / 80).into_iter().filter(|epoch| epoch.fract() == 0.0) {
            let x = axes.x(epoch);
            canvas.line(&[(x, bottom), (x, bottom + 6)], 1, FAINT)?;
            canvas.text(&number(epoch), (x, bottom + 22), TEXT, INK, Align::Centre)?;
        }
        canvas.line(&[(left, top), (left, bottom), (right, bottom)], 1, FAINT)?;
        canvas.text("epoch", (left + width / 2, bottom + 52), TEXT, FAINT, Align::Centre)
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
        let Frame { left, width, .. } = axes.frame;
        let (points, dots) = match &self.shape {
            Shape::Level(value) => {
                return canvas.dashes((left + 1, left + width), axes.y(*value), self.color);
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
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short() {
        let texts = [0.0, 1e-17, 2e-6, 2.5e-4, 0.004, 0.25, 12.0, 100.0].map(number);
        assert_eq!(texts, ["0", "0", "2e-6", "2.5e-4", "0.004", "0.25", "12", "100"]);
    }
}
