//! The ten textures of the built-in images, one per class.

use std::f32::consts::TAU;

use crate::random::Stream;

/// Class names; a label is a position in this list and in [`Figure::ALL`].
pub(super) const NAMES: [&str; 10] =
    ["stripes", "zigzags", "checks", "grids", "discs", "rings", "triangles", "crosses", "ripples", "blobs"];

/// Number of plane waves that add up to the blobs.
const WAVES: usize = 5;

/// A texture. Rotation, translation, scaling and mirroring turn none of them into another.
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

    /// Range of the period in units of the image's side: short enough that a crop of a fifth of the area shows a whole
    /// period, long enough that 32 pixels show its shape.
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

/// A figure with its random sizes.
pub(super) struct Texture {
    figure: Figure,
    /// Length of a period in units of the image's side.
    pub(super) period: f32,
    /// Thickness within the figure's range, from 0 to 1.
    weight: f32,
    /// Offset of each row of a lattice against the row before, in periods.
    row_shift: f32,
    /// Wave numbers in both directions and phase of the waves that add up to the blobs.
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
                // Lines at 45 degrees: the height of a zigzag equals half its width, and distances across the line
                // shrink by the square root of two.
                let width = 1.7;
                let position = x / width;
                let height = (position - position.round()).abs() * width;
                stripe(y + height, thickness(0.18, 0.30)) * std::f32::consts::FRAC_1_SQRT_2
            }
            Figure::Checks => {
                let (across, along) = (stripe(x, 0.25), stripe(y, 0.25));
                // Inside exactly one of the two sets of stripes.
                across.min(along).max(-across.max(along))
            }
            Figure::Grids => stripe(x, 0.0).min(stripe(y, 0.0)) - thickness(0.08, 0.14),
            Figure::Discs | Figure::Rings | Figure::Triangles | Figure::Crosses => self.lattice_distance(x, y),
            Figure::Blobs => {
                let mut sum = 0.0;
                for (across, along, phase) in self.waves {
                    sum += (across * x + along * y + phase).sin();
                }
                // Near its zeros, the sum divided by the root mean square of its slope approximates a distance.
                sum / (TAU * (WAVES as f32 / 2.0).sqrt())
            }
        }
    }

    /// [`Texture::distance`] for figures that repeat in the cells of a lattice.
    fn lattice_distance(&self, x: f32, y: f32) -> f32 {
        let row = y.round();
        let x = x + self.row_shift * row;
        let (x, y) = (x - x.round(), y - row);
        let thickness = |thin: f32, thick: f32| thin + self.weight * (thick - thin);
        match self.figure {
            Figure::Rings => (x.hypot(y) - 0.32).abs() - thickness(0.07, 0.11),
            Figure::Triangles => {
                // The intersection of three half planes at equal distance from the center.
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

/// Signed distance to the nearest stripe; stripes are centered on the integers and reach `half_width` to each side.
fn stripe(position: f32, half_width: f32) -> f32 {
    (position - position.round()).abs() - half_width
}
