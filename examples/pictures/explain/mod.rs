//! The method, step by step, on four images: an animation, and its key frames as a still picture.

mod layout;
mod mixing;
mod scene;

use std::path::{Path, PathBuf};

use clap::Args;
use image::{RgbImage, imageops};
use patchmix::data::Split;
use tch::Tensor;

use crate::Result;
use crate::chosen_images::ImageOptions;
use crate::pictures::animation::Animation;
use crate::pictures::canvas::{Canvas, save};
use layout::{Arrangement, HEADER, Layout};
use mixing::{BATCH, Mixing};
use scene::{Reveal, Scene};

/// Options of `explain`.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// The animated picture (PNG); its key frames go beside it, as NAME-steps.png
    #[arg(long, value_name = "FILE", default_value = "explain.png")]
    out: PathBuf,
    /// Images that a mixed image is made of
    #[arg(long, value_name = "M", default_value_t = 2)]
    groups: i64,
    /// Distance in the batch between the images that are mixed
    #[arg(long, value_name = "N", default_value_t = 1, allow_negative_numbers = true)]
    mix_stride: i64,
    /// Decides the permutation
    #[arg(long, default_value_t = 0)]
    seed: i64,
    /// Patches along each side of an image
    #[arg(long, value_name = "N", default_value_t = 4)]
    patches_per_side: i64,
    #[command(flatten)]
    images: ImageOptions,
}

/// The classes that are shown: built-in zigzags, discs, triangles and crosses; automobile, deer, frog and horse.
const CLASSES: [i64; BATCH] = [1, 4, 6, 7];

/// Milliseconds between two pictures while something moves.
const TICK: u16 = 60;

/// Pixels of the picture for a pixel of an image.
const ZOOM: i32 = 5;
const ZOOM_OF_STILLS: i32 = 3;

/// A part of the story: the patches move, and then there is time to look.
struct Step {
    number: usize,
    title: &'static str,
    caption: String,
    from: Arrangement,
    to: Arrangement,
    /// Pictures while the patches move.
    moving: u16,
    /// Milliseconds to look.
    still: u16,
    reveal: Option<Reveal>,
}

/// Writes the animation and the still picture.
pub(crate) fn explain(options: &Options) -> Result<()> {
    let Options { groups, mix_stride, seed, patches_per_side, .. } = *options;
    let mixing = Mixing::new(&four_images(&options.images)?, patches_per_side, groups, mix_stride, seed)?;
    let steps = steps(&mixing);
    let animation = animate(&mixing, &steps)?;
    let bytes = animation.write(&options.out)?;
    let stills = beside(&options.out);
    save(&key_frames(&mixing, &steps)?, &stills)?;
    let (frames, seconds) = (animation.frames(), animation.seconds());
    println!("{}: {frames} pictures, {seconds:.0} s, {} kB", options.out.display(), bytes / 1000);
    println!("{}: its key frames", stills.display());
    Ok(())
}

/// One image of each of four classes.
fn four_images(options: &ImageOptions) -> Result<Tensor> {
    /// Enough images for every class to be among them.
    const ENOUGH: i64 = 1000;
    /// Side of the built-in images.
    const SIDE: i64 = 32;
    let images = options.without_encoder(ENOUGH, SIDE).load(Split::Train)?;
    let labels = Vec::<i64>::try_from(&images.labels)?;
    let positions = CLASSES.iter().filter_map(|class| labels.iter().position(|label| label == class));
    let positions: Vec<i64> = positions.map(|position| position as i64).collect();
    Ok(images.select(&positions)?.0)
}

/// `explain-steps.png` for `explain.png`.
fn beside(path: &Path) -> PathBuf {
    let name = path.file_stem().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!("{name}-steps.png"))
}

/// The whole story.
fn steps(mixing: &Mixing) -> Vec<Step> {
    use Arrangement::{Cut, Grouped, Mixed, Raised, Restored, Shuffled, Whole};
    let step = |number, title, caption: String, (from, to), moving, still| Step {
        number,
        title,
        caption,
        from,
        to,
        moving,
        still,
        reveal: None,
    };
    let side = mixing.side;
    let groups = mixing.group_sizes.len();
    let sources = if groups == 1 { "of one image each".to_owned() } else { format!("of {groups} images each") };
    let mut steps = vec![
        step(
            1,
            "Four images",
            "A batch. A colour for each image marks its patches wherever they go.".to_owned(),
            (Whole, Whole),
            0,
            2500,
        ),
        step(2, "Cut", format!("Every image into {side} × {side} patches."), (Whole, Cut), 4, 1400),
        step(
            3,
            "Shuffle",
            "The patches of every image, by one permutation for the whole batch.".to_owned(),
            (Cut, Shuffled),
            13,
            1400,
        ),
        step(4, "Group", format!("The shuffled patches: {}.", sizes(mixing)), (Shuffled, Grouped), 6, 2000),
        step(5, "Mix", rule(mixing), (Grouped, Mixed), 15, 2600),
        step(
            6,
            "Put back",
            format!("Every patch at its own position again: four mixed images, {sources}."),
            (Mixed, Restored),
            13,
            2200,
        ),
    ];
    let label =
        |caption, reveal, still| Step { reveal: Some(reveal), ..step(7, "Label", caption, (Raised, Raised), 0, still) };
    let nothing = Reveal { origin_rows: 0, mix_rows: 0, row: None };
    let intro = "How much of every image is in every mixed image, and how much two mixed images have in common?";
    steps.push(Step { from: Restored, moving: 5, ..label(intro.to_owned(), nothing, 2200) });
    for row in 0..BATCH {
        let reveal = Reveal { origin_rows: row + 1, mix_rows: row, row: Some(row) };
        steps.push(label(origins(mixing, row), reveal, if row == 0 { 3500 } else { 1300 }));
        let reveal = Reveal { mix_rows: row + 1, ..reveal };
        steps.push(label(MIX_TO_MIX.to_owned(), reveal, if row == 0 { 4000 } else { 1300 }));
    }
    let all = Reveal { origin_rows: BATCH, mix_rows: BATCH, row: None };
    let end = "The soft labels of the mixed images. Every row sums to 1.";
    steps.push(label(end.to_owned(), all, 5000));
    steps
}

const MIX_TO_MIX: &str = "Two mixed images have in common, summed over the images, the product of their shares.";

/// `2 groups of 8`, `3 groups of 5, 5 and 6`.
fn sizes(mixing: &Mixing) -> String {
    let sizes = &mixing.group_sizes;
    let count = match sizes.len() {
        1 => "1 group".to_owned(),
        count => format!("{count} groups"),
    };
    if sizes.iter().all(|size| *size == sizes[0]) {
        return format!("{count} of {}", sizes[0]);
    }
    format!("{count} of {}", list(&sizes.iter().map(usize::to_string).collect::<Vec<_>>()))
}

/// `a`, `a and b`, `a, b and c`.
fn list(parts: &[String]) -> String {
    match parts {
        [] => String::new(),
        [only] => only.clone(),
        [first @ .., last] => format!("{} and {last}", first.join(", ")),
    }
}

fn rule(mixing: &Mixing) -> String {
    let sign = if mixing.mix_stride < 0 { '-' } else { '+' };
    let distance = match mixing.mix_stride.unsigned_abs() {
        1 => "g".to_owned(),
        stride => format!("{stride} g"),
    };
    format!("Group g of mixed image i comes from image i {sign} {distance}, in a ring: image 0 follows image 3.")
}

/// `Mixed image 0 has 8 of its 16 patches from image 0 and 8 from image 1.`
fn origins(mixing: &Mixing, row: usize) -> String {
    let counts = (0..BATCH).map(|image| (image, mixing.count_from(row, image))).filter(|(_, count)| *count > 0);
    let mut parts: Vec<String> = counts.map(|(image, count)| format!("{count} from image {image}")).collect();
    if let Some(first) = parts.first_mut() {
        *first = first.replacen(" from", &format!(" of its {} patches from", mixing.patches()), 1);
    }
    format!("Mixed image {row} has {}.", list(&parts))
}

fn animate(mixing: &Mixing, steps: &[Step]) -> Result<Animation> {
    let layout = Layout::new(mixing, ZOOM, true);
    let mut animation = Animation::default();
    for step in steps {
        for tick in 1..=step.moving {
            let progress = eased(f64::from(tick) / f64::from(step.moving));
            animation.show(step.scene(progress).draw(mixing, &layout)?, TICK);
        }
        animation.show(step.scene(1.0).draw(mixing, &layout)?, step.still);
    }
    Ok(animation)
}

impl Step {
    fn scene(&self, progress: f64) -> Scene<'_> {
        Scene {
            step: self.number,
            title: self.title,
            caption: &self.caption,
            from: self.from,
            to: self.to,
            progress,
            reveal: self.reveal,
        }
    }
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
                scene::draw_targets(canvas, mixing, &layout, HEADER, reveal)
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
