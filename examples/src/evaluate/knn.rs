//! Nearest neighbors, by all protocols in common use.

use patchmix::data::Split;
use patchmix::eval::knn_accuracy;
use patchmix::vit::Pooling;
use serde_json::json;

use super::report::{accuracy_json, announce, left_out, percent, write_results};
use super::subject::{Subject, SubjectOptions};
use crate::Result;
use crate::terminal::say;

/// Numbers of neighbors: the published runs report the best of these, others 20 or 200.
const KS: [i64; 4] = [10, 20, 100, 200];
/// How much more a near neighbor counts than a far one: 0.07 in the published runs, 0.1 in others.
const TEMPERATURES: [f64; 2] = [0.07, 0.1];

/// Poolings and their names in the results.
const POOLINGS: [(Pooling, &str); 2] = [(Pooling::ClassToken, "class token"), (Pooling::PatchMean, "patch mean")];

/// A note about the numbers of neighbors that exceed the number of training images, if any does.
fn beyond(images: i64) -> Option<String> {
    let larger: Vec<String> = KS.iter().filter(|k| **k > images).map(i64::to_string).collect();
    (!larger.is_empty())
        .then(|| format!("k = {}: all {images} training images vote, as there are no more", larger.join(", ")))
}

pub(super) fn run(options: &SubjectOptions) -> Result<()> {
    let subject = Subject::load(options)?;
    let method = "nearest neighbors by cosine, each voting with exp(similarity / temperature)";
    announce(&subject, &subject.preparation(), method);
    let poolings = POOLINGS.map(|(pooling, _)| pooling);
    let train = subject.features(Split::Train, &poolings)?;
    let test = subject.features(Split::Test, &poolings)?;
    let (mut protocols, mut rows) = (Vec::new(), Vec::new());
    for ((_, name), features) in POOLINGS.into_iter().zip(train.features.iter().zip(&test.features)) {
        let (train, test) = ((features.0, &train.labels), (features.1, &test.labels));
        for temperature in TEMPERATURES {
            let accuracies = knn_accuracy(train, test, subject.images.classes(), &KS, temperature)?;
            let columns: Vec<String> = accuracies.iter().map(|accuracy| percent(accuracy.top1)).collect();
            rows.push(format!("{name:<11}  {temperature:<11}  {}", columns.join("  ")));
            for (k, accuracy) in KS.into_iter().zip(accuracies) {
                let accuracy = accuracy_json(accuracy);
                protocols.push(json!({ "features": name, "temperature": temperature, "k": k, "accuracy": accuracy }));
            }
        }
    }
    write_results(&subject, "knn", json!({ "protocols": protocols }))?;
    say!("kNN top-1    temperature  {}", KS.map(|k| format!("{:>7}", format!("k = {k}"))).join("  "));
    let notes = beyond(train.labels.numel() as i64).into_iter().chain(left_out(&subject.images));
    rows.into_iter().chain(notes).for_each(|row| say!("{row}"));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_neighbors_than_images_are_named() {
        assert_eq!(beyond(200), None);
        assert_eq!(beyond(99).unwrap(), "k = 100, 200: all 99 training images vote, as there are no more");
    }
}
