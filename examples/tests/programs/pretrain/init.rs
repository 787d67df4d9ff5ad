//! Runs that begin with the weights of another run or of an encoder file.

use std::fs;
use std::path::Path;

use patchmix::checkpoint::Checkpoint;

use super::resume::{assert_same_end, checkpoints};
use super::{TINY, run, run_well};
use crate::support::{assert_refused, command_in, content, error_text, read_json};

const MOMENTUM: &str = "--momentum-encoder 0.9";

/// A number in the summary of a run.
fn summary(run: &Path, name: &str) -> f64 {
    read_json(&run.join("summary.json"))[name].as_f64().unwrap()
}

/// Writes the trained encoder of the run `here` to `encoder.safetensors`.
fn export(folder: &Path) {
    let options = "--checkpoint here --encoder trained --out encoder.safetensors";
    assert!(command_in(folder, "export_encoder", options).status().unwrap().success());
}

/// The weights below `prefix` in the newest checkpoint of a run, without batch statistics, are those of another.
#[track_caller]
fn assert_same_weights(prefix: &str, run: &Path, other: &Path) {
    let [ours, theirs] = [run, other].map(|run| Checkpoint::load(&checkpoints(run)[0]).unwrap().part(prefix));
    let names: Vec<&String> = ours.keys().filter(|name| !name.contains("running_")).collect();
    assert!(names.len() > 3, "{prefix}: {names:?}");
    names.iter().for_each(|name| assert_eq!(ours[*name], theirs[*name], "{prefix}.{name}"));
}

#[test]
fn a_run_begins_where_another_has_ended() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    run_well(folder, &format!("{TINY} {MOMENTUM} --epochs 2 --out here"));
    // One step at a learning rate of 0 leaves the weights as they were taken.
    let still = "--momentum-encoder 1 --lr 0 --weight-decay 0 --seed 1 --stop-after 1";
    let from = checkpoints(&folder.join("here"))[0].clone();
    for (out, source) in [("of-run", Path::new("here")), ("of-checkpoint", &from)] {
        let options = format!("{TINY} {still} --epochs 1 --init {} --out {out}", source.display());
        let text = error_text(&run_well(folder, &options));
        assert!(text.contains("taken: encoder, projector, predictor, momentum network\n"), "{text}");
        assert!(text.contains("not taken: optimizer and epoch"), "{text}");
        for prefix in ["model.encoder", "model.projector", "model.predictor", "momentum.encoder", "momentum.projector"]
        {
            assert_same_weights(prefix, &folder.join(out), &folder.join("here"));
        }
        let reached = summary(&folder.join("here"), "knn_trained");
        assert_eq!(summary(&folder.join(out), "knn_untrained"), reached, "it begins with what the other has learned");
        assert!(text.contains(&format!("{reached:.1} % on the encoder it began with")), "{text}");
    }
}

#[test]
fn what_does_not_fit_is_not_taken_and_said() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    run_well(folder, &format!("{TINY} {MOMENTUM} --epochs 1 --out here"));
    export(folder);
    let still = "--lr 0 --weight-decay 0 --epochs 1 --stop-after 1";
    for (out, options, said) in [
        ("heads", "--init here --hidden 24", "not taken: projector and predictor: --hidden 16 --out-dim 8 there"),
        ("off", "--init here", "momentum network, as --momentum-encoder is off"),
        ("file", "--init encoder.safetensors", "not taken: projector and predictor, which the file lacks"),
        ("copy", "--init encoder.safetensors --momentum-encoder 1", "momentum network, which the file lacks"),
        ("larger", "--init here --image-size 64", "positions interpolated from 4 x 4 to 8 x 8"),
    ] {
        let text = error_text(&run_well(folder, &format!("{TINY} {still} {options} --out {out}")));
        assert!(text.contains(said), "{options}: {text}");
        if out != "larger" {
            assert_same_weights("model.encoder", &folder.join(out), &folder.join("here"));
        }
    }
    // The momentum encoder begins as a copy of what was taken.
    let copy = Checkpoint::load(&checkpoints(&folder.join("copy"))[0]).unwrap();
    let (model, momentum) = (copy.part("model.encoder"), copy.part("momentum.encoder"));
    assert_eq!(model, momentum);
}

#[test]
fn an_encoder_of_another_shape_is_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    run_well(folder, &format!("{TINY} --epochs 1 --out here"));
    export(folder);
    fs::write(folder.join("torch.pth"), b"PK").unwrap();
    fs::create_dir(folder.join("empty")).unwrap();
    let before = content(folder);
    for (options, named) in [
        ("--init here --patch-size 4", ["--init here", "--patch-size 8"]),
        ("--init encoder.safetensors --patch-size 4", ["--init encoder.safetensors", "--patch-size 8"]),
        ("--init here --width 24", ["a width of 16", "--arch custom --width 16 --depth 2 --heads 2"]),
        ("--init here --depth 3", ["a depth of 2", "--width 16 --depth 2"]),
        ("--init here --heads 1", ["attention heads: 2", "--depth 2 --heads 2"]),
        ("--init nowhere.safetensors", ["--init: nowhere.safetensors", "No such file"]),
        ("--init torch.pth", ["torch.pth", "scripts/import_checkpoint.py"]),
        ("--init empty", ["--init: empty/config.json", "name the folder of a run"]),
    ] {
        assert_refused(options, &run(folder, &format!("{TINY} --epochs 1 --out new {options}")), &named);
        assert_eq!(content(folder), before, "{options}: files were changed");
    }
}

/// The weights are read once; a run that goes on has its own. One that died before its first checkpoint reads them
/// again.
#[test]
fn a_run_that_began_with_given_weights_goes_on_without_them() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    run_well(folder, &format!("{TINY} --epochs 1 --out here"));
    let options = format!("{TINY} --seed 1 --epochs 2 --init here");
    run_well(folder, &format!("{options} --out straight"));
    run_well(folder, &format!("{options} --stop-after 3 --out stopped"));
    fs::create_dir(folder.join("died")).unwrap();
    fs::copy(folder.join("stopped/config.json"), folder.join("died/config.json")).unwrap();
    let text = error_text(&run_well(folder, "--resume --out died"));
    assert!(text.contains("starting from the beginning") && text.contains("taken: encoder"), "{text}");
    assert_same_end(&folder.join("straight"), &folder.join("died"));

    fs::rename(folder.join("here"), folder.join("gone")).unwrap();
    let text = error_text(&run_well(folder, "--resume --out stopped"));
    assert!(!text.contains("taken:"), "{text}");
    assert_same_end(&folder.join("straight"), &folder.join("stopped"));
}
