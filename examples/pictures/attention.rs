//! Where the class token looks: its attention over test images, in each head and in their mean.

use std::path::PathBuf;

use clap::Args;
use patchmix::augment::normalize;
use patchmix::data::Split;
use plotters::style::RGBColor;
use tch::{Device, Kind, Tensor};

use crate::Result;
use crate::pictures::canvas::{Align, Canvas, FAINT, INK, LINE};
use crate::pictures::matrix::{blend, shade};
use crate::pictures::tiles::{Tiles, resized};
use crate::source::{EncoderOptions, Source, draw};

/// Options of `attention`.
#[derive(Debug, Args)]
pub(crate) struct Options {
    #[command(flatten)]
    encoder: EncoderOptions,
    /// The picture
    #[arg(long, value_name = "FILE", default_value = "attention.png")]
    out: PathBuf,
    /// Test images to show, from one class after the other
    #[arg(long, value_name = "N", default_value_t = 6)]
    images: i64,
    /// The block to look into, counted from 0 [default: the last]
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    block: Option<i64>,
    /// Decides which test images
    #[arg(long, default_value_t = 0)]
    seed: u64,
}

/// The side that images are enlarged to, about.
const TILE: i32 = 128;
const PITCH: i32 = TILE + 14;
const HEADER: i32 = 152;
const ROW: i32 = TILE + 44;
const MARGIN: i32 = 24;
/// The length of the scale.
const SCALE: i32 = 260;
/// How strong the grey image is under the colour of its attention.
const GREY: f64 = 0.55;
/// The share of all patches shown whose attention reaches the darkest colour: a few take so much that all others would
/// look alike.
const DARKEST: f64 = 0.01;

/// What the class token attends to in one image and one head, or in the mean of them.
struct Heat {
    /// Its attention to itself.
    own: f64,
    /// Its attention to the patches, row by row.
    patches: Vec<f64>,
}

pub(crate) fn attention(options: &Options) -> Result<()> {
    let source = options.encoder.open()?;
    let test = source.images(Split::Test)?;
    let (images, labels) = test.select(&draw(&test, options.images, options.seed)?)?;
    let config = source.encoder.encoder.config();
    let last = config.depth - 1;
    let block = options.block.unwrap_or(last);
    if !(0..=last).contains(&block) {
        return Err(format!("--block {block}: the blocks of this encoder are 0 to {last}").into());
    }
    let images = resized(&images, config.image_size)?;
    let heat = heat(&source, &images, block)?;
    let names: Vec<&str> = Vec::<i64>::try_from(labels.f_to_device(Device::Cpu)?)?
        .into_iter()
        .map(|label| test.class_names[label as usize].as_str())
        .collect();
    let side = (config.image_size / config.patch_size) as i32;
    let title = format!("attention of the class token, block {block} of 0 to {last}");
    picture(options, &title, &Tiles::new(&images, "test images")?, &names, &heat, side)?;
    let own = heat.iter().flatten().map(|heat| heat.own).sum::<f64>() / heat.iter().flatten().count() as f64;
    println!("written  {}: {:.0} % of its attention is to itself", options.out.display(), 100.0 * own);
    Ok(())
}

/// For every image the mean of the heads, and then each head.
fn heat(source: &Source<'_>, images: &Tensor, block: i64) -> Result<Vec<Vec<Heat>>> {
    let _no_grad = tch::no_grad_guard();
    let encoder = &source.encoder;
    let attention = encoder.encoder.class_attention(&normalize(images, encoder.mean, encoder.std)?, block)?;
    let mean = attention.f_mean_dim(1, true, None)?;
    let columns = Tensor::f_cat(&[mean, attention], 1)?.f_to_device(Device::Cpu)?.f_to_kind(Kind::Double)?;
    let (_, columns_of_image, tokens) = columns.size3()?; // [B, 1 + heads, 1 + T]
    let numbers = Vec::<f64>::try_from(columns.f_flatten(0, -1)?)?;
    let all = numbers.chunks(tokens as usize).map(|row| Heat { own: row[0], patches: row[1..].to_vec() });
    let mut all = all.collect::<Vec<_>>().into_iter();
    Ok((0..images.size()[0]).map(|_| all.by_ref().take(columns_of_image as usize).collect()).collect())
}

fn picture(
    options: &Options,
    title: &str,
    images: &Tiles,
    names: &[&str],
    heat: &[Vec<Heat>],
    side: i32,
) -> Result<()> {
    let columns = heat.first().map_or(0, Vec::len) as i32;
    let size = ((1 + columns) * PITCH + 2 * MARGIN, HEADER + heat.len() as i32 * ROW + 4);
    let size = (size.0.max(620), size.1);
    let largest = darkest(heat);
    Canvas::write(&options.out, size, |canvas| {
        canvas.text(title, (MARGIN, 32), 26, INK, Align::Left)?;
        draw_scale(canvas, largest, heat[0][0].patches.len())?;
        for column in 0..=columns {
            let name = match column {
                0 => "image".to_owned(),
                1 => "mean".to_owned(),
                _ => format!("head {}", column - 2),
            };
            canvas.text(&name, (left(column), HEADER - 18), 20, INK, Align::Left)?;
        }
        for (index, row) in heat.iter().enumerate() {
            let top = HEADER + index as i32 * ROW;
            images.draw(canvas, index, (left(0), top), images.scale(TILE))?;
            let name = canvas.shortened(&names[index].replace('_', " "), TILE, 19)?;
            canvas.text(&name, (left(0), top + TILE + 16), 19, INK, Align::Left)?;
            for (column, heat) in (1..).zip(row) {
                draw_heat(canvas, (images, index), heat, largest, side, (left(column), top))?;
                let own = format!("itself {:.0} %", 100.0 * heat.own);
                canvas.text(&own, (left(column), top + TILE + 16), 17, FAINT, Align::Left)?;
            }
        }
        Ok(())
    })
}

/// The attention that has the darkest colour.
fn darkest(heat: &[Vec<Heat>]) -> f64 {
    let mut all: Vec<f64> = heat.iter().flatten().flat_map(|heat| heat.patches.iter().copied()).collect();
    all.sort_by(|a, b| b.total_cmp(a));
    let rank = (all.len() as f64 * DARKEST) as usize;
    all.get(rank).copied().unwrap_or(1.0).max(f64::MIN_POSITIVE)
}

fn left(column: i32) -> i32 {
    // The heads stand together, apart from the image.
    MARGIN + column * PITCH + if column > 0 { 10 } else { 0 }
}

/// The colours, and how to read them.
fn draw_scale(canvas: &Canvas<'_>, largest: f64, patches: usize) -> Result<()> {
    let (left, top, height) = (MARGIN, 62, 16);
    for x in 0..SCALE {
        canvas.fill((left + x, top), (1, height), shade(f64::from(x) / f64::from(SCALE - 1)))?;
    }
    canvas.frame((left, top), (SCALE, height), LINE)?;
    canvas.text("0 %", (left, top + height + 14), 17, FAINT, Align::Left)?;
    let most = format!("{:.1} % or more", 100.0 * largest);
    canvas.text(&most, (left + SCALE, top + height + 14), 17, FAINT, Align::Right)?;
    let beside = left + SCALE + 16;
    canvas.text("share of its attention that a patch has;", (beside, top + 8), 19, FAINT, Align::Left)?;
    let even = format!("{:.1} % each if it were even", 100.0 / (patches + 1) as f64);
    canvas.text(&even, (beside, top + height + 14), 19, FAINT, Align::Left)
}

/// The attention to every patch, as a colour over the grey image.
fn draw_heat(
    canvas: &Canvas<'_>,
    (images, index): (&Tiles, usize),
    heat: &Heat,
    largest: f64,
    side: i32,
    place: (i32, i32),
) -> Result<()> {
    let scale = images.scale(TILE);
    images.draw_as(canvas, index, place, scale, |x, y, RGBColor(red, green, blue)| {
        let (row, column) = (y * side / images.height, x * side / images.width);
        let share = heat.patches.get((row * side + column) as usize).copied().unwrap_or(0.0) / largest;
        // The usual weights of the three channels in perceived brightness.
        let grey = 0.299 * f64::from(red) + 0.587 * f64::from(green) + 0.114 * f64::from(blue);
        let grey = grey.round() as u8;
        let grey = blend(RGBColor(255, 255, 255), RGBColor(grey, grey, grey), GREY);
        blend(grey, shade(1.0), share.min(1.0))
    })?;
    canvas.frame(place, scale.size, LINE)
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
