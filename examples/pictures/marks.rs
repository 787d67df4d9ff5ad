//! Marks for the points of a map: ten shapes, so that a hundred classes differ by colour and shape.

use plotters::style::RGBColor;

use crate::Result;
use crate::pictures::canvas::Canvas;

/// The shape of a point.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Mark {
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

impl Mark {
    pub(crate) const ALL: [Mark; 10] = [
        Mark::Disc,
        Mark::Square,
        Mark::Triangle,
        Mark::Diamond,
        Mark::Ring,
        Mark::Plus,
        Mark::Cross,
        Mark::Frame,
        Mark::Inverted,
        Mark::Lozenge,
    ];

    /// Draws the mark about a place.
    pub(crate) fn draw(self, canvas: &Canvas<'_>, (x, y): (i32, i32), color: RGBColor) -> Result<()> {
        const R: i32 = 4;
        let at = |points: &[(i32, i32)]| points.iter().map(|(dx, dy)| (x + dx, y + dy)).collect::<Vec<_>>();
        let diamond = [(0, -R - 1), (R + 1, 0), (0, R + 1), (-R - 1, 0), (0, -R - 1)];
        match self {
            Mark::Disc => canvas.dot((x, y), R, color),
            Mark::Square => canvas.fill((x - R + 1, y - R + 1), (2 * R - 1, 2 * R - 1), color),
            Mark::Triangle => canvas.polygon(&at(&[(-R, R), (R, R), (0, -R)]), color),
            Mark::Inverted => canvas.polygon(&at(&[(-R, -R), (R, -R), (0, R)]), color),
            Mark::Diamond => canvas.polygon(&at(&diamond), color),
            Mark::Lozenge => canvas.line(&at(&diamond), 1, color),
            Mark::Ring => {
                let corners = [(R, 0), (3, 3), (0, R), (-3, 3), (-R, 0), (-3, -3), (0, -R), (3, -3), (R, 0)];
                canvas.line(&at(&corners), 1, color)
            }
            Mark::Plus => {
                canvas.fill((x - R, y - 1), (2 * R + 1, 2), color)?;
                canvas.fill((x - 1, y - R), (2, 2 * R + 1), color)
            }
            Mark::Cross => {
                canvas.line(&at(&[(-R, -R), (R, R)]), 2, color)?;
                canvas.line(&at(&[(-R, R), (R, -R)]), 2, color)
            }
            Mark::Frame => canvas.outline((x - R, y - R), (2 * R + 1, 2 * R + 1), 1, color),
        }
    }
}
