//! The course of one run, or of several together.

use std::path::{Path, PathBuf};

use clap::Args;
use plotters::style::RGBColor;

use crate::Result;
use crate::metrics::{METRICS, Summary, curves, read_all};
use crate::pictures::canvas::{Align, BLUE, Canvas, GREEN, INK, ORANGE, PURPLE, RED};
use crate::pictures::curves::{Epoch, Metrics, curves_picture, points};
use crate::pictures::plot::{Frame, Panel, Series, Shape, epoch_range};

/// Options of `curves`.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Folders of runs, up to eight
    #[arg(value_name = "RUN", required = true, num_args = 1..=COLOURS.len())]
    runs: Vec<PathBuf>,
    /// The picture
    #[arg(long, value_name = "FILE", default_value = "curves.png")]
    out: PathBuf,
}

/// A colour for each run: those of Okabe and Ito.
const COLOURS: [RGBColor; 8] = [BLUE, ORANGE, GREEN, RED, PURPLE, INK, RGBColor(86, 180, 233), RGBColor(150, 150, 150)];

const WIDTH: i32 = 1600;
/// The left edges of the plots in a row, and their size.
const COLUMNS: [i32; 3] = [92, 624, 1156];
const PLOT: (i32, i32) = (404, 290);
/// Over and under a plot: its title and its epochs.
const TITLE: i32 = 64;
const UNDER: i32 = 76;
const LEGEND_ROW: i32 = 32;
const LEGEND_COLUMN: i32 = 390;
const LEGEND_COLUMNS: i32 = 4;

pub(crate) fn draw(options: &Options) -> Result<()> {
    let runs = options.runs.iter().map(|run| read(run)).collect::<Result<Vec<_>>>()?;
    match runs.as_slice() {
        [only] => curves_picture(&options.out, only)?,
        _ => comparison(&options.out, &names(&options.runs), &runs)?,
    }
    let epochs = runs.iter().map(|run| run.epochs.len().to_string()).collect::<Vec<_>>().join(", ");
    println!("written  {}: epochs {epochs}", options.out.display());
    Ok(())
}

fn read(run: &Path) -> Result<Metrics> {
    let path = run.join(METRICS);
    if !path.is_file() {
        return Err(format!("{}: has no {METRICS}; name the folder of a run", run.display()).into());
    }
    Ok(curves(&read_all(&path)?, &Summary::read(run)))
}

/// The names of the folders, with so many of the folders above them that they differ.
fn names(runs: &[PathBuf]) -> Vec<String> {
    let tail = |run: &PathBuf, parts: usize| {
        let all: Vec<_> = run.iter().map(|part| part.to_string_lossy()).collect();
        all[all.len().saturating_sub(parts)..].join("/")
    };
    let longest = runs.iter().map(|run| run.iter().count()).max().unwrap_or(1);
    let with = |parts: usize| runs.iter().map(|run| tail(run, parts)).collect::<Vec<_>>();
    let differ = |names: &[String]| names.iter().enumerate().all(|(index, name)| !names[..index].contains(name));
    (1..=longest).map(with).find(|names| differ(names)).unwrap_or_else(|| with(longest))
}

/// A plot of each quantity, with a line for each run.
fn comparison(path: &Path, names: &[String], runs: &[Metrics]) -> Result<()> {
    let panel = |title, unit, dotted: bool, value: fn(&Epoch) -> f64| Panel {
        title,
        unit,
        series: runs
            .iter()
            .zip(COLOURS)
            .map(|(run, color)| {
                let points = points(run, value);
                let shape = if dotted { Shape::Dots(points) } else { Shape::Line(points) };
                Series { name: String::new(), color, shape }
            })
            .collect(),
    };
    let panels = [
        panel("loss", "", false, |row| row.loss),
        panel("kNN top-1 accuracy", "%", true, |row| row.knn.unwrap_or(f64::NAN)),
        panel("learning rate", "", false, |row| row.learning_rate),
        panel("origin-to-origin loss", "", false, |row| row.origin_to_origin),
        panel("mix-to-origin loss", "", false, |row| row.mix_to_origin),
        panel("mix-to-mix loss", "", false, |row| row.mix_to_mix),
    ];
    let epochs = epoch_range(&runs.iter().collect::<Vec<_>>());
    let legend = (names.len() as i32 + LEGEND_COLUMNS - 1) / LEGEND_COLUMNS * LEGEND_ROW;
    let height = 34 + legend + 2 * (TITLE + PLOT.1 + UNDER);
    Canvas::write(path, (WIDTH, height), |canvas| {
        for (index, (name, color)) in names.iter().zip(COLOURS).enumerate() {
            let (row, column) = (index as i32 / LEGEND_COLUMNS, index as i32 % LEGEND_COLUMNS);
            let (x, y) = (COLUMNS[0] + column * LEGEND_COLUMN, 34 + row * LEGEND_ROW);
            canvas.line(&[(x, y), (x + 31, y)], 3, color)?;
            let name = canvas.shortened(name, LEGEND_COLUMN - 66, 20)?;
            canvas.text(&name, (x + 42, y), 20, INK, Align::Left)?;
        }
        for (index, panel) in panels.iter().enumerate() {
            let top = 34 + legend + TITLE + index as i32 / 3 * (PLOT.1 + UNDER + TITLE);
            let frame = Frame { left: COLUMNS[index % 3], width: PLOT.0, top, bottom: top + PLOT.1, head: 36 };
            panel.draw(canvas, frame, epochs)?;
        }
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_are_named_by_what_tells_them_apart() {
        let names = |paths: &[&str]| names(&paths.iter().map(PathBuf::from).collect::<Vec<_>>());
        assert_eq!(names(&["runs/one", "/tmp/two/"]), ["one", "two"]);
        assert_eq!(names(&["a/run", "b/run"]), ["a/run", "b/run"]);
        assert_eq!(names(&["run", "run"]), ["run", "run"]);
    }
}
