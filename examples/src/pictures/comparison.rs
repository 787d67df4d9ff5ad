//! Curves of one run, or of several runs in the same plots.

use std::path::{Path, PathBuf};

use clap::Args;

use super::draw::canvas::Canvas;
use super::draw::color::COLORS;
use super::draw::curves::{column_name, curves_picture, epoch_range, points};
use super::draw::plot::{Frame, Panel, Series, Shape};
use crate::Result;
use crate::images::AMONG_TEST;
use crate::run::metrics::{KNN, KNN_MOMENTUM, LOSS, METRICS, Row, Summary, loss_terms, read};
use crate::terminal::{log, say, shown};

/// Options of `curves`.
#[derive(Debug, Args)]
pub(super) struct Options {
    /// Folders of runs, up to eight
    #[arg(value_name = "RUN", required = true, num_args = 1..=COLORS.len())]
    runs: Vec<PathBuf>,
    /// File to write the picture to (PNG)
    #[arg(long, value_name = "FILE", default_value = "curves.png")]
    out: PathBuf,
}

const WIDTH: i32 = 1600;
/// Left edges of the plots in a row, and the size of a plot.
const COLUMNS: [i32; 3] = [92, 624, 1156];
const PLOT: (i32, i32) = (404, 290);
const MARGIN: i32 = 34;
/// Heights of the title above a plot and of the epochs below it.
const TITLE: i32 = 64;
const EPOCHS: i32 = 76;
const LEGEND_ROW: i32 = 32;
const LEGEND_COLUMN: i32 = 390;
const LEGEND_COLUMNS: usize = 4;

/// Draws the curves and writes them.
pub(super) fn curves(options: &Options) -> Result<()> {
    let runs = options.runs.iter().map(|run| rows(run)).collect::<Result<Vec<_>>>()?;
    match (runs.as_slice(), options.runs.as_slice()) {
        ([rows], [run]) => curves_picture(&options.out, rows, &Summary::read(run).unwrap_or_default())?,
        _ => {
            note_other_protocols(&options.runs);
            comparison(&options.out, &names(&options.runs), &runs)?;
        }
    }
    let epochs = runs.iter().map(|rows| rows.len().to_string()).collect::<Vec<_>>().join(", ");
    say!("written  {}: epochs {epochs}", shown(&options.out));
    Ok(())
}

/// Names the runs whose accuracies are not comparable, as another version measured them, or without training images
/// that vote; none if all are such runs.
fn note_other_protocols(runs: &[PathBuf]) {
    let summaries = runs.iter().filter_map(|run| Some((run, Summary::read(run)?)));
    let measured: Vec<_> = summaries.filter(|(_, summary)| summary.knn_untrained.is_some()).collect();
    let note = |is_other: fn(Option<&str>) -> bool, how: &str| {
        let others = measured.iter().filter(|(_, summary)| is_other(summary.knn_protocol.as_deref()));
        let names: Vec<String> = others.map(|(run, _)| shown(run)).collect();
        if !names.is_empty() && names.len() < measured.len() {
            let names = names.join(", ");
            log!("note: {how} measured the kNN accuracy of {names}; do not compare it with the others'");
        }
    };
    note(|protocol| protocol.is_none(), "another version");
    note(|protocol| protocol.is_some_and(|text| text.ends_with(AMONG_TEST)), "votes among the test images");
}

/// The metrics of a run.
fn rows(run: &Path) -> Result<Vec<Row>> {
    let path = run.join(METRICS);
    if !path.is_file() {
        return Err(format!("{}: has no {METRICS}; name the folder of a run", shown(run)).into());
    }
    let rows = read(run)?;
    for column in ["epoch", LOSS] {
        if rows.iter().any(|row| row.get(column).is_none()) {
            let advice = "if another version wrote it, train with this one into another folder";
            return Err(format!("{}: has epochs without the column {column}; {advice}", shown(&path)).into());
        }
    }
    Ok(rows)
}

/// Names of the folders, with as many parent folders as it takes to tell them apart.
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
fn comparison(path: &Path, names: &[String], runs: &[Vec<Row>]) -> Result<()> {
    let panels = panels(runs);
    let epochs = epoch_range(runs.iter().flatten());
    let top = MARGIN + names.len().div_ceil(LEGEND_COLUMNS) as i32 * LEGEND_ROW;
    let row_height = TITLE + PLOT.1 + EPOCHS;
    let height = top + panels.len().div_ceil(COLUMNS.len()) as i32 * row_height;
    Canvas::write(path, (WIDTH, height), |canvas| {
        draw_legend(canvas, names)?;
        for (index, panel) in panels.iter().enumerate() {
            let (row, left) = ((index / COLUMNS.len()) as i32, COLUMNS[index % COLUMNS.len()]);
            let top = top + TITLE + row * row_height;
            panel.draw(canvas, Frame { left, width: PLOT.0, top, bottom: top + PLOT.1, head: 36 }, epochs)?;
        }
        Ok(())
    })
}

/// Loss, accuracy, learning rate, and every term of the loss that any of the runs has.
fn panels(runs: &[Vec<Row>]) -> Vec<Panel> {
    let panel = |title: String, unit, shape: fn(Vec<(f64, f64)>) -> Shape, column: &str| {
        let series = runs.iter().zip(COLORS).map(|(rows, color)| {
            let shape = shape(points(rows, column));
            Series { name: String::new(), color, shape }
        });
        Panel { title, unit, series: series.collect() }
    };
    let mut panels = vec![
        panel("loss".to_owned(), "", Shape::Line, LOSS),
        panel("kNN top-1 accuracy".to_owned(), "%", Shape::Dots, KNN),
        panel("learning rate".to_owned(), "", Shape::Line, "lr"),
    ];
    if runs.iter().flatten().any(|row| row.get(KNN_MOMENTUM).is_some()) {
        panels.push(panel("kNN top-1, momentum encoder".to_owned(), "%", Shape::Dots, KNN_MOMENTUM));
    }
    let mut terms: Vec<String> = Vec::new();
    for term in runs.iter().flat_map(|rows| loss_terms(rows)) {
        if !terms.contains(&term) {
            terms.push(term);
        }
    }
    panels.extend(terms.iter().map(|term| panel(format!("{} loss", column_name(term)), "", Shape::Line, term)));
    panels
}

fn draw_legend(canvas: &Canvas<'_>, names: &[String]) -> Result<()> {
    for (index, (name, color)) in names.iter().zip(COLORS).enumerate() {
        let (row, column) = ((index / LEGEND_COLUMNS) as i32, (index % LEGEND_COLUMNS) as i32);
        let (x, y) = (COLUMNS[0] + column * LEGEND_COLUMN, MARGIN + row * LEGEND_ROW);
        canvas.line(&[(x, y), (x + 31, y)], 3, color)?;
        canvas.name(name, (x + 42, y), LEGEND_COLUMN - 66, 20)?;
    }
    Ok(())
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

    #[test]
    fn a_term_of_any_run_gets_a_panel() {
        let run = |terms: &[&str]| {
            let columns = [&["epoch", "lr", LOSS], terms, &["gradient_norm"]].concat();
            vec![Row::from_iter(columns.into_iter().map(|column| (column, Some(1.0))))]
        };
        let panels = panels(&[run(&["mix_to_mix"]), run(&["mix_to_mix", "local_to_origin"]), Vec::new()]);
        let titles: Vec<&str> = panels.iter().map(|panel| panel.title.as_str()).collect();
        let expected = ["loss", "kNN top-1 accuracy", "learning rate", "mix-to-mix loss", "local-to-origin loss"];
        assert_eq!(titles, expected);
    }

    #[test]
    fn the_momentum_encoder_of_any_run_gets_a_panel() {
        let run = |column: &str| vec![Row::from_iter([("epoch", Some(1.0)), (column, Some(40.0))])];
        let has_panel = |runs: &[Vec<Row>]| panels(runs).iter().any(|panel| panel.title.contains("momentum"));
        assert!(has_panel(&[run(KNN), run(KNN_MOMENTUM)]));
        assert!(!has_panel(&[run(KNN), Vec::new()]));
    }
}
