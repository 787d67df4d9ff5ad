//! Nearest neighbours, by every protocol in use.

use patchmix::eval::knn_accuracy;
use patchmix::vit::Pooling;
use serde_json::json;

use crate::args::KnnArguments;
use crate::report::{accuracy_json, announce, percent, write_json};
use crate::subject::Subject;
use crate::{Outcome, Result};

/// Numbers of neighbours: the published runs report the best of these, others 20 or 200.
const KS: [i64; 4] = [10, 20, 100, 200];
/// How sharply near neighbours outvote far ones: 0.07 in the published runs, 0.1 in others.
const TEMPERATURES: [f64; 2] = [0.07, 0.1];

pub(crate) fn run(arguments: &KnnArguments) -> Result<Outcome> {
    let subject = Subject::load(&arguments.subject)?;
    announce(&subject, "nearest neighbours by cosine, each voting with exp(similarity / temperature)");
    let (train, test) = (&subject.train, &subject.test);
    println!("kNN top-1    temperature  {}", KS.map(|k| format!("{:>7}", format!("k = {k}"))).join("  "));
    let mut protocols = Vec::new();
    for (pooling, name) in [(Pooling::ClassToken, "class token"), (Pooling::PatchMean, "patch mean")] {
        let features = [subject.features(pooling, train)?, subject.features(pooling, test)?];
        for temperature in TEMPERATURES {
            let (of_train, of_test) = ((&features[0], &train.labels), (&features[1], &test.labels));
            let accuracies = knn_accuracy(of_train, of_test, train.classes(), &KS, temperature)?;
            let columns: Vec<String> = accuracies.iter().map(|accuracy| percent(accuracy.top1)).collect();
            println!("{name:<11}  {temperature:<11}  {}", columns.join("  "));
            for (k, accuracy) in KS.into_iter().zip(accuracies) {
                let accuracy = accuracy_json(accuracy);
                protocols.push(json!({ "features": name, "temperature": temperature, "k": k, "accuracy": accuracy }));
            }
        }
    }
    write_json(arguments.subject.json.as_deref(), "knn", &subject, json!({ "protocols": protocols }))?;
    Ok(Outcome::Finished)
}
