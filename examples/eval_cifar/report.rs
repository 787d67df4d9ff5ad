//! What an evaluation says: what it is about to do, how far it is, and its results.

use std::path::Path;

use indicatif::{HumanCount, ProgressBar, ProgressStyle};
use patchmix::checkpoint::write_whole;
use patchmix::eval::Accuracy;
use serde_json::{Map, Value, json};
use tch::Device;

use crate::Result;
use crate::subject::Subject;

/// Says what is measured on what.
pub(crate) fn announce(subject: &Subject, method: &str) {
    let device = match subject.device {
        Device::Cpu => format!("the CPU (threads: {})", tch::get_num_threads()),
        device => format!("{device:?}"),
    };
    let (train, test) = (HumanCount(subject.train.len() as u64), HumanCount(subject.test.len() as u64));
    let (own, of_encoder) = (subject.test.images.size()[3], subject.encoder.encoder.config().image_size);
    let scaled = if own == of_encoder { String::new() } else { format!(", scaled from {own} to {of_encoder} px") };
    eprintln!("encoder  {}", subject.encoder.description);
    eprintln!("images   {}: {train} to learn from, {test} to measure on{scaled}", dataset_name(subject));
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

/// Writes the results, with what they are of, to the file that `--json` names, if it does. Accuracies are shares.
pub(crate) fn write_json(path: Option<&Path>, evaluation: &str, subject: &Subject, results: Value) -> Result<()> {
    let Some(path) = path else { return Ok(()) };
    let mut fields = Map::from_iter([
        ("evaluation".to_owned(), evaluation.into()),
        ("encoder".to_owned(), subject.encoder.description.clone().into()),
        ("dataset".to_owned(), dataset_name(subject).into()),
        ("train_images".to_owned(), subject.train.len().into()),
        ("test_images".to_owned(), subject.test.len().into()),
    ]);
    if let Value::Object(results) = results {
        fields.extend(results);
    }
    Ok(write_whole(path, (serde_json::to_string_pretty(&fields)? + "\n").as_bytes())?)
}

fn dataset_name(subject: &Subject) -> String {
    clap::ValueEnum::to_possible_value(&subject.dataset).map_or_else(String::new, |name| name.get_name().to_owned())
}
