//! An animation of the method, step by step, on four images, and its key frames as a still picture.

mod layout;
mod mixing;
mod scene;
mod story;

use std::path::{Path, PathBuf};

use clap::Args;
use image::{RgbImage, imageops};
use patchmix::data::Split;
use tch::Tensor;

use super::draw::animation::Animation;
use super::draw::canvas::{Canvas, save};
use super::subject::label_list;
use crate::Result;
use crate::images::ImageOptions;
use crate::terminal::say;
use layout::{HEADER, Layout};
use mixing::{BATCH, Mixing};
use scene::draw_targets;
use story::{Step, steps};

/// Options of `explain`.
#[derive(Debug, Args)]
pub(super) struct Options {
    /// File to write the animation to (PNG); its key frames go to NAME-steps.png beside it
    #[arg(long, value_name = "FILE", default_value = "explain.png")]
    out: PathBuf,
    /// Number of images in each mixed image
    #[arg(long, value_name = "M", default_value_t = 2)]
    groups: i64,
    /// Distance in the batch between the images that are mixed
    #[arg(long, value_name = "N", default_value_t = 1, allow_negative_numbers = true)]
    mix_stride: i64,
    /// Seed for the permutation
    #[arg(long, default_value_t = 0)]
    seed: i64,
    /// Patches along each side of an image
    #[arg(long, value_name = "N", default_value_t = 4)]
    patches_per_side: i64,
    #[command(flatten)]
    images: ImageOptions,
}

/// The classes shown: zigzags, discs, triangles and crosses of the built-in images; automobile, deer, frog and horse.
const CLASSES: [usize; BATCH] = [1, 4, 6, 7];
/// Training images searched for these classes.
const SEARCHED: i64 = 1000;
/// Side of the built-in images.
const SIDE: i64 = 32;

/// Milliseconds per frame while patches move.
const TICK: u16 = 60;

/// Pixels of the picture per pixel of an image.
const ZOOM: i32 = 5;
const ZOOM_OF_STILLS: i32 = 3;

/// Writes the animation and its key frames.
pub(super) fn explain(options: &Options) -> Result<()> {
    let Options { groups, mix_stride, seed, patches_per_side, .. } = *options;
    let mixing = Mixing::new(&four_images(&options.images)?, patches_per_side, groups, mix_stride, seed)?;
    let steps = steps(&mixing);
    let animation = animate(&mixing, &steps)?;
    let bytes = animation.write(&options.out)?;
    let stills = beside(&options.out);
    save(&key_frames(&mixing, &steps)?, &stills)?;
    let (frames, seconds) = (animation.frames(), animation.seconds());
    say!("written  {}: {frames} frames, {seconds:.0} s, {} kB", options.out.display(), bytes / 1000);
    say!("written  {}: its key frames", stills.display());
    Ok(())
}

/// One image of each of four classes.
fn four_images(options: &ImageOptions) -> Result<Tensor> {
    let images = options.open_without_encoder(SIDE, SEARCHED)?.dataset(Split::Train, SEARCHED, SIDE)?;
    let labels = label_list(&images.labels)?;
    let positions = CLASSES.iter().filter_map(|class| labels.iter().position(|label| label == class));
    let positions: Vec<i64> = positions.map(|position| position as i64).collect();
    if positions.len() < BATCH {
        let advice = "choose another --dataset or a larger --limit";
        return Err(format!("explain shows the classes {CLASSES:?}, which these images lack; {advice}").into());
    }
    Ok(images.select(&positions)?.0)
}

/// `explain-steps.png` for `explain.png`.
fn beside(path: &Path) -> PathBuf {
    let name = path.file_stem().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!("{name}-steps.png"))
}

fn animate(mixing: &Mixing, steps: &[Step]) -> Result<Animation> {
    let layout = Layout::new(mixing, ZOOM, true);
    let mut animation = Animation::default();
    for step in steps {
        for tick in 1..=step.frames {
            let progress = eased(f64::from(tick) / f64::from(step.frames));
            animation.show(step.scene(progress).draw(mixing, &layout)?, TICK);
        }
        animation.show(step.scene(1.0).draw(mixing, &layout)?, step.pause);
    }
    Ok(animation)
}

/// Slow at both ends.
fn eased(time: f64) -> f64 {
    time * time * (3.0 - 2.0 * time)
}

/// The steps from cutting to the labels, two in a row.
fn key_frames(mixing: &Mixing, steps: &[Step]) -> Result<RgbImage> {
    let layout = Layout::new(mixing, ZOOM_OF_STILLS, false);
    let (width, height) = (layout.size.0 as u32, layout.size.1 as u32);
    let mut sheet = RgbImage::from_pixel(2 * width, 3 * height, image::Rgb([255; 3]));
    let last = steps.last().into_iter();
    for (index, step) in steps.iter().filter(|step| (2..7).contains(&step.number)).chain(last).enumerate() {
        let scene = step.scene(1.0);
        let frame = match step.reveal {
            // The mixed images are in the frame before.
            Some(reveal) => Canvas::paint(layout.size, |canvas| {
                scene.draw_header(canvas, &layout)?;
                draw_targets(canvas, mixing, &layout, HEADER, reveal)
            })?,
            None => scene.draw(mixing, &layout)?,
        };
        let (column, row) = (index as i64 % 2, index as i64 / 2);
        imageops::replace(&mut sheet, &frame, column * i64::from(width), row * i64::from(height));
    }
    Ok(sheet)
}

#[cfg(test)]
mod tests;
