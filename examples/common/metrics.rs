//! What a run measures: a row of `metrics.csv` for every epoch that is done, and `summary.json`.
#![allow(dead_code)] // every program uses its own part

use std::fs;
use std::path::Path;

use patchmix::checkpoint::write_whole;
use serde::{Deserialize, Serialize};

use super::Result;
use super::pictures::curves::{Epoch, Metrics};

pub(crate) const METRICS: &str = "metrics.csv";
pub(crate) const SUMMARY: &str = "summary.json";

/// What `config.json` does not say: what it was computed with, and kNN accuracies in percent that do not belong to an
/// epoch.
#[derive(Debug, Default, Clone, Serialize, Deserialize)]
pub(crate) struct Summary {
    pub(crate) version: String,
    pub(crate) device: String,
    pub(crate) threads: i32,
    pub(crate) knn_raw_pixels: Option<f64>,
    pub(crate) knn_untrained: Option<f64>,
    pub(crate) knn_trained: Option<f64>,
}

impl Summary {
    /// The summary of a run; an empty one where there is none that can be read.
    pub(crate) fn read(run: &Path) -> Summary {
        let text = fs::read(run.join(SUMMARY)).ok();
        text.and_then(|text| serde_json::from_slice(&text).ok()).unwrap_or_default()
    }
}

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
    /// Of runs with local views.
    pub(crate) local_to_origin: Option<f64>,
    pub(crate) local_mix_to_origin: Option<f64>,
    pub(crate) gradient_norm: f64,
    pub(crate) feature_std: f64,
    pub(crate) skipped_steps: u64,
    /// Images whose files are broken, left out of their batches.
    pub(crate) broken_images: u64,
    pub(crate) knn_top1: Option<f64>,
    pub(crate) images_per_second: f64,
    /// Share of the epoch's time in which training waited for images to be decoded.
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

/// The rows of all epochs.
pub(crate) fn read_all(path: &Path) -> Result<Vec<EpochRow>> {
    let named = |error: csv::Error| {
        format!("{}: {error}; if another version wrote it, train with this one into another folder", path.display())
    };
    let mut reader = csv::Reader::from_path(path).map_err(named)?;
    Ok(reader.deserialize().collect::<std::result::Result<_, _>>().map_err(named)?)
}

/// The rows of the first `epochs` epochs; later ones, written before the run died, are computed again.
pub(crate) fn read(path: &Path, epochs: u64) -> Result<Vec<EpochRow>> {
    if epochs == 0 {
        return Ok(Vec::new());
    }
    let mut rows = read_all(path)?;
    rows.retain(|row| row.epoch <= epochs);
    if rows.len() as u64 == epochs {
        return Ok(rows);
    }
    Err(format!("{}: has rows for {} of the {epochs} epochs done", path.display(), rows.len()).into())
}

/// What there is to draw of a run.
pub(crate) fn curves(rows: &[EpochRow], summary: &Summary) -> Metrics {
    let epochs = rows.iter().map(|row| Epoch {
        epoch: row.epoch as i64,
        loss: row.loss,
        origin_to_origin: row.origin_to_origin,
        mix_to_origin: row.mix_to_origin,
        mix_to_mix: row.mix_to_mix,
        local: row.local_to_origin.zip(row.local_mix_to_origin).map(|(plain, mixed)| [plain, mixed]),
        knn: row.knn_top1,
        learning_rate: row.lr,
    });
    Metrics { epochs: epochs.collect(), raw_pixels: summary.knn_raw_pixels, untrained_encoder: summary.knn_untrained }
}
