//! One frame of the animation.

use image::RgbImage;
use plotters::style::RGBColor;

use super::layout::{Arrangement, BAND, CELL, LABEL, Layout, MARGIN, MATRIX, ROW_NAMES, TARGETS};
use super::mixing::{BATCH, Mixing};
use crate::Result;
use crate::pictures::draw::canvas::{Align, Canvas};
use crate::pictures::draw::color::{BLUE, FAINT, GREEN, INK, LINE, ORANGE, PURPLE, WHITE, blend};

/// The color of each image, and of its patches wherever they go.
const COLORS: [RGBColor; BATCH] = [BLUE, ORANGE, GREEN, PURPLE];
/// Number of steps.
const STEPS: usize = 7;

/// How much of the targets is visible.
#[derive(Clone, Copy)]
pub(super) struct Reveal {
    pub(super) origin_rows: usize,
    pub(super) mix_rows: usize,
    /// The mixed image that the caption is about.
    pub(super) row: Option<usize>,
}

/// One moment of the animation.
pub(super) struct Scene<'a> {
    pub(super) step: usize,
    pub(super) title: &'a str,
    pub(super) caption: &'a str,
    /// The arrangements that the patches move between, and the progress from 0 to 1.
    pub(super) from: Arrangement,
    pub(super) to: Arrangement,
    pub(super) progress: f64,
    pub(super) reveal: Option<Reveal>,
}

impl Scene<'_> {
    pub(super) fn draw(&self, mixing: &Mixing, layout: &Layout) -> Result<RgbImage> {
        let mut picture = Canvas::paint(layout.size, |canvas| {
            self.draw_header(canvas, layout)?;
            self.draw_bands(canvas, mixing, layout)?;
            self.draw_names(canvas, mixing, layout)?;
            match self.reveal.filter(|_| self.progress >= 1.0) {
                Some(reveal) => draw_targets(canvas, mixing, layout, layout.targets_top(), reveal),
                None => Ok(()),
            }
        })?;
        self.draw_patches(&mut picture, mixing, layout);
        Ok(picture)
    }

    /// The step, its caption, and a dot for each step so far.
    pub(super) fn draw_header(&self, canvas: &Canvas<'_>, layout: &Layout) -> Result<()> {
        canvas.text(&format!("{}  {}", self.step, self.title), (MARGIN, 32), 30, INK, Align::Left)?;
        for step in 1..=STEPS {
            let x = layout.size.0 - MARGIN - 18 * (STEPS - step) as i32 - 5;
            canvas.dot((x, 32), 5, if step <= self.step { BLUE } else { LINE })?;
        }
        for (line, text) in canvas.lines(self.caption, layout.size.0 - 2 * MARGIN, 20)?.iter().enumerate() {
            canvas.text(text, (MARGIN, 68 + 26 * line as i32), 20, FAINT, Align::Left)?;
        }
        Ok(())
    }

    /// A band behind every group, with its name and source.
    fn draw_bands(&self, canvas: &Canvas<'_>, mixing: &Mixing, layout: &Layout) -> Result<()> {
        let presence = |arrangement| f64::from(u8::from(is_grouped(arrangement)));
        let share = self.between(presence(self.from), presence(self.to));
        if share == 0.0 {
            return Ok(());
        }
        let (left, right) = layout.belt();
        for group in 0..mixing.group_sizes.len() {
            let (top, height) = layout.band(group, mixing);
            let place = (left - 4, top - BAND);
            canvas.fill(place, (right - left + 8, height + 2 * BAND), blend(WHITE, RGBColor(236, 239, 243), share))?;
            let middle = top + height / 2;
            let name = |text: &str, y, size, color| {
                canvas.text(text, (left - 14, y), size, blend(WHITE, color, share), Align::Right)
            };
            if self.to != Arrangement::Mixed && self.from != Arrangement::Mixed {
                name(&format!("group {group}"), middle, 19, INK)?;
                continue;
            }
            name(&format!("group {group}"), middle - 12, 19, INK)?;
            let text = match mixing.shift(group) {
                0 => "from i".to_owned(),
                shift => format!("from i + {shift}"),
            };
            name(&text, middle + 12, 17, FAINT)?;
        }
        Ok(())
    }

    /// The names above the images.
    fn draw_names(&self, canvas: &Canvas<'_>, mixing: &Mixing, layout: &Layout) -> Result<()> {
        let above = |arrangement| if is_grouped(arrangement) { BAND } else { 0 };
        let top = |arrangement| f64::from(layout.top(arrangement, mixing) - above(arrangement));
        let mixed = matches!(self.to, Arrangement::Mixed | Arrangement::Restored | Arrangement::Raised);
        let y = self.between(top(self.from), top(self.to)).round() as i32 - LABEL / 2 - 6;
        for (image, own) in COLORS.into_iter().enumerate() {
            let x = layout.belt().0 + image as i32 * layout.pitch + layout.pitch / 2;
            let (name, color) = if mixed { ("mixed", INK) } else { ("image", own) };
            canvas.text(&format!("{name} {image}"), (x, y), 19, color, Align::Center)?;
            if self.reveal.and_then(|reveal| reveal.row) == Some(image) {
                let place = (x - layout.cut / 2 - 7, layout.top(self.to, mixing) - 7);
                canvas.outline(place, (layout.cut + 14, layout.cut + 14), 3, INK)?;
            }
        }
        Ok(())
    }

    fn draw_patches(&self, picture: &mut RgbImage, mixing: &Mixing, layout: &Layout) {
        let patches = (0..BATCH).flat_map(|image| (0..mixing.patches()).map(move |position| (image, position)));
        let placed: Vec<_> = patches.flat_map(|patch| self.places(mixing, layout, patch)).collect();
        // The borders of patches that touch must not cover other patches; those of moving patches may.
        let touching = self.from == Arrangement::Whole;
        if touching {
            placed.iter().for_each(|((image, _), place)| draw_border(picture, layout, *place, COLORS[*image]));
        }
        for &((image, position), place) in &placed {
            if !touching {
                draw_border(picture, layout, place, COLORS[image]);
            }
            draw_patch(picture, mixing, layout, place, (image, position));
        }
    }

    /// A patch with the positions at which it is drawn.
    fn places(
        &self,
        mixing: &Mixing,
        layout: &Layout,
        (image, position): (usize, usize),
    ) -> Vec<((usize, usize), (i32, i32))> {
        let y = |arrangement| f64::from(layout.place(arrangement, mixing, image, position).1);
        let y = self.between(y(self.from), y(self.to)).round() as i32;
        let lefts = self.lefts(mixing, layout, image, position);
        lefts.into_iter().map(|left| ((image, position), (left, y))).collect()
    }

    /// The left edges at which a patch is drawn: two while it leaves on one side and comes in on the other.
    fn lefts(&self, mixing: &Mixing, layout: &Layout, image: usize, position: usize) -> Vec<i32> {
        let x = |arrangement| f64::from(layout.place(arrangement, mixing, image, position).0);
        if (self.from, self.to) != (Arrangement::Grouped, Arrangement::Mixed) {
            return vec![self.between(x(self.from), x(self.to)).round() as i32];
        }
        let shift = mixing.shift(mixing.group_of_position[position]) as i32 * layout.pitch;
        let x = self.between(x(self.from), x(self.from) - f64::from(shift)).round() as i32;
        let (left, right) = layout.belt();
        let first = left + (x - left).rem_euclid(right - left);
        vec![first, first - (right - left)]
    }

    fn between(&self, from: f64, to: f64) -> f64 {
        from + (to - from) * self.progress
    }
}

fn is_grouped(arrangement: Arrangement) -> bool {
    matches!(arrangement, Arrangement::Grouped | Arrangement::Mixed)
}

/// Fills a rectangle, as far as it lies on the belt; `color` gives the color at a column and row of it.
fn fill_rows(
    picture: &mut RgbImage,
    layout: &Layout,
    (left, top): (i32, i32),
    (width, height): (i32, i32),
    color: impl Fn(i32, i32) -> RGBColor,
) {
    let (first, end) = (left.max(layout.belt().0), (left + width).min(layout.belt().1));
    let mut bytes = Vec::new();
    let mut last_row = None;
    for y in top..top + height {
        // Enlarged pixels repeat, so each row of the image is computed once.
        let row = (y - top) / layout.zoom;
        if last_row.replace(row) != Some(row) {
            bytes = (first..end)
                .flat_map(|x| {
                    let RGBColor(red, green, blue) = color(x - left, y - top);
                    [red, green, blue]
                })
                .collect();
        }
        if first < end {
            let start = (y as usize * picture.width() as usize + first as usize) * 3;
            picture.as_mut()[start..start + bytes.len()].copy_from_slice(&bytes);
        }
    }
}

fn draw_border(picture: &mut RgbImage, layout: &Layout, (left, top): (i32, i32), color: RGBColor) {
    let border = layout.border();
    let side = layout.patch + 2 * border;
    fill_rows(picture, layout, (left - border, top - border), (side, side), |_, _| color);
}

fn draw_patch(
    picture: &mut RgbImage,
    mixing: &Mixing,
    layout: &Layout,
    place: (i32, i32),
    (image, position): (usize, usize),
) {
    let (row, column) = ((position / mixing.side) as i32, (position % mixing.side) as i32);
    let pixels = layout.patch / layout.zoom;
    fill_rows(picture, layout, place, (layout.patch, layout.patch), |x, y| {
        mixing.images.pixel(image, column * pixels + x / layout.zoom, row * pixels + y / layout.zoom)
    });
}

/// Both targets side by side, as far as they are revealed.
pub(super) fn draw_targets(
    canvas: &Canvas<'_>,
    mixing: &Mixing,
    layout: &Layout,
    top: i32,
    reveal: Reveal,
) -> Result<()> {
    let between = (layout.size.0 - 2 * MARGIN - 2 * (ROW_NAMES + MATRIX)).clamp(0, 130);
    let first = (layout.size.0 - 2 * (ROW_NAMES + MATRIX) - between) / 2 + ROW_NAMES;
    let second = first + MATRIX + between + ROW_NAMES;
    let largest = mixing.mix_to_origin.largest().max(mixing.mix_to_mix.largest());
    let both = [
        ("mix-to-origin target", "image", &mixing.mix_to_origin, first, reveal.origin_rows),
        ("mix-to-mix target", "mixed", &mixing.mix_to_mix, second, reveal.mix_rows),
    ];
    let cells = top + TARGETS - MATRIX;
    for (title, columns, matrix, left, rows) in both {
        canvas.text(title, (left, top + 13), 21, INK, Align::Left)?;
        canvas.text(columns, (left - 12, cells - 16), 17, FAINT, Align::Right)?;
        for (index, own) in COLORS.into_iter().enumerate() {
            let middle = CELL * index as i32 + CELL / 2;
            let color = if columns == "image" { own } else { FAINT };
            canvas.text(&index.to_string(), (left + middle, cells - 16), 19, color, Align::Center)?;
            canvas.text(&format!("mixed {index}"), (left - 12, cells + middle), 17, FAINT, Align::Right)?;
        }
        canvas.fill((left, cells), (MATRIX, MATRIX), RGBColor(250, 250, 250))?;
        matrix.draw(canvas, (left, cells), CELL, largest, rows)?;
        if let Some(row) = reveal.row.filter(|row| *row < rows) {
            canvas.outline((left - 1, cells + CELL * row as i32 - 1), (MATRIX + 2, CELL + 2), 3, INK)?;
        }
    }
    Ok(())
}
