//! The kNN accuracies that training has to beat, and what becomes of those that another version measured.

use patchmix::data::Split;

use super::super::learner::{Learner, initial_model};
use super::super::position::Position;
use super::{MIX, Report, goes_on_without, knn};
use crate::Result;
use crate::images::Voters;
use crate::run::metrics::{self, KNN, KNN_BEFORE, KNN_MOMENTUM, KNN_MOMENTUM_BEFORE, Summary};
use crate::settings::Settings;
use crate::tensorboard::EventFile;
use crate::terminal::log;

impl Report<'_> {
    /// Measures raw pixels and the untrained encoder, if there are labeled images. A run that resumes has done so as it
    /// began.
    pub(super) fn take_baselines(&mut self, learner: &Learner, position: &Position) -> Result<()> {
        let settings = self.run.settings;
        let resumes = (position.epoch, position.batch) != (0, 0);
        let protocol = self.images.protocol(settings.image_size)?;
        let saved = if resumes { Summary::read(&self.run.folder.path) } else { None };
        if self.images.voters() == Voters::Nobody {
            self.summary = saved.unwrap_or_else(|| begun_summary(learner));
            return self.summary.write(&self.run.folder.path);
        }
        if let Some(summary) = saved.as_ref().filter(|summary| summary.knn_protocol.as_ref() == Some(&protocol)) {
            self.summary = summary.clone();
            return Ok(());
        }
        let has_measured = saved.as_ref().is_some_and(|summary| summary.knn_raw_pixels.is_some());
        if resumes && saved.is_none() {
            log!("summary.json is missing or damaged: the kNN accuracies before training are measured again");
        } else if has_measured {
            log!(
                "note: the kNN accuracies so far were measured in another way and are not compared with new ones; they \
                 move to the column {KNN_BEFORE}, and those before training are measured again"
            );
            let is_of_other_version = saved.as_ref().is_some_and(|summary| summary.knn_protocol.is_none());
            if is_of_other_version && learner.momentum.is_some() && settings.drop_path > 0.0 {
                log!("note: the keys of the momentum encoder no longer drop paths, as published");
            }
            self.set_aside_accuracies()?;
        }
        let summary = saved.unwrap_or_else(|| begun_summary(learner));
        let pixels = knn::of_pixels(self.images, settings.knn_images)?;
        let of = |encoder| knn::of_encoder(self.images, encoder, settings.knn_images);
        let untrained = match (resumes, &settings.init) {
            (false, _) => Some(of(&learner.model.network.encoder)?),
            (true, None) => {
                let (_store, model) = initial_model(settings, learner.store.device())?;
                Some(of(&model.network.encoder)?)
            }
            (true, Some(_)) => None, // they may be gone or changed
        };
        self.summary = Summary {
            knn_protocol: Some(protocol),
            knn_raw_pixels: Some(pixels),
            knn_untrained: untrained,
            knn_trained: None,
            knn_momentum: None,
            ..summary
        };
        // Last: without it, a run that dies before does all of this again.
        self.summary.write(&self.run.folder.path)?;
        let all = self.images.count(Split::Train);
        let count = if settings.knn_images == 0 { all } else { all.min(settings.knn_images) };
        let (count, voters) = match self.images.voters() {
            Voters::OtherTest => (count - 1, "other images"),
            _ => (count, "training images"),
        };
        if count < knn::NEIGHBORS {
            let k = knn::NEIGHBORS;
            log!("note: kNN with k = {k}: all {count} {voters} vote, as there are no more");
        }
        let (untrained, encoder) = (percent(untrained), untrained_encoder(settings));
        log!("before training: kNN {pixels:.1} % on raw pixels, {untrained} on the {encoder}");
        Ok(())
    }

    /// Moves the accuracies of the epochs so far to a column of their own, in `metrics.csv` and for TensorBoard.
    fn set_aside_accuracies(&mut self) -> Result<()> {
        if self.rows.is_empty() {
            return Ok(());
        }
        for row in &mut self.rows {
            row.rename(KNN, KNN_BEFORE);
            row.rename(KNN_MOMENTUM, KNN_MOMENTUM_BEFORE);
        }
        let path = &self.run.folder.path;
        metrics::write(path, &self.rows)?;
        // A file that begins at the first step makes TensorBoard forget all that it has read.
        let mut events = EventFile::create(path, 1)?;
        goes_on_without(events.add_picture("mix", 1, &self.run.folder.file(MIX)));
        for row in &self.rows {
            events.add_row(row.get("step").unwrap_or_default() as u64, row)?;
        }
        self.events = Some(events);
        Ok(())
    }
}

/// What the encoder of a run is before training.
pub(super) fn untrained_encoder(settings: &Settings) -> &'static str {
    if settings.init.is_some() { "encoder it began with" } else { "untrained encoder" }
}

/// An accuracy in percent, if it was measured.
pub(super) fn percent(accuracy: Option<f64>) -> String {
    accuracy.map_or("unknown".to_owned(), |share| format!("{share:.1} %"))
}

/// What a run is computed with.
fn begun_summary(learner: &Learner) -> Summary {
    Summary {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        device: format!("{:?}", learner.store.device()),
        threads: tch::get_num_threads(),
        ..Summary::default()
    }
}
