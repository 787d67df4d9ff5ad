//! Nearest neighbours, by every protocol in use.

use patchmix::data::Split;
use patchmix::eval::knn_accuracy;
use patchmix::vit::Pooling;
use serde_json::json;

use super::Result;
use super::args::SubjectArguments;
use super::images::{ImageOptions, Images};
use super::report::{accuracy_json, announce, left_out, percent, write_json};
use super::subject::Subject;

/// Numbers of neighbours: the published runs report the best of these, others 20 or 200.
const KS: [i64; 4] = [10, 20, 100, 200];
/// How sharply near neighbours outvote far ones: 0.07 in the published runs, 0.1 in others.
const TEMPERATURES: [f64; 2] = [0.07, 0.1];

/// How features are read, and what that is called.
const POOLINGS: [(Pooling, &str); 2] = [(Pooling::ClassToken, "class token"), (Pooling::PatchMean, "patch mean")];

pub(crate) fn run<O: ImageOptions>(arguments: &SubjectArguments<O>) -> Result<()> {
    let subject = Subject::load(arguments)?;
    announce(&subject, "nearest neighbours by cosine, each voting with exp(similarity / temperature)");
    let Subject { encoder, images, .. } = &subject;
    let poolings = POOLINGS.map(|(pooling, _)| pooling);
    let train = images.features(encoder, Split::Train, &poolings)?;
    let test = images.features(encoder, Split::Test, &poolings)?;
    println!("kNN top-1    temperature  {}", KS.map(|k| format!("{:>7}", format!("k = {k}"))).join("  "));
    let mut protocols = Vec::new();
    for ((_, name), features) in POOLINGS.into_iter().zip(train.features.iter().zip(&test.features)) {
        for temperature in TEMPERATURES {
            let (of_train, of_test) = ((features.0, &train.labels), (features.1, &test.labels));
            let accuracies = knn_accuracy(of_train, of_test, images.classes(), &KS, temperature)?;
            let columns: Vec<String> = accuracies.iter().map(|accuracy| percent(accuracy.top1)).collect();
            println!("{name:<11}  {temperature:<11}  {}", columns.join("  "));
            for (k, accuracy) in KS.into_iter().zip(accuracies) {
                let accuracy = accuracy_json(accuracy);
                protocols.push(json!({ "features": name, "temperature": temperature, "k": k, "accuracy": accuracy }));
            }
        }
    }
    if let Some(left_out) = left_out(images) {
        println!("{left_out}");
    }
    write_json(arguments.json.as_deref(), "knn", &subject, json!({ "protocols": protocols }))
}
