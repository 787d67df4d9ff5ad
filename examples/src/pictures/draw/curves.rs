//! `curves.png`: losses, kNN accuracy and learning rate of a run over its epochs.

use std::iter;
use std::path::Path;

use plotters::style::RGBColor;

use super::canvas::Canvas;
use super::color::{BLUE, COLORS, GREEN, INK, ORANGE, PURPLE, RED};
use super::plot::{Frame, Panel, Series, Shape};
use crate::Result;
use crate::run::metrics::{KNN, KNN_MOMENTUM, PROBE, Row, Summary, loss_terms};

/// Size of the picture.
const SIZE: (i32, i32) = (1600, 560);
/// Left edge and width of each plot, without its labels.
const PLOTS: [(i32, i32); 3] = [(92, 500), (688, 440), (1236, 336)];
const TOP: i32 = 140;
const BOTTOM: i32 = SIZE.1 - 76;

/// Draws the losses, the accuracy and the learning rate over the epochs. Values that are not finite are left out.
pub(crate) fn curves_picture(path: &Path, rows: &[Row], summary: &Summary) -> Result<()> {
    let rate = Series { name: String::new(), color: INK, shape: Shape::Line(points(rows, "lr")) };
    let rate = Panel { title: "learning rate".to_owned(), unit: "", series: vec![rate] };
    let panels = [loss_panel(rows), accuracy_panel(rows, summary), rate];
    let epochs = epoch_range(rows);
    let more = panels.iter().map(Panel::extra_head).max().unwrap_or(0);
    Canvas::write(path, (SIZE.0, SIZE.1 + more), |canvas| {
        for (panel, (left, width)) in panels.iter().zip(PLOTS) {
            let (top, bottom) = (TOP + more, BOTTOM + more);
            panel.draw(canvas, Frame { left, width, top, bottom, head: 106 + more }, epochs)?;
        }
        Ok(())
    })
}

/// Epochs and finite values of one column.
pub(crate) fn points(rows: &[Row], column: &str) -> Vec<(f64, f64)> {
    let points = rows.iter().filter_map(|row| row.get("epoch").zip(row.get(column)));
    points.filter(|(_, value)| value.is_finite()).collect()
}

/// The first and the last epoch of these rows.
pub(crate) fn epoch_range<'a>(rows: impl IntoIterator<Item = &'a Row>) -> (f64, f64) {
    let range = rows.into_iter().filter_map(|row| row.get("epoch")).fold(None, |range, epoch| {
        let (first, last) = range.unwrap_or((epoch, epoch));
        Some((epoch.min(first), epoch.max(last)))
    });
    match range {
        // An axis needs a length: a single epoch stands in the middle.
        Some((first, last)) if first == last => (first - 1.0, first + 1.0),
        Some(range) => range,
        None => (0.0, 1.0),
    }
}

/// A column's name as it is drawn: `mix-to-origin` for `mix_to_origin`.
pub(crate) fn column_name(column: &str) -> String {
    column.replace('_', "-")
}

fn loss_panel(rows: &[Row]) -> Panel {
    let line = |name, color: RGBColor, column: &str| Series { name, color, shape: Shape::Line(points(rows, column)) };
    let total = iter::once(line("total".to_owned(), INK, "loss"));
    let colors = COLORS.into_iter().filter(|color| *color != INK).cycle();
    let terms = loss_terms(rows);
    let terms = terms.iter().zip(colors).map(|(term, color)| line(column_name(term), color, term));
    Panel { title: "loss".to_owned(), unit: "", series: total.chain(terms).collect() }
}

fn accuracy_panel(rows: &[Row], summary: &Summary) -> Panel {
    let encoder = |name: &str, color, column| {
        let points = points(rows, column);
        Series { name: name.to_owned(), color, shape: Shape::Dots(points) }
    };
    let mut series = vec![encoder("trained encoder", BLUE, KNN)];
    if rows.iter().any(|row| row.get(KNN_MOMENTUM).is_some()) {
        series.push(encoder("momentum encoder", GREEN, KNN_MOMENTUM));
    }
    let has_probe = rows.iter().any(|row| row.get(PROBE).is_some());
    if has_probe {
        series.push(encoder("online probe", ORANGE, PROBE));
    }
    let baselines = [("raw pixels", RED, summary.knn_raw_pixels), ("untrained encoder", PURPLE, summary.knn_untrained)];
    for (name, color, value) in baselines {
        if let Some(value) = value.filter(|value| value.is_finite()) {
            series.push(Series { name: name.to_owned(), color, shape: Shape::Level(value) });
        }
    }
    let title = if has_probe { "kNN and probe, top-1 accuracy" } else { "kNN top-1 accuracy" };
    Panel { title: title.to_owned(), unit: "%", series }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    /// Columns of one epoch, to be changed before they become a row.
    type Columns = BTreeMap<&'static str, Option<f64>>;

    const LOCAL: [&str; 2] = ["local_to_origin", "local_mix_to_origin"];
    /// Columns of `metrics.csv`, in their order there.
    const ORDER: [&str; 9] =
        ["epoch", "lr", "loss", "origin_to_origin", "mix_to_origin", "mix_to_mix", LOCAL[0], LOCAL[1], "gradient_norm"];

    fn columns(epochs: i64, every: i64) -> Vec<Columns> {
        let columns = |epoch: i64| {
            let time = epoch as f64 / epochs as f64;
            let fall = |from: f64, to: f64| to + (from - to) * (-4.0 * time).exp();
            let (oo, mo, mm) = (fall(6.2, 2.1), fall(6.2, 3.4), fall(6.2, 4.0));
            Columns::from([
                ("epoch", Some(epoch as f64)),
                ("lr", Some(4e-3 * (time / 0.125).min(0.5 + 0.5 * (std::f64::consts::PI * time).cos()))),
                ("loss", Some(oo + (mo + mm) / 2.0)),
                ("origin_to_origin", Some(oo)),
                ("mix_to_origin", Some(mo)),
                ("mix_to_mix", Some(mm)),
                ("gradient_norm", Some(1.0)),
                ("knn_top1", (epoch % every == 0).then(|| 82.0 - 45.0 * (-3.0 * time).exp())),
            ])
        };
        (1..=epochs).map(columns).collect()
    }

    fn rows(epochs: &[Columns]) -> Vec<Row> {
        let row = |columns: &Columns| {
            let ordered = ORDER.into_iter().chain([KNN, KNN_MOMENTUM, PROBE]);
            Row::from_iter(ordered.map(|name| (name, columns.get(name).copied().flatten())))
        };
        epochs.iter().map(row).collect()
    }

    fn summary() -> Summary {
        Summary { knn_raw_pixels: Some(33.9), knn_untrained: Some(38.2), ..Summary::default() }
    }

    fn draw(epochs: &[Columns], summary: &Summary) -> image::RgbImage {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("curves.png");
        curves_picture(&path, &rows(epochs), summary).unwrap();
        image::open(path).unwrap().into_rgb8()
    }

    #[test]
    fn the_picture_follows_the_run() {
        let run = columns(40, 5);
        let picture = draw(&run, &summary());
        assert_eq!(picture.dimensions(), (SIZE.0 as u32, SIZE.1 as u32));
        assert_eq!(picture, draw(&run, &summary()));
        let mut other = run.clone();
        let higher = run[20]["mix_to_mix"].map(|loss| loss + 1.0);
        other[20].insert("mix_to_mix", higher);
        assert_ne!(picture, draw(&other, &summary()));
        for epoch in &mut other {
            epoch.extend([(LOCAL[0], epoch["mix_to_mix"]), (LOCAL[1], epoch["loss"])]);
        }
        assert!(draw(&other, &summary()).height() > picture.height(), "two more losses need room in the legend");
        assert_ne!(picture, draw(&run, &Summary { knn_raw_pixels: None, ..summary() }));
        let mut with_momentum = run.clone();
        for epoch in &mut with_momentum {
            let higher = epoch["knn_top1"].map(|knn| knn + 2.0);
            epoch.insert("knn_top1_momentum", higher);
        }
        let names = accuracy_panel(&rows(&with_momentum), &summary()).series.into_iter().map(|series| series.name);
        let expected = ["trained encoder", "momentum encoder", "raw pixels", "untrained encoder"];
        assert_eq!(names.collect::<Vec<_>>(), expected);
        assert_ne!(picture, draw(&with_momentum, &summary()));
        for epoch in &mut run.clone() {
            epoch.insert(PROBE, epoch["knn_top1"]);
            let panel = accuracy_panel(&rows(std::slice::from_ref(epoch)), &summary());
            let has_probe = epoch["knn_top1"].is_some();
            assert_eq!(panel.series.iter().any(|series| series.name == "online probe"), has_probe);
            assert_eq!(panel.title.contains("probe"), has_probe);
        }
    }

    #[test]
    fn runs_of_any_length_are_drawn() {
        let mut lengths: Vec<_> = [1, 2, 3, 800].map(|epochs| draw(&columns(epochs, 1), &summary())).to_vec();
        lengths.push(draw(&[], &Summary::default()));
        for (index, picture) in lengths.iter().enumerate() {
            assert!(lengths[..index].iter().all(|other| other != picture));
        }
    }

    #[test]
    fn values_that_are_not_finite_are_left_out() {
        let mut run = columns(10, 20);
        for (index, value) in [(3, f64::NAN), (4, f64::INFINITY)] {
            run[index].insert("loss", Some(value));
            run[index].insert("knn_top1", Some(value));
        }
        assert_eq!(points(&rows(&run), "loss").len(), 8);
        draw(&run, &Summary { knn_untrained: Some(f64::NAN), ..summary() });
    }

    #[test]
    fn every_term_of_the_loss_has_a_line_of_its_own() {
        let names = |run: &[Columns]| {
            let panel = loss_panel(&rows(run));
            panel.series.iter().map(|series| series.name.clone()).collect::<Vec<_>>()
        };
        let mut run = columns(3, 1);
        assert_eq!(names(&run), ["total", "origin-to-origin", "mix-to-origin", "mix-to-mix"]);
        run.iter_mut().for_each(|epoch| epoch.extend(LOCAL.map(|name| (name, Some(2.0)))));
        assert_eq!(names(&run)[4..], ["local-to-origin", "local-mix-to-origin"]);
        let colors: Vec<_> = loss_panel(&rows(&run)).series.iter().map(|series| series.color).collect();
        assert!((1..colors.len()).all(|index| !colors[..index].contains(&colors[index])), "{colors:?}");
    }
}
