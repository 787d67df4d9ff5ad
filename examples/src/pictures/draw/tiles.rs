//! Images enlarged until their pixels are visible.

use plotters::style::RGBColor;
use tch::{Device, Kind, Tensor};

use super::canvas::Canvas;
use crate::Result;

/// Images of bytes scaled to squares, the size that an encoder takes.
pub(crate) fn resized(images: &Tensor, side: i64) -> Result<Tensor> {
    if images.size()[2..] == [side, side] {
        return Ok(images.shallow_clone());
    }
    let scaled = images.f_to_kind(Kind::Float)?.f_internal_upsample_bicubic2d_aa([side, side], false, None, None)?;
    Ok(scaled.f_round()?.f_clamp(0.0, 255.0)?.f_to_kind(Kind::Uint8)?)
}

/// Images as bytes, and their shape.
pub(crate) struct Tiles {
    pixels: Vec<u8>,
    pub(crate) count: i64,
    pub(crate) height: i32,
    pub(crate) width: i32,
}

impl Tiles {
    /// Copies images `[N, 3, H, W]` of bytes; `name` appears in errors.
    pub(crate) fn new(images: &Tensor, name: &str) -> Result<Self> {
        let shape = images.size();
        let &[count @ 1..=i64::MAX, 3, height @ 1..=4096, width @ 1..=4096] = shape.as_slice() else {
            return Err(format!("{name} have shape {shape:?}, expected [N, 3, H, W] with sides up to 4096").into());
        };
        if images.kind() != Kind::Uint8 {
            return Err(format!("{name} are {:?}, expected Uint8", images.kind()).into());
        }
        let flat = images.f_to_device(Device::Cpu)?.f_contiguous()?.f_view([-1])?;
        Ok(Self { pixels: Vec::try_from(flat)?, count, height: height as i32, width: width as i32 })
    }

    pub(crate) fn pixel(&self, image: usize, x: i32, y: i32) -> RGBColor {
        let plane = (self.height * self.width) as usize;
        let start = image * 3 * plane + (y * self.width + x) as usize;
        RGBColor(self.pixels[start], self.pixels[start + plane], self.pixels[start + 2 * plane])
    }

    /// How to enlarge or subsample the images to a longest side of about `side` pixels.
    pub(crate) fn scale(&self, side: i32) -> Scale {
        let longest = self.height.max(self.width);
        let (zoom, step) = ((side / longest).max(1), (longest + 2 * side - 1) / (2 * side));
        Scale { zoom, step, size: (self.width / step * zoom, self.height / step * zoom) }
    }

    /// Draws one image with its upper left corner at `place`.
    pub(crate) fn draw(&self, canvas: &Canvas<'_>, image: usize, place: (i32, i32), scale: Scale) -> Result<()> {
        self.draw_as(canvas, image, place, scale, |_, _, color| color)
    }

    /// Draws one image; `recolor` maps the column, row and color of each pixel to the color drawn.
    pub(crate) fn draw_as(
        &self,
        canvas: &Canvas<'_>,
        image: usize,
        (left, top): (i32, i32),
        scale: Scale,
        recolor: impl Fn(i32, i32, RGBColor) -> RGBColor,
    ) -> Result<()> {
        let Scale { zoom, step, .. } = scale;
        for y in 0..self.height / step {
            for x in 0..self.width / step {
                let (column, row) = (x * step, y * step);
                let color = recolor(column, row, self.pixel(image, column, row));
                canvas.fill((left + x * zoom, top + y * zoom), (zoom, zoom), color)?;
            }
        }
        Ok(())
    }
}

/// How the pixels of an image become pixels of a picture.
#[derive(Clone, Copy)]
pub(crate) struct Scale {
    /// Side in the picture of one drawn pixel.
    zoom: i32,
    /// Every `step`-th pixel is drawn, in both directions; above 1 for images larger than a tile.
    step: i32,
    /// Width and height of an image in the picture.
    pub(crate) size: (i32, i32),
}
