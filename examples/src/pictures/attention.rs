//! The attention of an encoder's class token to the patches of test images, in each head and averaged over the heads.

use std::path::{Path, PathBuf};

use clap::Args;
use patchmix::augment::normalize;
use plotters::style::RGBColor;
use tch::{Device, Kind, Tensor};

use super::draw::canvas::{Align, Canvas};
use super::draw::color::{FAINT, INK, LINE, WHITE, blend, shade};
use super::draw::tiles::Tiles;
use super::subject::{SubjectOptions, label_list};
use crate::Result;
use crate::encoder::LoadedEncoder;
use crate::terminal::say;

/// Options of `attention`.
#[derive(Debug, Args)]
pub(super) struct Options {
    #[command(flatten)]
    subject: SubjectOptions,
    /// File to write the picture to (PNG)
    #[arg(long, value_name = "FILE", default_value = "attention.png")]
    out: PathBuf,
    /// Test images to show, taken from one class after the other
    #[arg(long, value_name = "N", default_value_t = 6)]
    images: i64,
    /// Block to look into, counted from 0 [default: the last]
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    block: Option<i64>,
    /// Seed for the choice of test images
    #[arg(long, default_value_t = 0)]
    seed: u64,
}

/// Approximate side of an enlarged image.
const TILE: i32 = 128;
const PITCH: i32 = TILE + 14;
const HEADER: i32 = 152;
const ROW: i32 = TILE + 44;
const MARGIN: i32 = 24;
/// Between the images and the columns of attention.
const AFTER_IMAGE: i32 = 10;
/// Width and height of the color scale.
const SCALE: (i32, i32) = (260, 16);
/// Strength of the gray image under the color of its attention.
const GRAY: f64 = 0.55;
/// Share of all patches that get the darkest color. A few take so much attention that the others would look alike if
/// only the largest were darkest.
const DARKEST: f64 = 0.01;

/// Attention of the class token in one image, in one head or averaged over the heads.
struct Heat {
    /// To itself.
    own: f64,
    /// To the patches, row by row.
    patches: Vec<f64>,
}

/// Draws the picture and writes it.
pub(super) fn attention(options: &Options) -> Result<()> {
    let subject = options.subject.open()?;
    let config = subject.encoder.encoder.config();
    let last = config.depth - 1;
    let block = options.block.unwrap_or(last);
    if !(0..=last).contains(&block) {
        return Err(format!("--block {block}: the blocks of this encoder are 0 to {last}").into());
    }
    let test = subject.sample(options.images, options.seed)?;
    let images = subject.views(&test.images)?;
    let heat = heat(&subject.encoder, &images, block)?;
    let picture = Picture {
        title: format!("attention of the class token, block {block} of 0 to {last}"),
        images: Tiles::new(&images, "test images")?,
        names: label_list(&test.labels)?.into_iter().map(|label| test.class_names[label].as_str()).collect(),
        patches_per_side: (config.image_size / config.patch_size) as i32,
        darkest: darkest(&heat),
        heat,
    };
    picture.write(&options.out)?;
    let all = || picture.heat.iter().flatten();
    let own = all().map(|heat| heat.own).sum::<f64>() / all().count() as f64;
    say!("written  {}: {:.0} % of the attention is to itself", options.out.display(), 100.0 * own);
    Ok(())
}

/// For every image the average over the heads, and then each head.
fn heat(loaded: &LoadedEncoder, images: &Tensor, block: i64) -> Result<Vec<Vec<Heat>>> {
    let _no_grad = tch::no_grad_guard();
    let attention = loaded.encoder.class_attention(&normalize(images, loaded.mean, loaded.std)?, block)?;
    let mean = attention.f_mean_dim(1, true, None)?;
    let columns = Tensor::f_cat(&[mean, attention], 1)?.f_to_device(Device::Cpu)?.f_to_kind(Kind::Double)?;
    let (_, columns_per_image, tokens) = columns.size3()?; // [B, 1 + heads, 1 + T]
    let numbers = Vec::<f64>::try_from(columns.f_flatten(0, -1)?)?;
    let all = numbers.chunks(tokens as usize).map(|row| Heat { own: row[0], patches: row[1..].to_vec() });
    let mut all = all.collect::<Vec<_>>().into_iter();
    Ok((0..images.size()[0]).map(|_| all.by_ref().take(columns_per_image as usize).collect()).collect())
}

/// The attention from which on a patch gets the darkest color.
fn darkest(heat: &[Vec<Heat>]) -> f64 {
    let mut all: Vec<f64> = heat.iter().flatten().flat_map(|heat| heat.patches.iter().copied()).collect();
    all.sort_by(|a, b| b.total_cmp(a));
    let rank = (all.len() as f64 * DARKEST) as usize;
    all.get(rank).copied().unwrap_or(1.0).max(f64::MIN_POSITIVE)
}

struct Picture<'a> {
    title: String,
    images: Tiles,
    /// The class of each image.
    names: Vec<&'a str>,
    patches_per_side: i32,
    darkest: f64,
    heat: Vec<Vec<Heat>>,
}

impl Picture<'_> {
    fn write(&self, path: &Path) -> Result<()> {
        let columns = self.heat.first().map_or(0, Vec::len) as i32;
        let (width, height) = ((1 + columns) * PITCH + 2 * MARGIN, HEADER + self.heat.len() as i32 * ROW + 4);
        Canvas::write(path, (width.max(620), height), |canvas| {
            canvas.text(&self.title, (MARGIN, 32), 26, INK, Align::Left)?;
            self.draw_scale(canvas)?;
            for column in 0..=columns {
                let name = match column {
                    0 => "image".to_owned(),
                    1 => "mean".to_owned(),
                    _ => format!("head {}", column - 2),
                };
                canvas.text(&name, (left(column), HEADER - 18), 20, INK, Align::Left)?;
            }
            (0..self.heat.len()).try_for_each(|index| self.draw_row(canvas, index))
        })
    }

    /// The colors, and how to read them.
    fn draw_scale(&self, canvas: &Canvas<'_>) -> Result<()> {
        let (left, top, below) = (MARGIN, 62, 92);
        canvas.scale((left, top), SCALE)?;
        canvas.text("0 %", (left, below), 17, FAINT, Align::Left)?;
        let most = format!("{:.1} % or more", 100.0 * self.darkest);
        canvas.text(&most, (left + SCALE.0, below), 17, FAINT, Align::Right)?;
        let beside = left + SCALE.0 + 16;
        canvas.text("share of the attention that a patch gets;", (beside, top + 8), 19, FAINT, Align::Left)?;
        let tokens = 1 + self.patches_per_side * self.patches_per_side;
        let even = format!("{:.1} % each if it were uniform", 100.0 / f64::from(tokens));
        canvas.text(&even, (beside, below), 19, FAINT, Align::Left)
    }

    /// An image and its attention.
    fn draw_row(&self, canvas: &Canvas<'_>, index: usize) -> Result<()> {
        let top = HEADER + index as i32 * ROW;
        let below = top + TILE + 16;
        self.images.draw(canvas, index, (left(0), top), self.images.scale(TILE))?;
        canvas.name(self.names[index], (left(0), below), TILE, 19)?;
        for (column, heat) in (1..).zip(&self.heat[index]) {
            self.draw_heat(canvas, index, heat, (left(column), top))?;
            let own = format!("itself {:.0} %", 100.0 * heat.own);
            canvas.text(&own, (left(column), below), 17, FAINT, Align::Left)?;
        }
        Ok(())
    }

    /// The attention to every patch, as a color over the gray image.
    fn draw_heat(&self, canvas: &Canvas<'_>, index: usize, heat: &Heat, place: (i32, i32)) -> Result<()> {
        let (images, side) = (&self.images, self.patches_per_side);
        let scale = images.scale(TILE);
        images.draw_as(canvas, index, place, scale, |x, y, RGBColor(red, green, blue)| {
            let (row, column) = (y * side / images.height, x * side / images.width);
            let share = heat.patches.get((row * side + column) as usize).copied().unwrap_or(0.0) / self.darkest;
            // The usual weights of the channels in perceived brightness.
            let gray = 0.299 * f64::from(red) + 0.587 * f64::from(green) + 0.114 * f64::from(blue);
            let gray = gray.round() as u8;
            let gray = blend(WHITE, RGBColor(gray, gray, gray), GRAY);
            blend(gray, shade(1.0), share.min(1.0))
        })?;
        canvas.frame(place, scale.size, LINE)
    }
}

/// Left edge of a column: 0 is the image, the others show attention.
fn left(column: i32) -> i32 {
    MARGIN + column * PITCH + if column > 0 { AFTER_IMAGE } else { 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_few_outliers_do_not_make_the_rest_pale() {
        let row = |patches: Vec<f64>| vec![Heat { own: 0.0, patches }];
        let mut patches = vec![0.01; 198];
        patches.extend([0.5, 0.03]);
        assert_eq!(darkest(&[row(patches)]), 0.01);
        assert_eq!(darkest(&[row(vec![0.2, 0.4])]), 0.4);
        assert!(darkest(&[row(vec![0.0])]) > 0.0);
    }
}
