//! A white picture to draw on, with text placed to the pixel.

use std::io::Cursor;
use std::path::Path;

use image::{ImageFormat, RgbImage};
use patchmix::checkpoint::write_atomic;
use plotters::coord::Shift;
use plotters::element::{Drawable, PointCollection};
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};
use plotters::style::{FontStyle, register_font};

use super::color::{INK, LINE, shade};
use crate::Result;

const FONT: &str = "sans-serif";

/// Which part of a text its position refers to.
#[derive(Clone, Copy)]
pub(crate) enum Align {
    Left,
    Center,
    Right,
}

impl Align {
    fn anchor(self) -> Pos {
        let horizontal = match self {
            Self::Left => HPos::Left,
            Self::Center => HPos::Center,
            Self::Right => HPos::Right,
        };
        Pos::new(horizontal, VPos::Top)
    }
}

/// Writes a picture as a PNG file.
pub(crate) fn save(picture: &RgbImage, path: &Path) -> Result<()> {
    let mut file = Cursor::new(Vec::new());
    picture.write_to(&mut file, ImageFormat::Png)?;
    Ok(write_atomic(path, file.get_ref())?)
}

/// Draws into the pixels of an image. Coordinates are in pixels from the upper left corner.
pub(crate) struct Canvas<'a>(DrawingArea<BitMapBackend<'a>, Shift>);

impl<'a> Canvas<'a> {
    /// Creates a white image, lets `draw` fill it and writes it to `path`.
    pub(crate) fn write(path: &Path, size: (i32, i32), draw: impl FnOnce(&Canvas<'_>) -> Result<()>) -> Result<()> {
        save(&Canvas::paint(size, draw)?, path)
    }

    /// Creates a white image and lets `draw` fill it.
    pub(crate) fn paint((width, height): (i32, i32), draw: impl FnOnce(&Canvas<'_>) -> Result<()>) -> Result<RgbImage> {
        // The font is built in, so that pictures look the same on machines with other fonts or none.
        register_font(FONT, FontStyle::Normal, epaint_default_fonts::UBUNTU_LIGHT)
            .map_err(|_| "the built-in font cannot be read")?;
        let (width, height) = (u32::try_from(width)?, u32::try_from(height)?);
        let mut pixels = vec![255; width as usize * height as usize * 3];
        {
            let canvas = Canvas(BitMapBackend::with_buffer(&mut pixels, (width, height)).into_drawing_area());
            draw(&canvas)?;
            canvas.0.present().map_err(|error| error.to_string())?;
        }
        Ok(RgbImage::from_raw(width, height, pixels).ok_or("the picture has the wrong number of pixels")?)
    }

    /// A text whose capital letters are centered on the height `y`.
    pub(crate) fn text(&self, text: &str, (x, y): (i32, i32), size: i32, color: RGBColor, align: Align) -> Result<()> {
        let style = (FONT, size).into_font().color(&color).pos(align.anchor());
        // The baseline lies half a size below the given place, and capitals are 0.6 sizes high.
        self.element(Text::new(text.to_owned(), (x, y - size / 5), style))
    }

    /// The name of a class or of a run in ink, shortened to `width` pixels.
    pub(crate) fn name(&self, name: &str, place: (i32, i32), width: i32, size: i32) -> Result<()> {
        self.text(&self.shortened(name, width, size)?, place, size, INK, Align::Left)
    }

    /// Width of a text in pixels.
    pub(crate) fn text_width(&self, text: &str, size: i32) -> Result<i32> {
        let style = (FONT, size).into_text_style(&self.0);
        let (width, _) = self.0.estimate_text_size(text, &style).map_err(|error| error.to_string())?;
        Ok(i32::try_from(width)?)
    }

    /// `text` wrapped into lines of at most `width` pixels; a longer word gets a line of its own.
    pub(crate) fn lines(&self, text: &str, width: i32, size: i32) -> Result<Vec<String>> {
        let mut lines: Vec<String> = Vec::new();
        for word in text.split_whitespace() {
            match lines.last_mut() {
                Some(line) if self.text_width(&format!("{line} {word}"), size)? <= width => {
                    line.push(' ');
                    line.push_str(word);
                }
                _ => lines.push(word.to_owned()),
            }
        }
        Ok(lines)
    }

    /// `text`, with its middle replaced by `…` if it is wider than `width` pixels.
    fn shortened(&self, text: &str, width: i32, size: i32) -> Result<String> {
        let letters: Vec<char> = text.chars().collect();
        let mut short = text.to_owned();
        let mut kept = letters.len();
        while kept > 2 && self.text_width(&short, size)? > width {
            kept -= 1;
            let (start, end) = (&letters[..kept.div_ceil(2)], &letters[letters.len() - kept / 2..]);
            short = start.iter().chain(&['…']).chain(end).collect();
        }
        Ok(short)
    }

    /// A filled rectangle of `size` pixels.
    pub(crate) fn fill(&self, (x, y): (i32, i32), size: (i32, i32), color: RGBColor) -> Result<()> {
        // plotters excludes the second corner from a filled rectangle, and includes it in an outline.
        self.element(Rectangle::new([(x, y), (x + size.0, y + size.1)], color.filled()))
    }

    /// The outline just outside a rectangle of `size` pixels.
    pub(crate) fn frame(&self, (x, y): (i32, i32), size: (i32, i32), color: RGBColor) -> Result<()> {
        self.element(Rectangle::new([(x - 1, y - 1), (x + size.0, y + size.1)], color.stroke_width(1)))
    }

    /// A line `width` pixels wide along the inner edge of a rectangle of `size` pixels.
    pub(crate) fn outline(&self, (x, y): (i32, i32), size: (i32, i32), width: i32, color: RGBColor) -> Result<()> {
        for inner in 0..width {
            let size = (size.0 - 2 * inner - 2, size.1 - 2 * inner - 2);
            self.frame((x + inner + 1, y + inner + 1), size, color)?;
        }
        Ok(())
    }

    /// The color scale of [`shade`], from 0 at the left to 1 at the right.
    pub(crate) fn scale(&self, (left, top): (i32, i32), (width, height): (i32, i32)) -> Result<()> {
        for x in 0..width {
            self.fill((left + x, top), (1, height), shade(f64::from(x) / f64::from(width - 1)))?;
        }
        self.frame((left, top), (width, height), LINE)
    }

    /// A line through these points.
    pub(crate) fn line(&self, points: &[(i32, i32)], width: u32, color: RGBColor) -> Result<()> {
        // Piece by piece: the mitered corners of a single path get spikes where its points lie a pixel apart.
        for piece in points.windows(2) {
            self.element(PathElement::new(piece.to_vec(), color.stroke_width(width)))?;
        }
        Ok(())
    }

    /// A horizontal dashed line.
    pub(crate) fn dashes(&self, (left, right): (i32, i32), y: i32, color: RGBColor) -> Result<()> {
        for x in (left..right).step_by(12) {
            self.fill((x, y - 1), (7.min(right - x), 3), color)?;
        }
        Ok(())
    }

    /// A filled circle.
    pub(crate) fn dot(&self, center: (i32, i32), radius: i32, color: RGBColor) -> Result<()> {
        self.element(Circle::new(center, radius, color.filled()))
    }

    /// A filled polygon.
    pub(crate) fn polygon(&self, corners: &[(i32, i32)], color: RGBColor) -> Result<()> {
        self.element(Polygon::new(corners.to_vec(), color.filled()))
    }

    fn element<E>(&self, element: E) -> Result<()>
    where
        for<'b> &'b E: PointCollection<'b, (i32, i32)>,
        E: Drawable<BitMapBackend<'a>>,
    {
        // The backend's error type is not `'static`, although it borrows nothing.
        self.0.draw(&element).map_err(|error| error.to_string().into())
    }
}
