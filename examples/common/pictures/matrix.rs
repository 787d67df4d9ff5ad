//! Square matrices of shares, as cells with numbers.

use plotters::style::RGBColor;
use tch::{Device, Kind, Tensor};

use super::Result;
use super::canvas::{Align, Canvas, INK, LINE};

/// Smaller cells hold no number; there the colour has to do.
const SMALLEST_WITH_NUMBER: i32 = 24;
/// Cells from this size on hold numbers of three decimals instead of two.
const LARGE: i32 = 40;

/// A square matrix of shares.
pub(crate) struct Matrix {
    values: Vec<f64>,
    pub(crate) side: usize,
}

impl Matrix {
    /// A target `[side, side]`; `name` is for errors.
    pub(crate) fn new(matrix: &Tensor, side: i64, name: &str) -> Result<Self> {
        if matrix.size() != [side, side] {
            return Err(format!("the {name} target has shape {:?} instead of [{side}, {side}]", matrix.size()).into());
        }
        let flat = matrix.f_to_device(Device::Cpu)?.f_to_kind(Kind::Double)?.f_contiguous()?.f_view([-1])?;
        Ok(Self { values: Vec::try_from(flat)?, side: side as usize })
    }

    pub(crate) fn row(&self, row: usize) -> &[f64] {
        &self.values[row * self.side..(row + 1) * self.side]
    }

    pub(crate) fn largest(&self) -> f64 {
        self.values.iter().copied().fold(0.0, f64::max)
    }

    /// Draws the first `rows` rows in cells of `cell` pixels, and a frame for all; `largest` has the darkest colour.
    pub(crate) fn draw(
        &self,
        canvas: &Canvas<'_>,
        (left, top): (i32, i32),
        cell: i32,
        largest: f64,
        rows: usize,
    ) -> Result<()> {
        for row in 0..rows.min(self.side) {
            for (column, &value) in self.row(row).iter().enumerate() {
                let place = (left + column as i32 * cell, top + row as i32 * cell);
                draw_cell(canvas, place, cell, value, value / largest)?;
            }
        }
        canvas.frame((left, top), (cell * self.side as i32, cell * self.side as i32), LINE)
    }
}

fn draw_cell(canvas: &Canvas<'_>, (x, y): (i32, i32), cell: i32, value: f64, share: f64) -> Result<()> {
    canvas.fill((x, y), (cell, cell), shade(share))?;
    if cell < SMALLEST_WITH_NUMBER {
        return Ok(());
    }
    canvas.frame((x, y), (cell - 1, cell - 1), LINE)?;
    if value == 0.0 {
        return Ok(());
    }
    let ink = if share > 0.5 { RGBColor(255, 255, 255) } else { INK };
    let (text, size) = if cell < LARGE { (decimals(value, 2), 15) } else { (decimals(value, 3), 17) };
    canvas.text(&text, (x + cell / 2, y + cell / 2), size, ink, Align::Centre)
}

/// A share with so many decimals and no idle zeros: `0.5`, `0.25`, `0.06`, `1`.
pub(crate) fn decimals(value: f64, places: usize) -> String {
    let text = format!("{value:.places$}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// From white at 0 to a dark blue at 1; it grows darker all the way, so that it can be read without its hue.
pub(crate) fn shade(share: f64) -> RGBColor {
    let share = if share.is_finite() { share.clamp(0.0, 1.0) } else { 0.0 };
    blend(RGBColor(255, 255, 255), RGBColor(8, 69, 148), share)
}

/// The colour at `share` of the way from one to another.
pub(crate) fn blend(from: RGBColor, to: RGBColor, share: f64) -> RGBColor {
    let mix = |from: u8, to: u8| (f64::from(from) + (f64::from(to) - f64::from(from)) * share).round() as u8;
    RGBColor(mix(from.0, to.0), mix(from.1, to.1), mix(from.2, to.2))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short() {
        let texts: Vec<String> = [0.0, 0.0625, 0.125, 0.25, 0.5, 1.0].map(|value| decimals(value, 2)).to_vec();
        assert_eq!(texts, ["0", "0.06", "0.12", "0.25", "0.5", "1"]);
        assert_eq!(decimals(0.125, 3), "0.125");
    }

    #[test]
    fn a_larger_share_is_darker() {
        let sum = |share| {
            let RGBColor(red, green, blue) = shade(share);
            i32::from(red) + i32::from(green) + i32::from(blue)
        };
        assert!((0..10).all(|step| sum(f64::from(step) / 10.0) > sum(f64::from(step + 1) / 10.0)));
        assert_eq!(sum(0.0), 3 * 255);
    }
}
