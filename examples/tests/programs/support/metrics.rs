//! `metrics.csv`, read by the names of its columns.

use std::collections::BTreeMap;
use std::path::Path;

/// Columns that depend on the clock.
const TIMES: [&str; 2] = ["images_per_second", "data_wait_share"];

/// A row of `metrics.csv`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Row(BTreeMap<String, String>);

impl Row {
    /// The text in a column, which must exist.
    #[track_caller]
    pub(crate) fn text(&self, column: &str) -> &str {
        self.0.get(column).unwrap_or_else(|| panic!("no column {column} in {self:?}"))
    }

    /// The number in a column.
    #[track_caller]
    pub(crate) fn number(&self, column: &str) -> f64 {
        self.text(column).parse().unwrap_or_else(|error| panic!("{column}: {error} in {self:?}"))
    }

    /// All numbers with their columns; empty fields are left out.
    pub(crate) fn numbers(&self) -> impl Iterator<Item = (&str, f64)> {
        self.0.iter().filter(|(_, text)| !text.is_empty()).map(|(column, _)| (column.as_str(), self.number(column)))
    }
}

/// The names of the columns in their order, and all rows.
pub(crate) fn read_metrics(run: &Path) -> (Vec<String>, Vec<Row>) {
    let mut reader = csv::Reader::from_path(run.join("metrics.csv")).unwrap();
    let columns = reader.headers().unwrap().iter().map(str::to_owned).collect();
    let rows = reader.deserialize().map(|row| Row(row.unwrap())).collect();
    (columns, rows)
}

/// All rows without the columns that depend on the clock.
pub(crate) fn metrics(run: &Path) -> Vec<Row> {
    let (_, mut rows) = read_metrics(run);
    for row in &mut rows {
        for time in TIMES {
            assert!(row.0.remove(time).is_some(), "no column {time}");
        }
    }
    rows
}
