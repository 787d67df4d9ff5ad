//! The steps of the animation, and their captions.

use super::layout::Arrangement::{self, Cut, Grouped, Mixed, Raised, Restored, Shuffled, Whole};
use super::mixing::{BATCH, Mixing};
use super::scene::{Reveal, Scene};

/// A part of the animation: the patches move, then it pauses.
pub(super) struct Step {
    pub(super) number: usize,
    title: &'static str,
    caption: String,
    from: Arrangement,
    pub(super) to: Arrangement,
    /// Frames while the patches move.
    pub(super) frames: u16,
    /// Milliseconds of the pause.
    pub(super) pause: u16,
    pub(super) reveal: Option<Reveal>,
}

impl Step {
    pub(super) fn scene(&self, progress: f64) -> Scene<'_> {
        let Step { number, title, ref caption, from, to, reveal, .. } = *self;
        Scene { step: number, title, caption, from, to, progress, reveal }
    }
}

/// The whole animation.
pub(super) fn steps(mixing: &Mixing) -> Vec<Step> {
    let (side, groups) = (mixing.side, mixing.group_sizes.len());
    let images = if groups == 1 { "one image".to_owned() } else { format!("{groups} images") };
    let moves = [
        ("Four images", BATCH_CAPTION.to_owned(), (Whole, Whole), 0, 2500),
        ("Cut", format!("Each image is cut into {side} × {side} patches."), (Whole, Cut), 4, 1400),
        ("Shuffle", SHUFFLE_CAPTION.to_owned(), (Cut, Shuffled), 13, 1400),
        ("Group", format!("The shuffled patches form {}.", sizes(mixing)), (Shuffled, Grouped), 6, 2000),
        ("Mix", rule(mixing), (Grouped, Mixed), 15, 2600),
        (
            "Unshuffle",
            format!("Each patch returns to its position: four mixed images, each of {images}."),
            (Mixed, Restored),
            13,
            2200,
        ),
    ];
    let steps = (1..).zip(moves).map(|(number, (title, caption, (from, to), frames, pause))| Step {
        number,
        title,
        caption,
        from,
        to,
        frames,
        pause,
        reveal: None,
    });
    steps.chain(labels(mixing)).collect()
}

/// The last step, in parts: both targets fill row by row.
fn labels(mixing: &Mixing) -> Vec<Step> {
    let label = |caption: String, reveal, pause| Step {
        number: 7,
        title: "Label",
        caption,
        from: Raised,
        to: Raised,
        frames: 0,
        pause,
        reveal: Some(reveal),
    };
    let empty = Reveal { origin_rows: 0, mix_rows: 0, row: None };
    let mut steps = vec![Step { from: Restored, frames: 5, ..label(LABEL_CAPTION.to_owned(), empty, 2200) }];
    for row in 0..BATCH {
        let reveal = Reveal { origin_rows: row + 1, mix_rows: row, row: Some(row) };
        steps.push(label(origins(mixing, row), reveal, if row == 0 { 3500 } else { 1300 }));
        let reveal = Reveal { mix_rows: row + 1, ..reveal };
        steps.push(label(OVERLAP_CAPTION.to_owned(), reveal, if row == 0 { 4000 } else { 1300 }));
    }
    let all = Reveal { origin_rows: BATCH, mix_rows: BATCH, row: None };
    steps.push(label(END_CAPTION.to_owned(), all, 5000));
    steps
}

const BATCH_CAPTION: &str = "A batch. Each image has a color that marks its patches wherever they go.";
const SHUFFLE_CAPTION: &str = "One permutation, shared by the batch, shuffles the patches of each image.";
const LABEL_CAPTION: &str = "How much of each image is in each mixed image, and how much do two mixed images share?";
const OVERLAP_CAPTION: &str =
    "The overlap of two mixed images: the product of their shares of each image, summed over the images.";
const END_CAPTION: &str = "The soft labels of the mixed images. Every row sums to 1.";

/// `2 groups of 8`, `3 groups of 5, 5 and 6`.
pub(super) fn sizes(mixing: &Mixing) -> String {
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

/// How the mix stride decides the images of a mixed image.
pub(super) fn rule(mixing: &Mixing) -> String {
    let sign = if mixing.mix_stride < 0 { '-' } else { '+' };
    let distance = match mixing.mix_stride.unsigned_abs() {
        1 => "g".to_owned(),
        stride => format!("{stride} g"),
    };
    format!("Group g of mixed image i comes from image i {sign} {distance}, wrapping around.")
}

/// `Mixed image 0 has 8 of its 16 patches from image 0 and 8 from image 1.`
pub(super) fn origins(mixing: &Mixing, row: usize) -> String {
    let counts = (0..BATCH).map(|image| (image, mixing.count_from(row, image))).filter(|(_, count)| *count > 0);
    let mut parts: Vec<String> = counts.map(|(image, count)| format!("{count} from image {image}")).collect();
    if let Some(first) = parts.first_mut() {
        *first = first.replacen(" from", &format!(" of its {} patches from", mixing.patches()), 1);
    }
    format!("Mixed image {row} has {}.", list(&parts))
}
