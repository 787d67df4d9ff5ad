//! What can still be read of a `metrics.csv` that was lost, cut or edited.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use csv::{ReaderBuilder, StringRecord};
use patchmix::Error;
use patchmix::files::{printable, read_small, write_atomic};

use super::{MAX_COLUMNS, MAX_METRICS, METRICS, Row};
use crate::terminal::shown;

/// Where a file is kept that could not be read as a whole, as the next epoch writes a new one.
const KEPT: &str = "metrics.csv.damaged";

/// The rows of the first `epochs` epochs, as far as they can be read, and what is wrong with the file. Later rows,
/// written before the run died, are computed again.
pub(crate) fn recover(run: &Path, epochs: u64) -> (Vec<Row>, Option<String>) {
    if epochs == 0 {
        return (Vec::new(), None);
    }
    let path = run.join(METRICS);
    let (bytes, problem) = match read_small(&path, MAX_METRICS) {
        Ok(bytes) => (bytes, None),
        Err(Error::Io { source, .. }) => (Vec::new(), Some(source.to_string())),
        Err(Error::Data { problem, .. }) => (Vec::new(), Some(problem)),
        Err(error) => (Vec::new(), Some(error.to_string())),
    };
    let Readable { rows, foreign } = readable(&String::from_utf8_lossy(&bytes), epochs);
    let mut problems: Vec<String> = problem.into_iter().collect();
    if !foreign.is_empty() {
        let columns = foreign.into_iter().map(printable).collect::<Vec<_>>().join(", ");
        problems.push(format!("what is not a number is left out ({columns})"));
    }
    if rows.len() as u64 != epochs {
        problems.push(format!("has rows for {} of the {epochs} epochs done; the others stay blank", rows.len()));
    }
    if problems.is_empty() {
        return (rows, None);
    }
    let problem = format!("{}: {}", shown(&path), problems.join("; "));
    let kept = run.join(KEPT);
    // Someone may want to mend it by hand. The first one holds most.
    let is_kept = !bytes.is_empty() && !kept.exists() && write_atomic(&kept, &bytes).is_ok();
    (rows, Some(if is_kept { format!("{problem}; the file as it was is kept as {KEPT}") } else { problem }))
}

/// What can be read.
struct Readable {
    /// In the order of their epochs.
    rows: Vec<Row>,
    /// Columns with something other than numbers.
    foreign: BTreeSet<String>,
}

/// The rows up to an epoch that are whole, each in a line: a stray quote costs no other row. In a line that was cut,
/// the last number may lack digits.
fn readable(text: &str, epochs: u64) -> Readable {
    let (mut rows, mut foreign) = (BTreeMap::new(), BTreeSet::new());
    let whole = text.rfind('\n').map_or("", |end| &text[..=end]);
    let mut lines = whole.lines().map(cells);
    let columns = lines.next().filter(|columns| columns.len() <= MAX_COLUMNS).unwrap_or_default();
    for record in lines.filter(|record| record.len() == columns.len()) {
        let row = Row::from_iter(columns.iter().zip(&record).map(|(column, cell)| {
            let number = cell.parse().ok();
            if number.is_none() && !cell.is_empty() {
                foreign.insert(column.to_owned());
            }
            (column, number)
        }));
        let epoch = row.get("epoch").filter(|epoch| epoch.fract() == 0.0 && (1.0..=epochs as f64).contains(epoch));
        if let Some(epoch) = epoch {
            rows.insert(epoch as u64, row);
        }
    }
    Readable { rows: rows.into_values().collect(), foreign }
}

/// The cells of a line; none if it is no record.
fn cells(line: &str) -> StringRecord {
    let mut reader = ReaderBuilder::new().has_headers(false).from_reader(line.as_bytes());
    reader.records().next().and_then(Result::ok).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const WHOLE: &str = "epoch,lr,knn_top1\n1,0.5,\n2,0.25,40.5\n3,0.125,\n";

    /// The epochs that are recovered of three, with their rates, and what is said.
    fn recovered(text: &str) -> (Vec<(f64, Option<f64>)>, String) {
        let run = tempfile::tempdir().unwrap();
        fs::write(run.path().join(METRICS), text).unwrap();
        let (rows, problem) = recover(run.path(), 3);
        let kept = fs::read_to_string(run.path().join(KEPT)).ok();
        assert_eq!(kept.as_deref(), (problem.is_some() && !text.is_empty()).then_some(text));
        (rows.iter().map(|row| (row.get("epoch").unwrap(), row.get("lr"))).collect(), problem.unwrap_or_default())
    }

    #[test]
    fn a_file_that_is_whole_is_read_up_to_the_epochs_done() {
        let all = vec![(1.0, Some(0.5)), (2.0, Some(0.25)), (3.0, Some(0.125))];
        assert_eq!(recovered(WHOLE), (all.clone(), String::new()));
        assert_eq!(recovered(&format!("{WHOLE}4,0.1,\n5,0.0")), (all, String::new()), "later rows do not matter");
        let run = tempfile::tempdir().unwrap();
        assert_eq!(recover(run.path(), 0), (Vec::new(), None), "nothing is missing before the first epoch");
        let (rows, problem) = recover(run.path(), 2);
        assert!(rows.is_empty() && problem.is_some_and(|problem| problem.contains("0 of the 2 epochs")));
    }

    #[test]
    fn a_file_that_was_cut_anywhere_keeps_the_lines_before() {
        for length in 0..WHOLE.len() {
            let (rows, problem) = recovered(&WHOLE[..length]);
            let lines = WHOLE[..length].matches('\n').count();
            assert_eq!(rows.len(), lines.saturating_sub(1), "{length}");
            assert!(problem.contains(&format!("{} of the 3 epochs", rows.len())), "{problem}");
        }
    }

    #[test]
    fn a_foreign_column_is_named_and_costs_nothing_else() {
        let (rows, problem) = recovered("epoch,note,lr,knn_top1\n1,,0.5,\n2,good,0.25,40.5\n3,,x,\n");
        assert_eq!(rows, [(1.0, Some(0.5)), (2.0, Some(0.25)), (3.0, None)]);
        assert!(problem.contains("not a number") && problem.contains("lr, note"), "{problem}");
        let (rows, _) = recovered("epoch,lr,knn_top1\n1,0.5\n2,0.25,40.5,1,1\n3,0.125,\nnonsense\n");
        assert_eq!(rows, [(3.0, Some(0.125))], "lines of another length are not rows");
    }

    #[test]
    fn a_stray_quote_costs_one_row() {
        let (rows, problem) = recovered("epoch,lr,knn_top1\n1,0.5,\n2,\"0.25,40.5\n3,0.125,\n");
        assert_eq!(rows, [(1.0, Some(0.5)), (3.0, Some(0.125))]);
        assert!(problem.contains("2 of the 3 epochs"), "{problem}");
    }
}
