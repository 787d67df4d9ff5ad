//! What may change when a run resumes, and the history of what did.

use std::collections::BTreeMap;
use std::path::Path;

use patchmix::files::{printable, read_small};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::Settings;
use super::file::show;
use super::precision::PrecisionName;
use crate::Result;
use crate::run::{MAX_JSON, write_json};
use crate::terminal::shown;

/// Settings that decide where and how a run is computed, not what. They may differ between its ranks, and their changes
/// are not recorded.
pub(super) const UNDECIDING: [&str; 12] = [
    "data",
    "val",
    "device",
    "threads",
    "workers",
    "knn_every",
    "knn_images",
    "save_every",
    "save_epochs",
    "keep",
    "max_skipped_steps",
    "max_broken_images",
];

/// Settings that a run keeps to its end: the shape of its model, its images and their order.
pub(super) const KEPT: [&str; 14] = [
    "dataset",
    "limit",
    "arch",
    "width",
    "depth",
    "heads",
    "patch_size",
    "image_size",
    "hidden",
    "out_dim",
    "freeze_patch_embedding",
    "init",
    "online_probe",
    "seed",
];

/// In a `config.json`, beside the settings.
pub(super) const HISTORY: &str = "history";
/// In the history, beside the settings: the number of ranks.
const RANKS: &str = "ranks";

/// The changes in the course of a run.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct History(Vec<Changes>);

/// What changed as a run resumed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Changes {
    /// Steps and epochs done by then.
    step: u64,
    epoch: u64,
    changed: BTreeMap<String, Change>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Change {
    from: Value,
    to: Value,
}

impl History {
    /// The history in a `config.json`; empty if there is none.
    pub(crate) fn read(path: &Path) -> Result<History> {
        let mut fields: Map<String, Value> = serde_json::from_slice(&read_small(path, MAX_JSON)?)?;
        let history = fields.remove(HISTORY).map(serde_json::from_value).transpose();
        Ok(history.map_err(|error| format!("{}: {HISTORY}: {error}", shown(path)))?.unwrap_or_default())
    }

    /// What a setting was when the run began, if it has changed since.
    pub(crate) fn first(&self, name: &str) -> Option<&Value> {
        self.0.iter().find_map(|changes| changes.changed.get(name)).map(|change| &change.from)
    }

    /// The number of ranks that was recorded last, if it has changed.
    fn last_ranks(&self) -> Option<u64> {
        self.0.iter().rev().find_map(|changes| changes.changed.get(RANKS)?.to.as_u64())
    }

    /// Adds what changes after `step` steps and `epoch` epochs, the number of ranks included. Returns it in words, or
    /// `None` if nothing changes.
    pub(crate) fn add(
        &mut self,
        (step, epoch): (u64, u64),
        [before, now]: [&Settings; 2],
        ranks: [u64; 2],
    ) -> Result<Option<String>> {
        // A run that went on from an earlier checkpoint computes what followed it with its present settings.
        for changes in &mut self.0 {
            (changes.step, changes.epoch) = (changes.step.min(step), changes.epoch.min(epoch));
        }
        let (before, now) = (before.fields()?, now.fields()?);
        let differ =
            now.iter().filter(|(name, value)| before.get(*name) != Some(value) && !UNDECIDING.contains(&name.as_str()));
        let mut changed: BTreeMap<String, Change> = differ
            .map(|(name, to)| {
                let from = before.get(name).cloned().unwrap_or_default();
                (name.clone(), Change { from, to: to.clone() })
            })
            .collect();
        let mut words: Vec<String> = changed.iter().map(|(name, change)| change.describe(name)).collect();
        // What was recorded last may not have been saved since.
        let (ranks_before, ranks) = (self.last_ranks().unwrap_or(ranks[0]), ranks[1]);
        if ranks_before != ranks {
            changed.insert(RANKS.to_owned(), Change { from: ranks_before.into(), to: ranks.into() });
            words.push(format!("{ranks} ranks instead of {ranks_before}"));
        }
        if changed.is_empty() {
            return Ok(None);
        }
        self.0.push(Changes { step, epoch, changed });
        Ok(Some(words.join("; ")))
    }
}

impl Change {
    fn describe(&self, name: &str) -> String {
        let (from, to) = (show(name, &self.from), show(name, &self.to));
        format!("--{} {to} instead of {from}", name.replace('_', "-"))
    }
}

impl Settings {
    /// Writes a `config.json`.
    pub(crate) fn write(&self, path: &Path, history: &History) -> Result<()> {
        let mut fields = self.fields()?;
        if !history.0.is_empty() {
            fields.insert(HISTORY.to_owned(), serde_json::to_value(history)?);
        }
        write_json(path, &fields)
    }

    /// Checks that the run in `folder` with the settings `saved` can go on with these. `--precision auto` becomes the
    /// run's own.
    pub(super) fn check_resumes(&mut self, saved: &Settings, folder: Option<&Path>) -> Result<()> {
        if self.precision == PrecisionName::Auto {
            self.precision = saved.precision;
        }
        let (before, now) = (saved.fields()?, self.fields()?);
        let is_kept = |name: &str| {
            KEPT.contains(&name)
                || name == "momentum_encoder" && (self.momentum_encoder == 0.0) != (saved.momentum_encoder == 0.0)
        };
        let changed = now.iter().find(|(name, value)| before.get(*name) != Some(value) && is_kept(name));
        let Some((name, value)) = changed else { return Ok(()) };
        Err(format!(
            "--{} {} differs from the run's {}, which a run keeps to its end; leave it out to resume, or begin a new \
             run, with its weights by --init {}",
            name.replace('_', "-"),
            printable(show(name, value)),
            before.get(name).map_or_else(|| "none".to_owned(), |value| printable(show(name, value))),
            folder.map(shown).unwrap_or_default(),
        )
        .into())
    }
}

/// Everything that decides what a run on these images computes, in text.
pub(crate) fn deciding(settings: &Settings, images: &str) -> Result<String> {
    let mut deciding = settings.fields()?;
    deciding.retain(|name, _| !UNDECIDING.contains(&name.as_str()));
    Ok(format!("{}\n{images}", Value::Object(deciding)))
}
