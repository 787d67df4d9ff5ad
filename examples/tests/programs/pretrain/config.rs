//! Settings from the `config.json` of another run, and from one that an older version wrote.

use std::fs;
use std::path::Path;

use serde_json::Value;

use super::resume::assert_same_end;
use super::{TINY, run, run_well};
use crate::support::{assert_refused, content, read_json};

fn config(run: &Path) -> Value {
    read_json(&run.join("config.json"))
}

#[test]
fn a_run_takes_its_settings_from_another_ones_config() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    run_well(folder, &format!("{TINY} --epochs 2 --momentum-encoder 0.9 --seed 5 --out first"));
    run_well(folder, "--config first/config.json --out again");
    assert_eq!(config(&folder.join("again")), config(&folder.join("first")));
    assert_same_end(&folder.join("first"), &folder.join("again"));

    // The command line wins.
    run_well(folder, "--config first/config.json --seed 6 --groups 4 --momentum-encoder off --out other");
    let mut expected = config(&folder.join("first"));
    expected["seed"] = 6.into();
    expected["groups"] = vec![4].into();
    expected["momentum_encoder"] = 0.0.into();
    assert_eq!(config(&folder.join("other")), expected);
    run_well(folder, &format!("{TINY} --epochs 2 --seed 6 --out written").replace("--groups 2,3", "--groups 4"));
    assert_same_end(&folder.join("written"), &folder.join("other"));
}

#[test]
fn a_config_that_cannot_be_used_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    run_well(folder, &format!("{TINY} --epochs 1 --out first"));
    fs::write(folder.join("broken.json"), "{").unwrap();
    let before = content(folder);
    for (options, named) in [
        ("--config nowhere.json", vec!["nowhere.json"]),
        ("--config broken.json", vec!["broken.json"]),
        ("--config first/config.json --batch-size 100", vec!["--batch-size 100", "64"]),
    ] {
        assert_refused(options, &run(folder, options), &named);
        assert_eq!(content(folder), before, "{options}: files were changed");
    }
}

#[test]
fn a_run_of_an_older_version_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let options = format!("{TINY} --epochs 3");
    run_well(folder, &format!("{options} --out straight"));
    run_well(folder, &format!("{options} --stop-after 6 --out here"));
    let path = folder.join("here/config.json");
    let mut older = read_json(&path);
    for name in ["deterministic", "save_epochs", "online_probe", "blur_probability", "temperature_start"] {
        assert!(older.as_object_mut().unwrap().remove(name).is_some(), "{name}");
    }
    fs::write(&path, older.to_string()).unwrap();
    run_well(folder, "--resume --out here");
    assert_same_end(&folder.join("straight"), &folder.join("here"));
}
