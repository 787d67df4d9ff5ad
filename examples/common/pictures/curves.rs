//! `curves.png`: the course of a run.

use std::path::Path;

use super::Result;
use super::canvas::{BLUE, Canvas, GREEN, INK, ORANGE, PURPLE, RED};
use super::plot::{Frame, Panel, Series, Shape, epoch_range};

/// What is known of one epoch. A value that is not finite is left out of the picture.
#[derive(Clone, Debug)]
pub(crate) struct Epoch {
    /// Counted from 1.
    pub(crate) epoch: i64,
    /// The total of the losses.
    pub(crate) loss: f64,
    pub(crate) origin_to_origin: f64,
    pub(crate) mix_to_origin: f64,
    pub(crate) mix_to_mix: f64,
    /// The losses of local views, plain and mixed, in a run that has some.
    pub(crate) local: Option<[f64; 2]>,
    /// Top-1 accuracy in percent, in the epochs that were evaluated.
    pub(crate) knn: Option<f64>,
    pub(crate) learning_rate: f64,
}

/// A run, or as much of it as there is.
#[derive(Clone, Debug, Default)]
pub(crate) struct Metrics {
    pub(crate) epochs: Vec<Epoch>,
    /// The kNN accuracy on the pixels themselves, in percent.
    pub(crate) raw_pixels: Option<f64>,
    /// The kNN accuracy of the encoder before training, in percent.
    pub(crate) untrained_encoder: Option<f64>,
}

/// The size of the picture.
const SIZE: (i32, i32) = (1600, 560);
/// The left edge and the width of each plot, without its labels.
const PLOTS: [(i32, i32); 3] = [(92, 500), (688, 440), (1236, 336)];
const TOP: i32 = 140;
const BOTTOM: i32 = SIZE.1 - 76;

/// Draws the losses, the accuracy and the learning rate over the epochs.
pub(crate) fn curves_picture(path: &Path, curves: &Metrics) -> Result<()> {
    let panels = [loss_panel(curves), accuracy_panel(curves), rate_panel(curves)];
    let epochs = epoch_range(&[curves]);
    // Six losses are named in three rows.
    let more = if panels[0].series.len() > 4 { 30 } else { 0 };
    Canvas::write(path, (SIZE.0, SIZE.1 + more), |canvas| {
        for (panel, (left, width)) in panels.iter().zip(PLOTS) {
            let (top, bottom) = (TOP + more, BOTTOM + more);
            panel.draw(canvas, Frame { left, width, top, bottom, head: 106 + more }, epochs)?;
        }
        Ok(())
    })
}

/// The points of one quantity whose values are finite.
pub(crate) fn points(curves: &Metrics, value: impl Fn(&Epoch) -> f64) -> Vec<(f64, f64)> {
    let points = curves.epochs.iter().map(|row| (row.epoch as f64, value(row)));
    points.filter(|(_, value)| value.is_finite()).collect()
}

fn loss_panel(curves: &Metrics) -> Panel {
    let series = |name: &str, color, points| Series { name: name.to_owned(), color, shape: Shape::Line(points) };
    let mut all = vec![
        series("total", INK, points(curves, |row| row.loss)),
        series("origin-to-origin", BLUE, points(curves, |row| row.origin_to_origin)),
        series("mix-to-origin", ORANGE, points(curves, |row| row.mix_to_origin)),
        series("mix-to-mix", GREEN, points(curves, |row| row.mix_to_mix)),
    ];
    if curves.epochs.iter().any(|row| row.local.is_some()) {
        let of_local = |which: usize| points(curves, |row| row.local.map_or(f64::NAN, |losses| losses[which]));
        all.push(series("local-to-origin", RED, of_local(0)));
        all.push(series("local-mix-to-origin", PURPLE, of_local(1)));
    }
    Panel { title: "loss", unit: "", series: all }
}

fn accuracy_panel(curves: &Metrics) -> Panel {
    let knn = Shape::Dots(points(curves, |row| row.knn.unwrap_or(f64::NAN)));
    let mut series = vec![Series { name: "trained encoder".to_owned(), color: BLUE, shape: knn }];
    let references = [("raw pixels", RED, curves.raw_pixels), ("untrained encoder", PURPLE, curves.untrained_encoder)];
    for (name, color, value) in references {
        if let Some(value) = value.filter(|value| value.is_finite()) {
            series.push(Series { name: name.to_owned(), color, shape: Shape::Level(value) });
        }
    }
    Panel { title: "kNN top-1 accuracy", unit: "%", series }
}

fn rate_panel(curves: &Metrics) -> Panel {
    let rates = Shape::Line(points(curves, |row| row.learning_rate));
    Panel { title: "learning rate", unit: "", series: vec![Series { name: String::new(), color: INK, shape: rates }] }
}

#[cfg(test)]
mod tests;
