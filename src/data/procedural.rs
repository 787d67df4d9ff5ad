//! Built-in images, for a run without any data set.

use std::f32::consts::TAU;

use tch::Tensor;

use super::Dataset;
use super::figure::{Figure, NAMES, Texture};
use crate::error::{Error, Result};
use crate::numbers::range;
use crate::random::Stream;

/// Smallest side on which a texture is more than a few pixels.
const SMALLEST_SIZE: i64 = 8;

/// No set takes more memory: 1.4 million images of 32 x 32 pixels.
const MOST_BYTES: i64 = 1 << 32;

/// Least difference in brightness, of a full range of 1, between a figure and its background: it has to outlive the
/// loss of colour.
const LEAST_CONTRAST: f32 = 0.3;

/// Makes `count` images of `image_size` by `image_size` pixels in ten classes.
///
/// Each image is filled with one of ten textures (stripes, zigzags, checks, grids, discs, rings, triangles, crosses,
/// ripples, blobs), which is its class; colours, scale, rotation, position, bending, lighting, noise and the things in
/// front are drawn at random and say nothing about the class. A crop of a fifth of the area still shows the class, and
/// so do a mirror image and a grey one, while neighbours in pixel space mostly have another.
///
/// Image `i` has label `i mod 10`, so every prefix is balanced to within one image. It is a function of `(seed, i)` and
/// of the size: a larger set begins with the images of a smaller one. Give a test set another seed.
///
/// The images are `[count, 3, image_size, image_size]`, red, green, blue, on the CPU. From 24 pixels on, the classes
/// are easy to tell by eye.
///
/// # Errors
///
/// [`Error::Value`] unless `count >= 1` and `image_size >= 8`, or if the images take more than 4 GiB or do not fit in
/// memory.
pub fn procedural(count: i64, image_size: i64, seed: u64) -> Result<Dataset> {
    if count < 1 {
        return Err(Error::Value { name: "count", expected: "at least 1".to_owned(), actual: count as f64 });
    }
    if image_size < SMALLEST_SIZE {
        let expected = format!("at least {SMALLEST_SIZE}");
        return Err(Error::Value { name: "image_size", expected, actual: image_size as f64 });
    }
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

/// Room for all pixels, or an error where it would take more than there is or more than anyone wants: some systems
/// promise memory that they do not have.
fn reserve(count: i64, image_size: i64) -> Result<Vec<u8>> {
    let too_many =
        || Error::Value { name: "count", expected: "few enough to fit in memory".to_owned(), actual: count as f64 };
    let bytes = image_size.checked_mul(image_size).and_then(|area| area.checked_mul(3)?.checked_mul(count));
    let bytes = bytes.filter(|bytes| *bytes <= MOST_BYTES).ok_or_else(too_many)? as usize;
    let mut pixels = Vec::new();
    pixels.try_reserve_exact(bytes).map_err(|_| too_many())?;
    Ok(pixels)
}

/// Largest difference of a colour channel from grey.
const TINT: f32 = 0.25;

/// Red, green and blue from 0 to 1.
type Colour = [f32; 3];

/// Everything that is random about an image, except the noise of its pixels.
///
/// Lengths are parts of the image's side; the image reaches from -0.5 to 0.5 in both directions.
struct Scene {
    texture: Texture,
    /// Where the texture has its origin, and its rotation as sine and cosine.
    centre: (f32, f32),
    rotation: (f32, f32),
    /// Height and phases of the bends of the plane that the texture lies in.
    bend: (f32, f32, f32),
    figure_colour: Colour,
    background: Colour,
    /// Change in brightness across the image, in both directions.
    light: (f32, f32),
    distractors: Vec<Distractor>,
    /// Largest change of a pixel by noise, and where the noise starts.
    noise: f32,
    noise_seed: u64,
}

/// A small plain ellipse in front of the texture.
struct Distractor {
    centre: (f32, f32),
    rotation: (f32, f32),
    radii: (f32, f32),
    colour: Colour,
}

impl Scene {
    fn draw(figure: Figure, stream: &mut Stream) -> Scene {
        let texture = Texture::draw(figure, stream);
        let (figure_colour, background) = contrasting_colours(stream);
        let distractors = (0..1 + stream.below(3)).map(|_| Distractor::draw(stream)).collect();
        Scene {
            texture,
            centre: (stream.between(-0.4, 0.4), stream.between(-0.4, 0.4)),
            rotation: stream.between(0.0, TAU).sin_cos(),
            bend: (stream.between(0.0, 0.03), stream.between(0.0, TAU), stream.between(0.0, TAU)),
            figure_colour,
            background,
            light: (stream.between(-0.3, 0.3), stream.between(-0.3, 0.3)),
            distractors,
            noise: stream.between(0.0, 0.08),
            noise_seed: stream.bits(),
        }
    }

    /// Appends the image to `pixels`: the red plane, the green, the blue.
    fn paint(&self, size: usize, pixels: &mut Vec<u8>) {
        let area = size * size;
        let start = pixels.len();
        pixels.resize(start + 3 * area, 0);
        let image = &mut pixels[start..];
        let mut noise = Stream::new(self.noise_seed, 0);
        // Along each axis the bend depends on the other one alone.
        let place = |pixel: usize| (pixel as f32 + 0.5) / size as f32 - 0.5;
        let bends: Vec<f32> = (0..size).map(|column| self.bend.0 * (TAU * place(column) + self.bend.2).sin()).collect();
        for row in 0..size {
            let y = place(row);
            let bend = self.bend.0 * (TAU * y + self.bend.1).sin();
            for (column, other_bend) in bends.iter().enumerate() {
                let x = place(column);
                let colour = self.colour(x, y, (bend, *other_bend), size as f32);
                let bits = noise.bits();
                for channel in 0..3 {
                    let unit = ((bits >> (16 * channel)) & 0xFFFF) as f32 / 32_768.0 - 1.0;
                    let value = (colour[channel] + self.noise * unit) * 255.0;
                    // `as` keeps to 0..=255.
                    image[channel * area + row * size + column] = (value + 0.5) as u8;
                }
            }
        }
    }

    /// The colour at a point; an edge is blended over the width of a pixel.
    fn colour(&self, x: f32, y: f32, bend: (f32, f32), size: f32) -> Colour {
        let (across, along) = (x + bend.0 - self.centre.0, y + bend.1 - self.centre.1);
        let (sine, cosine) = self.rotation;
        let period = self.texture.period;
        let distance =
            self.texture.distance((cosine * across - sine * along) / period, (sine * across + cosine * along) / period);
        let mut colour = blend(self.background, self.figure_colour, 0.5 - distance * period * size);
        let light = self.light.0 * x + self.light.1 * y;
        for channel in &mut colour {
            *channel += light;
        }
        for distractor in &self.distractors {
            let cover = 0.5 - distractor.distance(x, y) * size;
            if cover > 0.0 {
                colour = blend(colour, distractor.colour, cover);
            }
        }
        colour
    }
}

impl Distractor {
    fn draw(stream: &mut Stream) -> Distractor {
        Distractor {
            centre: (stream.between(-0.5, 0.5), stream.between(-0.5, 0.5)),
            rotation: stream.between(0.0, TAU).sin_cos(),
            radii: (stream.between(0.03, 0.08), stream.between(0.05, 0.20)),
            colour: random_colour(stream),
        }
    }

    /// Signed distance to the ellipse, close to exact near its edge.
    fn distance(&self, x: f32, y: f32) -> f32 {
        let (x, y) = (x - self.centre.0, y - self.centre.1);
        let (sine, cosine) = self.rotation;
        let across = (cosine * x - sine * y) / self.radii.0;
        let along = (sine * x + cosine * y) / self.radii.1;
        (across.hypot(along) - 1.0) * self.radii.0.min(self.radii.1)
    }
}

fn blend(below: Colour, above: Colour, cover: f32) -> Colour {
    let cover = cover.clamp(0.0, 1.0);
    let mix = |channel: usize| below[channel] + cover * (above[channel] - below[channel]);
    [mix(0), mix(1), mix(2)]
}

/// A grey with a tint: were the colours as different as they can be, they would be the easiest thing to tell images
/// apart by.
fn random_colour(stream: &mut Stream) -> Colour {
    let grey = stream.between(0.1, 0.9);
    let mut tinted = || (grey + stream.between(-TINT, TINT)).clamp(0.0, 1.0);
    [tinted(), tinted(), tinted()]
}

/// Two colours that a grey image can tell apart.
fn contrasting_colours(stream: &mut Stream) -> (Colour, Colour) {
    // The usual weights of the three channels in perceived brightness.
    let brightness = |colour: Colour| 0.299 * colour[0] + 0.587 * colour[1] + 0.114 * colour[2];
    let first = random_colour(stream);
    // Bounded: all tries failing is next to impossible, and then black or white is far enough away.
    for _ in 0..32 {
        let second = random_colour(stream);
        if (brightness(first) - brightness(second)).abs() >= LEAST_CONTRAST {
            return (first, second);
        }
    }
    (first, if brightness(first) < 0.5 { [1.0; 3] } else { [0.0; 3] })
}
