//! Plots of quantities over the epochs.

use plotters::coord::ranged1d::Ranged;
use plotters::coord::types::RangedCoordf64;
use plotters::style::RGBColor;

use super::canvas::{Align, Canvas};
use super::color::{FAINT, INK, LINE};
use super::decimals;
use crate::Result;

const TEXT: i32 = 19;
const LEGEND_ROW: i32 = 30;
/// Entries of a legend that stand side by side.
const LEGEND_COLUMNS: usize = 2;

/// How a series is drawn.
pub(crate) enum Shape {
    /// A line from point to point.
    Line(Vec<(f64, f64)>),
    /// A line with a dot at each point, for quantities that not every epoch measures.
    Dots(Vec<(f64, f64)>),
    /// A constant.
    Level(f64),
}

pub(crate) struct Series {
    /// Text of the legend; an empty name gets no entry.
    pub(crate) name: String,
    pub(crate) color: RGBColor,
    pub(crate) shape: Shape,
}

pub(crate) struct Panel {
    pub(crate) title: String,
    pub(crate) unit: &'static str,
    pub(crate) series: Vec<Series>,
}

/// Position of the axes, without their labels.
#[derive(Clone, Copy)]
pub(crate) struct Frame {
    pub(crate) left: i32,
    pub(crate) width: i32,
    pub(crate) top: i32,
    pub(crate) bottom: i32,
    /// How far above the top the title is; the legend goes between them.
    pub(crate) head: i32,
}

/// Maps epochs and values to pixels.
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
    /// Height that the legend needs beyond two rows of entries.
    pub(crate) fn extra_head(&self) -> i32 {
        let rows = self.series.len().div_ceil(LEGEND_COLUMNS);
        LEGEND_ROW * rows.saturating_sub(2) as i32
    }

    pub(crate) fn draw(&self, canvas: &Canvas<'_>, frame: Frame, epochs: (f64, f64)) -> Result<()> {
        let axes = Axes { frame, epochs, values: self.range() };
        canvas.text(&self.title, (frame.left, frame.top - frame.head), 26, INK, Align::Left)?;
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
        // Equal values still need a range.
        let margin = if high > low { 0.06 * (high - low) } else { (0.1 * high.abs()).max(1e-9) };
        let floor = if low >= 0.0 { 0.0 } else { f64::NEG_INFINITY };
        ((low - margin).max(floor), high + margin)
    }

    /// The names, in columns above the plot where they cover no data.
    fn draw_legend(&self, canvas: &Canvas<'_>, axes: &Axes) -> Result<()> {
        let Frame { left, width, top, head, .. } = axes.frame;
        let named = self.series.iter().filter(|series| !series.name.is_empty());
        for (index, series) in named.enumerate() {
            let (column, row) = ((index % LEGEND_COLUMNS) as i32, (index / LEGEND_COLUMNS) as i32);
            let (x, y) = (left + column * width / LEGEND_COLUMNS as i32, top - head + 40 + LEGEND_ROW * row);
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
        // Short runs get ticks at fractions, which are no epochs.
        for epoch in ticks(axes.epochs, width as usize / 80).into_iter().filter(|epoch| epoch.fract() == 0.0) {
            let x = axes.x(epoch);
            canvas.line(&[(x, bottom), (x, bottom + 6)], 1, FAINT)?;
            canvas.text(&number(epoch), (x, bottom + 22), TEXT, INK, Align::Center)?;
        }
        canvas.line(&[(left, top), (left, bottom), (right, bottom)], 1, FAINT)?;
        canvas.text("epoch", (left + width / 2, bottom + 52), TEXT, FAINT, Align::Center)
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
            // A line through one point is invisible.
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

/// About `count` round numbers in a range.
fn ticks((low, high): (f64, f64), count: usize) -> Vec<f64> {
    RangedCoordf64::from(low..high).key_points(count)
}

/// A number in its shortest readable form: `0.25`, `12`, `2e-6`.
fn number(value: f64) -> String {
    // Counting in steps leaves a rounding error instead of 0.
    if value.abs() < 1e-12 {
        return "0".to_owned();
    }
    if value.abs() < 1e-3 {
        let text = format!("{value:.1e}");
        return text.replace(".0e", "e");
    }
    decimals(value, 4)
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
