//! The texts around an evaluation, and its results as JSON.

use std::path::Path;

use indicatif::HumanCount;
use patchmix::data::Split;
use patchmix::eval::Accuracy;
use serde_json::{Map, Value, json};

use super::subject::Subject;
use crate::images::Images;
use crate::terminal::log;
use crate::{Result, machine, run};

/// Prints what will be measured, how and where; `preparation` says how the images are brought to the encoder's size.
pub(super) fn announce(subject: &Subject, preparation: &str, method: &str) {
    let Subject { encoder, images, device, .. } = subject;
    let [train, test] = [images.to_train_on(), images.count(Split::Test)].map(|count| HumanCount(count as u64));
    log!("encoder  {}", encoder.description);
    log!("images   {}: {train} to learn from, {test} to measure on, {preparation}", images.name());
    log!("method   {method}");
    log!("device   {}\n", machine::describe(*device));
}

/// `12.3 %`, padded to one width for all shares.
pub(super) fn percent(share: f64) -> String {
    format!("{:>5.1} %", 100.0 * share)
}

pub(super) fn accuracy_json(accuracy: Accuracy) -> Value {
    json!({ "top1": accuracy.top1, "top5": accuracy.top5 })
}

/// The number of broken images in words, if there were any.
pub(super) fn left_out(images: &Images) -> Option<String> {
    let count = images.broken().filter(|count| *count > 0)?;
    Some(format!("broken images left out: {count}"))
}

/// Writes the results and what they belong to into the file of `--json`, if one was named. Accuracies are shares.
pub(super) fn write_results(subject: &Subject, evaluation: &str, results: Value) -> Result<()> {
    subject.json.as_ref().map_or(Ok(()), |path| write_results_to(path, subject, evaluation, &results))
}

/// Writes the results and what they belong to into a file.
pub(super) fn write_results_to(path: &Path, subject: &Subject, evaluation: &str, results: &Value) -> Result<()> {
    let Subject { encoder, images, .. } = subject;
    let mut fields = Map::from_iter([
        ("evaluation".to_owned(), evaluation.into()),
        ("encoder".to_owned(), encoder.description.clone().into()),
        ("dataset".to_owned(), images.name().into()),
        ("train_images".to_owned(), images.to_train_on().into()),
        ("test_images".to_owned(), images.count(Split::Test).into()),
    ]);
    if let Some(broken) = images.broken() {
        fields.insert("broken_images".to_owned(), broken.into());
    }
    if let Value::Object(results) = results {
        fields.extend(results.clone());
    }
    run::write_json(path, &fields)
}
