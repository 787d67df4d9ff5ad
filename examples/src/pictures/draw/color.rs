//! Colors of all pictures.

use plotters::style::RGBColor;

pub(crate) const WHITE: RGBColor = RGBColor(255, 255, 255);
/// Titles and numbers.
pub(crate) const INK: RGBColor = RGBColor(34, 34, 34);
/// Explanations.
pub(crate) const FAINT: RGBColor = RGBColor(90, 90, 90);
/// Frames and grids.
pub(crate) const LINE: RGBColor = RGBColor(222, 222, 222);

// From Okabe and Ito's palette, which color-blind readers can tell apart.
pub(crate) const BLUE: RGBColor = RGBColor(0, 114, 178);
pub(crate) const ORANGE: RGBColor = RGBColor(230, 159, 0);
pub(crate) const GREEN: RGBColor = RGBColor(0, 158, 115);
pub(crate) const RED: RGBColor = RGBColor(213, 94, 0);
pub(crate) const PURPLE: RGBColor = RGBColor(204, 121, 167);
const SKY: RGBColor = RGBColor(86, 180, 233);
const GRAY: RGBColor = RGBColor(150, 150, 150);

/// Colors of lines that share a plot, in the order of use.
pub(crate) const COLORS: [RGBColor; 8] = [BLUE, ORANGE, GREEN, RED, PURPLE, INK, SKY, GRAY];

/// From white at 0 to dark blue at 1. Brightness falls all the way, so the scale is readable without hue.
pub(crate) fn shade(share: f64) -> RGBColor {
    let share = if share.is_finite() { share.clamp(0.0, 1.0) } else { 0.0 };
    blend(WHITE, RGBColor(8, 69, 148), share)
}

/// The color at `share` of the way from one color to another.
pub(crate) fn blend(from: RGBColor, to: RGBColor, share: f64) -> RGBColor {
    let mix = |from: u8, to: u8| (f64::from(from) + (f64::from(to) - f64::from(from)) * share).round() as u8;
    RGBColor(mix(from.0, to.0), mix(from.1, to.1), mix(from.2, to.2))
}

#[cfg(test)]
mod tests {
    use super::*;

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
