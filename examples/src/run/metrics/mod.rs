//! Measurements of a run: `metrics.csv` with a row per epoch, and `summary.json`.

mod recovery;

use std::path::Path;

use patchmix::files::{printable, read_small, write_atomic};
use serde::{Deserialize, Serialize};

use super::{MAX_JSON, write_json};
use crate::Result;
use crate::terminal::shown;

pub(crate) use recovery::recover;

pub(crate) const METRICS: &str = "metrics.csv";
/// The longest `metrics.csv` that is read, in bytes, and its columns: far more than a run has.
const MAX_METRICS: u64 = 64 << 20;
const MAX_COLUMNS: usize = 100;
pub(crate) const SUMMARY: &str = "summary.json";

/// The total loss; the columns up to [`GRADIENT_NORM`] are its terms.
pub(crate) const LOSS: &str = "loss";
pub(crate) const GRADIENT_NORM: &str = "gradient_norm";
/// The kNN accuracy of the encoder that gradients train, and of the momentum encoder.
pub(crate) const KNN: &str = "knn_top1";
pub(crate) const KNN_MOMENTUM: &str = "knn_top1_momentum";
/// The accuracy of the linear classifier that learns beside the trained encoder.
pub(crate) const PROBE: &str = "online_probe_top1";
/// The accuracies by an earlier protocol, in a run that began with another version or other labeled images.
pub(crate) const KNN_BEFORE: &str = "knn_top1_before";
pub(crate) const KNN_MOMENTUM_BEFORE: &str = "knn_top1_momentum_before";

/// A row of `metrics.csv`: named numbers, in the order of the columns. Losses are averaged over the epoch, rates are
/// those of its last step, kNN accuracies are percentages.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Row(Vec<(String, Option<f64>)>);

impl Row {
    /// The number in a column, if there is one.
    pub(crate) fn get(&self, column: &str) -> Option<f64> {
        self.columns().find(|(name, _)| *name == column).and_then(|(_, number)| number)
    }

    /// Gives a column another name. If that name is taken, its number stays where the renamed column has none.
    pub(crate) fn rename(&mut self, column: &str, name: &str) {
        let kept = self.get(column).or(self.get(name));
        if let Some(place) = self.0.iter().position(|(other, _)| other == column) {
            self.0[place] = (name.to_owned(), kept);
            let mut index = 0..;
            self.0.retain(|(other, _)| index.next() == Some(place) || other != name);
        }
    }

    pub(crate) fn columns(&self) -> impl Iterator<Item = (&str, Option<f64>)> {
        self.0.iter().map(|(name, number)| (name.as_str(), *number))
    }
}

impl<'a> FromIterator<(&'a str, Option<f64>)> for Row {
    fn from_iter<I: IntoIterator<Item = (&'a str, Option<f64>)>>(columns: I) -> Row {
        Row(columns.into_iter().map(|(name, number)| (name.to_owned(), number)).collect())
    }
}

/// The terms of the loss that the rows have numbers for, in order.
pub(crate) fn loss_terms(rows: &[Row]) -> Vec<String> {
    let mut terms: Vec<String> = Vec::new();
    for row in rows {
        let names = row.columns().skip_while(|(name, _)| *name != LOSS).skip(1);
        for (name, number) in names.take_while(|(name, _)| *name != GRADIENT_NORM) {
            if number.is_some() && !terms.iter().any(|term| term == name) {
                terms.push(name.to_owned());
            }
        }
    }
    terms
}

/// Writes all rows of a run; an interruption leaves the old file or the new one.
pub(crate) fn write(run: &Path, rows: &[Row]) -> Result<()> {
    let mut columns: Vec<&str> = Vec::new();
    for (name, _) in rows.iter().flat_map(Row::columns) {
        if !columns.contains(&name) {
            columns.push(name);
        }
    }
    let mut writer = csv::Writer::from_writer(Vec::new());
    writer.write_record(&columns)?;
    for row in rows {
        let cell = |column: &&str| row.get(column).map(|number| number.to_string()).unwrap_or_default();
        writer.write_record(columns.iter().map(cell))?;
    }
    Ok(write_atomic(&run.join(METRICS), &writer.into_inner()?)?)
}

/// The rows of all epochs of a run.
pub(crate) fn read(run: &Path) -> Result<Vec<Row>> {
    let path = run.join(METRICS);
    let named = |error: &dyn std::fmt::Display| format!("{}: {}", shown(&path), printable(error));
    let bytes = read_small(&path, MAX_METRICS)?;
    let mut reader = csv::Reader::from_reader(bytes.as_slice());
    let columns = reader.headers().map_err(|error| named(&error))?.clone();
    if columns.len() > MAX_COLUMNS {
        return Err(named(&format!("has {} columns, more than {MAX_COLUMNS}", columns.len())).into());
    }
    let mut rows = Vec::new();
    for record in reader.records() {
        let record = record.map_err(|error| named(&error))?;
        let mut row = Vec::new();
        for (column, cell) in columns.iter().zip(&record) {
            let number = match cell {
                "" => None,
                cell => Some(cell.parse().map_err(|_| named(&format!("{column} is {cell}, not a number")))?),
            };
            row.push((column.to_owned(), number));
        }
        rows.push(Row(row));
    }
    Ok(rows)
}

/// What the run was computed with, and kNN accuracies in percent that belong to no epoch.
#[derive(Debug, Default, Clone, Serialize, Deserialize)]
pub(crate) struct Summary {
    pub(crate) version: String,
    pub(crate) device: String,
    pub(crate) threads: i32,
    /// How the images were prepared for the accuracies; unknown in a run of an earlier version.
    pub(crate) knn_protocol: Option<String>,
    pub(crate) knn_raw_pixels: Option<f64>,
    pub(crate) knn_untrained: Option<f64>,
    pub(crate) knn_trained: Option<f64>,
    pub(crate) knn_momentum: Option<f64>,
}

impl Summary {
    /// The summary of a run, if there is one that can be read.
    pub(crate) fn read(run: &Path) -> Option<Summary> {
        serde_json::from_slice(&read_small(&run.join(SUMMARY), MAX_JSON).ok()?).ok()
    }

    pub(crate) fn write(&self, run: &Path) -> Result<()> {
        write_json(&run.join(SUMMARY), self)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn rows_are_read_as_they_were_written() {
        let run = tempfile::tempdir().unwrap();
        let rows: Vec<Row> = [(1.0, None), (2.0, Some(1.0 / 3.0))]
            .map(|(epoch, knn)| Row::from_iter([("epoch", Some(epoch)), ("lr", Some(1e-6)), ("knn_top1", knn)]))
            .to_vec();
        write(run.path(), &rows).unwrap();
        assert_eq!(read(run.path()).unwrap(), rows);
        fs::write(run.path().join(METRICS), "epoch,loss\n1,much\n").unwrap();
        let error = read(run.path()).unwrap_err().to_string();
        assert!(error.contains("metrics.csv: loss is much"), "{error}");
        fs::write(run.path().join(METRICS), "epoch,".repeat(MAX_COLUMNS) + "loss\n").unwrap();
        let error = read(run.path()).unwrap_err().to_string();
        assert!(error.contains("metrics.csv: has 101 columns"), "{error}");
    }

    #[test]
    fn renaming_a_column_loses_no_number() {
        let renamed = |columns: &[(&str, Option<f64>)]| {
            let mut row = Row::from_iter(columns.iter().copied());
            row.rename("new", "old");
            (row.columns().count(), row.get("old"), row.get("other"))
        };
        assert_eq!(renamed(&[("new", Some(1.0)), ("other", Some(3.0))]), (2, Some(1.0), Some(3.0)));
        assert_eq!(renamed(&[("old", Some(2.0)), ("new", None), ("other", None)]), (2, Some(2.0), None));
        assert_eq!(renamed(&[("new", Some(1.0)), ("old", Some(2.0))]), (1, Some(1.0), None));
        assert_eq!(renamed(&[("old", Some(2.0))]), (1, Some(2.0), None));
    }

    #[test]
    fn the_terms_of_the_loss_stand_between_it_and_the_gradient_norm() {
        let row = |local| {
            let terms = [("mix_to_mix", Some(1.0)), ("local_to_origin", local)];
            let all = [("epoch", Some(1.0)), (LOSS, Some(2.0))].into_iter().chain(terms);
            Row::from_iter(all.chain([(GRADIENT_NORM, Some(3.0)), ("knn_top1", Some(4.0))]))
        };
        assert_eq!(loss_terms(&[row(None)]), ["mix_to_mix"]);
        assert_eq!(loss_terms(&[row(None), row(Some(5.0))]), ["mix_to_mix", "local_to_origin"]);
        assert_eq!(loss_terms(&[]), [""; 0]);
    }
}
