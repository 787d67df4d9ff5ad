//! TensorBoard reads the same numbers as the files of a run have, also after it died and went on.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::resume::checkpoints;
use super::{TINY, run_well};
use crate::support::{python, read_metrics};

/// TensorBoard's own reader, on the folder of a run.
const READER: &str = r#"
import json, sys
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
events = EventAccumulator(sys.argv[1], size_guidance={"scalars": 0, "images": 0})
events.Reload()
scalars = {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}
pictures = [list(event.encoded_image_string) for event in events.Images("mix")]
sizes = [(event.width, event.height) for event in events.Images("mix")]
print(json.dumps({"scalars": scalars, "pictures": pictures, "sizes": sizes}))
"#;

#[derive(Deserialize)]
struct Read {
    scalars: BTreeMap<String, Vec<(u64, f64)>>,
    pictures: Vec<Vec<u8>>,
    sizes: Vec<(u32, u32)>,
}

fn event_files(run: &Path) -> Vec<PathBuf> {
    let paths = fs::read_dir(run).unwrap().map(|entry| entry.unwrap().path());
    let mut paths: Vec<PathBuf> = paths.filter(|path| path.to_str().unwrap().contains("tfevents")).collect();
    paths.sort();
    paths
}

/// All numbers of `metrics.csv`, by column: step and value.
fn columns(run: &Path) -> BTreeMap<String, Vec<(u64, f64)>> {
    let mut columns = BTreeMap::<_, Vec<_>>::new();
    for row in read_metrics(run).1 {
        let step = row.text("step").parse().unwrap();
        for (name, value) in row.numbers().filter(|(name, _)| *name != "step") {
            columns.entry(name.to_owned()).or_default().push((step, value));
        }
    }
    columns
}

#[test]
fn tensorboard_reads_what_metrics_and_picture_say() {
    let Some(mut python) = python("tensorboard google.protobuf numpy") else { return };
    let folder = tempfile::tempdir().unwrap();
    let (folder, run) = (folder.path(), folder.path().join("here"));
    run_well(folder, &format!("{TINY} --epochs 4 --knn-every 2 --keep 4 --stop-after 9 --out here"));
    // As if the run had died while it wrote the row of its second epoch, before it saved the checkpoint of it.
    let first = &event_files(&run)[0];
    let length = fs::metadata(first).unwrap().len();
    fs::OpenOptions::new().write(true).open(first).unwrap().set_len(length - 5).unwrap();
    let lose_two = || checkpoints(&run)[..2].iter().for_each(|path| fs::remove_file(path).unwrap());
    lose_two();
    run_well(folder, "--resume --out here --stop-after 5");
    // And as if it had died right after it wrote that row again.
    lose_two();
    run_well(folder, "--resume --out here");
    assert_eq!(event_files(&run).len(), 3);

    let output = python.args(["-c", READER]).arg(&run).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let read: Read = serde_json::from_slice(&output.stdout).unwrap();
    let expected = columns(&run);
    assert_eq!(expected["loss"].iter().map(|(step, _)| *step).collect::<Vec<_>>(), [4, 8, 12, 16]);
    assert_eq!(read.scalars.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>());
    for (name, values) in expected {
        // Events hold single precision.
        let values: Vec<(u64, f64)> = values.into_iter().map(|(step, value)| (step, f64::from(value as f32))).collect();
        assert_eq!(read.scalars[&name], values, "{name}");
    }
    let picture = fs::read(run.join("mix.png")).unwrap();
    assert!(!read.pictures.is_empty() && read.pictures.iter().all(|read| *read == picture));
    assert_eq!(read.sizes[0], image::image_dimensions(run.join("mix.png")).unwrap());
}
