//! A white picture to draw on, with text whose place is known to the pixel.

use std::io::Cursor;
use std::path::Path;

use image::{ImageFormat, RgbImage};
use patchmix::checkpoint::write_whole;
use plotters::coord::Shift;
use plotters::element::{Drawable, PointCollection};
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};
use plotters::style::{FontStyle, register_font};

use super::Result;

/// The colour of titles and numbers.
pub(super) const INK: RGBColor = RGBColor(34, 34, 34);
/// The colour of what only helps to read.
pub(super) const FAINT: RGBColor = RGBColor(90, 90, 90);
/// The colour of frames and grids.
pub(super) const LINE: RGBColor = RGBColor(222, 222, 222);

const FONT: &str = "sans-serif";

/// On which side of a text its place lies.
#[derive(Clone, Copy)]
pub(super) enum Align {
    Left,
    Centre,
    Right,
}

impl Align {
    fn anchor(self) -> Pos {
        let horizontal = match self {
            Self::Left => HPos::Left,
            Self::Centre => HPos::Center,
            Self::Right => HPos::Right,
        };
        Pos::new(horizontal, VPos::Top)
    }
}

/// Draws into the pixels of an image. Coordinates are pixels from the upper left corner.
pub(super) struct Canvas<'a>(DrawingArea<BitMapBackend<'a>, Shift>);

impl<'a> Canvas<'a> {
    /// Makes a white image of this size, lets `draw` fill it and writes it to `path`.
    pub(super) fn write(
        path: &Path,
        (width, height): (i32, i32),
        draw: impl FnOnce(&Canvas<'_>) -> Result<()>,
    ) -> Result<()> {
        // No font of the system is used: a machine without any draws the same picture.
        register_font(FONT, FontStyle::Normal, epaint_default_fonts::UBUNTU_LIGHT)
            .map_err(|_| "the built-in font cannot be read")?;
        let (width, height) = (u32::try_from(width)?, u32::try_from(height)?);
        let mut pixels = vec![255; width as usize * height as usize * 3];
        {
            let canvas = Canvas(BitMapBackend::with_buffer(&mut pixels, (width, height)).into_drawing_area());
            draw(&canvas)?;
            canvas.0.present().map_err(|error| error.to_string())?;
        }
        let image = RgbImage::from_raw(width, height, pixels).ok_or("the picture has the wrong number of pixels")?;
        let mut file = Cursor::new(Vec::new());
        image.write_to(&mut file, ImageFormat::Png)?;
        Ok(write_whole(path, file.get_ref())?)
    }

    /// A text whose capital letters are centred on the height `y`.
    pub(super) fn text(&self, text: &str, (x, y): (i32, i32), size: i32, color: RGBColor, align: Align) -> Result<()> {
        let style = (FONT, size).into_font().color(&color).pos(align.anchor());
        // The base line lies half a size below the place that is asked for, and capitals are 0.6 sizes high.
        self.element(Text::new(text.to_owned(), (x, y - size / 5), style))
    }

    /// How many pixels wide a text of this size is.
    pub(super) fn text_width(&self, text: &str, size: i32) -> Result<i32> {
        let style = (FONT, size).into_text_style(&self.0);
        let (width, _) = self.0.estimate_text_size(text, &style).map_err(|error| error.to_string())?;
        Ok(i32::try_from(width)?)
    }

    /// A filled rectangle of `size` pixels.
    pub(super) fn fill(&self, (x, y): (i32, i32), size: (i32, i32), color: RGBColor) -> Result<()> {
        // A filled rectangle ends before its second corner, an outline on it.
        self.element(Rectangle::new([(x, y), (x + size.0, y + size.1)], color.filled()))
    }

    /// The outline just around a rectangle of `size` pixels.
    pub(super) fn frame(&self, (x, y): (i32, i32), size: (i32, i32), color: RGBColor) -> Result<()> {
        self.element(Rectangle::new([(x - 1, y - 1), (x + size.0, y + size.1)], color.stroke_width(1)))
    }

    /// A line through these points.
    pub(super) fn line(&self, points: &[(i32, i32)], width: u32, color: RGBColor) -> Result<()> {
        // Piece by piece: the mitred corners of one path have spikes where its points lie a pixel apart.
        for piece in points.windows(2) {
            self.element(PathElement::new(piece.to_vec(), color.stroke_width(width)))?;
        }
        Ok(())
    }

    /// A horizontal line of dashes.
    pub(super) fn dashes(&self, (left, right): (i32, i32), y: i32, color: RGBColor) -> Result<()> {
        for x in (left..right).step_by(12) {
            self.fill((x, y - 1), (7.min(right - x), 3), color)?;
        }
        Ok(())
    }

    /// A filled circle.
    pub(super) fn dot(&self, centre: (i32, i32), radius: i32, color: RGBColor) -> Result<()> {
        self.element(Circle::new(centre, radius, color.filled()))
    }

    fn element<E>(&self, element: E) -> Result<()>
    where
        for<'b> &'b E: PointCollection<'b, (i32, i32)>,
        E: Drawable<BitMapBackend<'a>>,
    {
        // The error of the backend borrows nothing, but it is not `'static` in its type.
        self.0.draw(&element).map_err(|error| error.to_string().into())
    }
}
