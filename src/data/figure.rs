//! The ten textures that are the classes of the built-in images.

use std::f32::consts::TAU;

use crate::random::Stream;

/// Names of the classes; an image's label is a position in this list, and in [`Figure::ALL`].
pub(super) const NAMES: [&str; 10] =
    ["stripes", "zigzags", "checks", "grids", "discs", "rings", "triangles", "crosses", "ripples", "blobs"];

/// How many plane waves make up the blobs.
const WAVES: usize = 5;

/// What an image is filled with. Every texture may be turned, shifted, scaled and mirrored without becoming another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Figure {
    Stripes,
    Zigzags,
    Checks,
    Grids,
    Discs,
    Rings,
    Triangles,
    Crosses,
    Ripples,
    Blobs,
}

impl Figure {
    pub(super) const ALL: [Figure; NAMES.len()] = [
        Figure::Stripes,
        Figure::Zigzags,
        Figure::Checks,
        Figure::Grids,
        Figure::Discs,
        Figure::Rings,
        Figure::Triangles,
        Figure::Crosses,
        Figure::Ripples,
        Figure::Blobs,
    ];

    /// Shortest and longest period, as parts of the image's side: small enough that a crop of a fifth of the area shows
    /// one whole, large enough that 32 pixels show its form.
    fn periods(self) -> (f32, f32) {
        match self {
            Figure::Stripes | Figure::Ripples => (0.17, 0.32),
            Figure::Zigzags => (0.22, 0.34),
            Figure::Checks | Figure::Blobs => (0.30, 0.50),
            Figure::Grids => (0.24, 0.40),
            Figure::Discs | Figure::Triangles | Figure::Crosses => (0.30, 0.46),
            Figure::Rings => (0.36, 0.50),
        }
    }
}

/// One figure with its sizes drawn.
pub(super) struct Texture {
    figure: Figure,
    /// Length of a period as a part of the image's side.
    pub(super) period: f32,
    /// Between 0 and 1: how thick the figure is within what is typical of it.
    weight: f32,
    /// How far each row of a lattice is moved against the one before, in periods.
    row_shift: f32,
    /// Wave numbers in the two directions, and phase, of the waves that make up the blobs.
    waves: [(f32, f32, f32); WAVES],
}

impl Texture {
    pub(super) fn draw(figure: Figure, stream: &mut Stream) -> Texture {
        let (shortest, longest) = figure.periods();
        let period = stream.between(shortest, longest);
        let weight = stream.between(0.0, 1.0);
        let row_shift = if stream.below(2) == 0 { 0.0 } else { 0.5 };
        let mut waves = [(0.0, 0.0, 0.0); WAVES];
        for wave in &mut waves {
            let (sine, cosine) = stream.between(0.0, TAU).sin_cos();
            *wave = (TAU * cosine, TAU * sine, stream.between(0.0, TAU));
        }
        Texture { figure, period, weight, row_shift, waves }
    }

    /// Signed distance, in periods, from the point `(x, y)` to the edge of the figure: negative inside.
    pub(super) fn distance(&self, x: f32, y: f32) -> f32 {
        let thickness = |thin: f32, thick: f32| thin + self.weight * (thick - thin);
        match self.figure {
            Figure::Stripes => stripe(x, thickness(0.18, 0.30)),
            Figure::Ripples => stripe(x.hypot(y), thickness(0.18, 0.30)),
            Figure::Zigzags => {
                // Straight lines at 45 degrees: the height of a zigzag equals half its width, and distances across
                // the line shrink by the square root of two.
                let width = 1.7;
                let position = x / width;
                let height = (position - position.round()).abs() * width;
                stripe(y + height, thickness(0.18, 0.30)) * std::f32::consts::FRAC_1_SQRT_2
            }
            Figure::Checks => {
                let (across, along) = (stripe(x, 0.25), stripe(y, 0.25));
                // Inside exactly one of two sets of stripes.
                across.min(along).max(-across.max(along))
            }
            Figure::Grids => stripe(x, 0.0).min(stripe(y, 0.0)) - thickness(0.08, 0.14),
            Figure::Discs | Figure::Rings | Figure::Triangles | Figure::Crosses => self.lattice_distance(x, y),
            Figure::Blobs => {
                let mut sum = 0.0;
                for (across, along, phase) in self.waves {
                    sum += (across * x + along * y + phase).sin();
                }
                // Divided by the root mean square of its slope, the sum is close to a distance near its zeros.
                sum / (TAU * (WAVES as f32 / 2.0).sqrt())
            }
        }
    }

    /// The same for figures of which every cell of a lattice holds one.
    fn lattice_distance(&self, x: f32, y: f32) -> f32 {
        let row = y.round();
        let x = x + self.row_shift * row;
        let (x, y) = (x - x.round(), y - row);
        let thickness = |thin: f32, thick: f32| thin + self.weight * (thick - thin);
        match self.figure {
            Figure::Rings => (x.hypot(y) - 0.32).abs() - thickness(0.07, 0.11),
            Figure::Triangles => {
                // Inside three half planes at the same distance from the centre.
                let y = y + 0.06;
                (-y).max(0.866 * x.abs() + 0.5 * y) - thickness(0.20, 0.25)
            }
            Figure::Crosses => {
                let (long, short) = (x.abs().max(y.abs()), x.abs().min(y.abs()));
                (short - thickness(0.08, 0.13)).max(long - 0.40)
            }
            _ => x.hypot(y) - thickness(0.27, 0.38),
        }
    }
}

/// Signed distance to the nearest of the stripes around every whole number, which reach `half_width` to each side.
fn stripe(position: f32, half_width: f32) -> f32 {
    (position - position.round()).abs() - half_width
}
