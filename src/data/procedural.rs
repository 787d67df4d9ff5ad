//! Procedural images: a built-in data set for runs without any download.

use std::f32::consts::TAU;

use tch::Tensor;

use super::Dataset;
use super::figure::{Figure, NAMES, Texture};
use crate::error::{Error, Result, check_in};
use crate::numbers::range;
use crate::random::Stream;

/// Smallest side at which a texture is more than a few pixels.
const MIN_SIZE: i64 = 8;

/// Memory limit of a set: 1.4 million images of 32 x 32 pixels.
const MAX_BYTES: i64 = 1 << 32;

/// Smallest difference in brightness, of a full range of 1, between a figure and its background: the figure must
/// survive grayscale.
const MIN_CONTRAST: f32 = 0.3;

/// Makes `count` images of `image_size` x `image_size` pixels in ten classes.
///
/// The class of an image is its texture: stripes, zigzags, checks, grids, discs, rings, triangles, crosses, ripples or
/// blobs. Colors, scale, rotation, position, bending, lighting, noise and the objects in front are random and carry no
/// information about the class. A crop of a fifth of the area still shows the class, and so does a mirrored or gray
/// image, while the nearest neighbors in pixel space mostly have another class.
///
/// Image `i` has label `i mod 10`, so every prefix is balanced to within one image. It depends only on `(seed, i)` and
/// the size: a larger set starts with the images of a smaller one. Use another seed for the test set.
///
/// The images are `[count, 3, image_size, image_size]`, red, green, blue, on the CPU. From 24 pixels on, the classes
/// are easy to tell apart by eye.
///
/// # Errors
///
/// [`Error::Value`] unless `count >= 1` and `image_size >= 8`, or if the images exceed 4 GiB or the memory.
pub fn procedural(count: i64, image_size: i64, seed: u64) -> Result<Dataset> {
    check_in("count", count, 1..)?;
    check_in("image_size", image_size, MIN_SIZE..)?;
    let mut pixels = reserve(count, image_size)?;
    for index in 0..count {
        let figure = Figure::ALL[index as usize % Figure::ALL.len()];
        let scene = Scene::draw(figure, &mut Stream::new(seed, index as u64));
        scene.paint(image_size as usize, &mut pixels);
    }
    let images = Tensor::f_from_slice(&pixels)?.f_view([count, 3, image_size, image_size])?;
    let labels = range(count, tch::Device::Cpu)?.f_remainder_(Figure::ALL.len() as i64)?;
    Ok(Dataset { images, labels, class_names: NAMES.map(str::to_owned).to_vec() })
}

/// An empty buffer with room for all pixels. The fixed limit is needed because some systems promise memory that they do
/// not have.
fn reserve(count: i64, image_size: i64) -> Result<Vec<u8>> {
    let too_many =
        || Error::Value { name: "count", expected: "few enough to fit in memory".to_owned(), actual: count as f64 };
    let bytes = image_size.checked_mul(image_size).and_then(|area| area.checked_mul(3)?.checked_mul(count));
    let bytes = bytes.filter(|bytes| *bytes <= MAX_BYTES).ok_or_else(too_many)? as usize;
    let mut pixels = Vec::new();
    pixels.try_reserve_exact(bytes).map_err(|_| too_many())?;
    Ok(pixels)
}

/// Largest deviation of a color channel from gray.
const TINT: f32 = 0.25;

/// Red, green and blue from 0 to 1.
type Color = [f32; 3];

/// Everything random about an image except the noise of its pixels.
///
/// Lengths are in units of the image's side; the image spans -0.5 to 0.5 in both directions.
struct Scene {
    texture: Texture,
    /// Origin of the texture, and its rotation as sine and cosine.
    center: (f32, f32),
    rotation: (f32, f32),
    /// Amplitude and phases of the bending of the texture's plane.
    bend: (f32, f32, f32),
    figure_color: Color,
    background: Color,
    /// Brightness gradient in both directions.
    light: (f32, f32),
    distractors: Vec<Distractor>,
    /// Largest change of a pixel by noise, and the seed of the noise.
    noise: f32,
    noise_seed: u64,
}

/// A small plain ellipse in front of the texture.
struct Distractor {
    center: (f32, f32),
    rotation: (f32, f32),
    radii: (f32, f32),
    color: Color,
}

impl Scene {
    fn draw(figure: Figure, stream: &mut Stream) -> Scene {
        let texture = Texture::draw(figure, stream);
        let (figure_color, background) = contrasting_colors(stream);
        let distractors = (0..1 + stream.below(3)).map(|_| Distractor::draw(stream)).collect();
        Scene {
            texture,
            center: (stream.between(-0.4, 0.4), stream.between(-0.4, 0.4)),
            rotation: stream.between(0.0, TAU).sin_cos(),
            bend: (stream.between(0.0, 0.03), stream.between(0.0, TAU), stream.between(0.0, TAU)),
            figure_color,
            background,
            light: (stream.between(-0.3, 0.3), stream.between(-0.3, 0.3)),
            distractors,
            noise: stream.between(0.0, 0.08),
            noise_seed: stream.bits(),
        }
    }

    /// Appends the image to `pixels`: the red, green and blue planes.
    fn paint(&self, size: usize, pixels: &mut Vec<u8>) {
        let area = size * size;
        let start = pixels.len();
        pixels.resize(start + 3 * area, 0);
        let image = &mut pixels[start..];
        let mut noise = Stream::new(self.noise_seed, 0);
        // The bend along one axis depends on the other axis only.
        let place = |pixel: usize| (pixel as f32 + 0.5) / size as f32 - 0.5;
        let bends: Vec<f32> = (0..size).map(|column| self.bend.0 * (TAU * place(column) + self.bend.2).sin()).collect();
        for row in 0..size {
            let y = place(row);
            let bend = self.bend.0 * (TAU * y + self.bend.1).sin();
            for (column, other_bend) in bends.iter().enumerate() {
                let x = place(column);
                let color = self.color(x, y, (bend, *other_bend), size as f32);
                let bits = noise.bits();
                for channel in 0..3 {
                    let unit = ((bits >> (16 * channel)) & 0xFFFF) as f32 / 32_768.0 - 1.0;
                    let value = (color[channel] + self.noise * unit) * 255.0;
                    // `as` saturates to 0..=255.
                    image[channel * area + row * size + column] = (value + 0.5) as u8;
                }
            }
        }
    }

    /// The color at a point; edges are antialiased over the width of a pixel.
    fn color(&self, x: f32, y: f32, bend: (f32, f32), size: f32) -> Color {
        let (across, along) = (x + bend.0 - self.center.0, y + bend.1 - self.center.1);
        let (sine, cosine) = self.rotation;
        let period = self.texture.period;
        let distance =
            self.texture.distance((cosine * across - sine * along) / period, (sine * across + cosine * along) / period);
        let mut color = blend(self.background, self.figure_color, 0.5 - distance * period * size);
        let light = self.light.0 * x + self.light.1 * y;
        for channel in &mut color {
            *channel += light;
        }
        for distractor in &self.distractors {
            let cover = 0.5 - distractor.distance(x, y) * size;
            if cover > 0.0 {
                color = blend(color, distractor.color, cover);
            }
        }
        color
    }
}

impl Distractor {
    fn draw(stream: &mut Stream) -> Distractor {
        Distractor {
            center: (stream.between(-0.5, 0.5), stream.between(-0.5, 0.5)),
            rotation: stream.between(0.0, TAU).sin_cos(),
            radii: (stream.between(0.03, 0.08), stream.between(0.05, 0.20)),
            color: random_color(stream),
        }
    }

    /// Approximate signed distance to the ellipse, accurate near its edge.
    fn distance(&self, x: f32, y: f32) -> f32 {
        let (x, y) = (x - self.center.0, y - self.center.1);
        let (sine, cosine) = self.rotation;
        let across = (cosine * x - sine * y) / self.radii.0;
        let along = (sine * x + cosine * y) / self.radii.1;
        (across.hypot(along) - 1.0) * self.radii.0.min(self.radii.1)
    }
}

fn blend(below: Color, above: Color, cover: f32) -> Color {
    let cover = cover.clamp(0.0, 1.0);
    let mix = |channel: usize| below[channel] + cover * (above[channel] - below[channel]);
    [mix(0), mix(1), mix(2)]
}

/// A tinted gray. Fully random colors would be the easiest way to tell images apart.
fn random_color(stream: &mut Stream) -> Color {
    let gray = stream.between(0.1, 0.9);
    let mut tinted = || (gray + stream.between(-TINT, TINT)).clamp(0.0, 1.0);
    [tinted(), tinted(), tinted()]
}

/// Two colors that differ in brightness, too.
fn contrasting_colors(stream: &mut Stream) -> (Color, Color) {
    // Perceived brightness (ITU-R BT.601).
    let brightness = |color: Color| 0.299 * color[0] + 0.587 * color[1] + 0.114 * color[2];
    let first = random_color(stream);
    // All 32 attempts failing is next to impossible; then black or white is far enough away.
    for _ in 0..32 {
        let second = random_color(stream);
        if (brightness(first) - brightness(second)).abs() >= MIN_CONTRAST {
            return (first, second);
        }
    }
    (first, if brightness(first) < 0.5 { [1.0; 3] } else { [0.0; 3] })
}
