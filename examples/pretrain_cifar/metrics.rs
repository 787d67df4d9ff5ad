//! `metrics.csv`: a row for every epoch that is done.

use std::path::Path;

use patchmix::checkpoint::write_whole;
use serde::{Deserialize, Serialize};

use crate::Result;

/// A row of `metrics.csv`. Losses are means over the epoch, rates those of its last step, kNN in percent.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct EpochRow {
    pub(crate) epoch: u64,
    pub(crate) step: u64,
    pub(crate) lr: f64,
    pub(crate) weight_decay: f64,
    pub(crate) loss: f64,
    pub(crate) origin_to_origin: f64,
    pub(crate) mix_to_origin: f64,
    pub(crate) mix_to_mix: f64,
    pub(crate) gradient_norm: f64,
    pub(crate) feature_std: f64,
    pub(crate) skipped_steps: u64,
    pub(crate) knn_top1: Option<f64>,
    pub(crate) images_per_second: f64,
    /// Share of the epoch's time that the host waited for the images of its batches.
    pub(crate) data_wait_share: f64,
}

/// Writes all rows; what was there before stays until they are on the disk.
pub(crate) fn write(path: &Path, rows: &[EpochRow]) -> Result<()> {
    let mut writer = csv::Writer::from_writer(Vec::new());
    for row in rows {
        writer.serialize(row)?;
    }
    Ok(write_whole(path, &writer.into_inner()?)?)
}

/// The rows of the first `epochs` epochs; later ones, written before the run died, are computed again.
pub(crate) fn read(path: &Path, epochs: u64) -> Result<Vec<EpochRow>> {
    if epochs == 0 {
        return Ok(Vec::new());
    }
    let named = |error: csv::Error| format!("{}: {error}", path.display());
    let mut reader = csv::Reader::from_path(path).map_err(named)?;
    let mut rows: Vec<EpochRow> = reader.deserialize().collect::<std::result::Result<_, _>>().map_err(named)?;
    rows.retain(|row| row.epoch <= epochs);
    if rows.len() as u64 == epochs {
        return Ok(rows);
    }
    Err(format!("{}: has rows for {} of the {epochs} epochs done", path.display(), rows.len()).into())
}
