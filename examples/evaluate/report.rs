//! What an evaluation says: what it is about to do, how far it is, and its results.

use std::path::Path;

use indicatif::{HumanCount, ProgressBar, ProgressStyle};
use patchmix::checkpoint::write_whole;
use patchmix::data::Split;
use patchmix::eval::Accuracy;
use serde_json::{Map, Value, json};
use tch::Device;

use super::Result;
use super::images::Images;
use super::subject::Subject;

/// Says what is measured on what.
pub(crate) fn announce<I: Images>(subject: &Subject<I>, method: &str) {
    let device = match subject.device {
        Device::Cpu => format!("the CPU (threads: {})", tch::get_num_threads()),
        device => format!("{device:?}"),
    };
    let count = |split| HumanCount(subject.images.count(split) as u64);
    let (train, test) = (count(Split::Train), count(Split::Test));
    let prepared = subject.images.preparation(subject.encoder.encoder.config().image_size);
    eprintln!("encoder  {}", subject.encoder.description);
    eprintln!("images   {}: {train} to learn from, {test} to measure on{prepared}", subject.images.name());
    eprintln!("method   {method}");
    eprintln!("device   {device}\n");
}

/// A bar of `steps` steps with the time left.
pub(crate) fn progress(steps: u64, prefix: &str) -> ProgressBar {
    let bar = ProgressBar::new(steps);
    if let Ok(style) = ProgressStyle::with_template("{prefix} {bar:30} {pos}/{len}  {eta} left") {
        bar.set_style(style);
    }
    bar.set_prefix(prefix.to_owned());
    bar
}

/// `12.3 %`, as wide for every share.
pub(crate) fn percent(share: f64) -> String {
    format!("{:>5.1} %", 100.0 * share)
}

pub(crate) fn accuracy_json(accuracy: Accuracy) -> Value {
    json!({ "top1": accuracy.top1, "top5": accuracy.top5 })
}

/// How many broken images there were, in words, if there were any.
pub(crate) fn left_out(images: &impl Images) -> Option<String> {
    let count = images.broken().filter(|count| *count > 0)?;
    Some(format!("broken images left out: {count}"))
}

/// Writes the results, with what they are of, to the file that `--json` names, if it does. Accuracies are shares.
pub(crate) fn write_json<I: Images>(
    path: Option<&Path>,
    evaluation: &str,
    subject: &Subject<I>,
    results: Value,
) -> Result<()> {
    let Some(path) = path else { return Ok(()) };
    let mut fields = Map::from_iter([
        ("evaluation".to_owned(), evaluation.into()),
        ("encoder".to_owned(), subject.encoder.description.clone().into()),
        ("dataset".to_owned(), subject.images.name().into()),
        ("train_images".to_owned(), subject.images.count(Split::Train).into()),
        ("test_images".to_owned(), subject.images.count(Split::Test).into()),
    ]);
    if let Some(broken) = subject.images.broken() {
        fields.insert("broken_images".to_owned(), broken.into());
    }
    if let Value::Object(results) = results {
        fields.extend(results);
    }
    Ok(write_whole(path, (serde_json::to_string_pretty(&fields)? + "\n").as_bytes())?)
}
