//! Square matrices of shares, drawn as cells with numbers.

use tch::{Device, Kind, Tensor};

use super::canvas::{Align, Canvas};
use super::color::{INK, LINE, WHITE, shade};
use super::decimals;
use crate::Result;

/// Cells smaller than this have no number, only a color.
const MIN_WITH_NUMBER: i32 = 24;
/// Cells from this size on show three decimals instead of two.
const LARGE: i32 = 40;

/// A square matrix of shares.
pub(crate) struct Matrix {
    values: Vec<f64>,
    pub(crate) side: usize,
}

impl Matrix {
    /// Copies a target `[side, side]`; `name` appears in errors.
    pub(crate) fn new(matrix: &Tensor, side: i64, name: &str) -> Result<Self> {
        if matrix.size() != [side, side] {
            return Err(format!("the {name} target has shape {:?}, expected [{side}, {side}]", matrix.size()).into());
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

    /// Draws the first `rows` rows in cells of `cell` pixels, and a frame around all; `largest` gets the darkest color.
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
    if cell < MIN_WITH_NUMBER {
        return Ok(());
    }
    canvas.frame((x, y), (cell - 1, cell - 1), LINE)?;
    if value == 0.0 {
        return Ok(());
    }
    let ink = if share > 0.5 { WHITE } else { INK };
    let (text, size) = if cell < LARGE { (decimals(value, 2), 15) } else { (decimals(value, 3), 17) };
    canvas.text(&text, (x + cell / 2, y + cell / 2), size, ink, Align::Center)
}
