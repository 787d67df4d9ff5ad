//! Helpers of the tests: programs and their refusals, a finished run, image files, metrics, Python.

mod metrics;
#[path = "../../../../tests/common/png_folder.rs"]
mod png_folder;
mod program;
#[path = "../../../../tests/common/python.rs"]
mod python;
mod tiny_run;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

pub(crate) use metrics::{Row, metrics, read_metrics};
pub(crate) use png_folder::{SIDE, png_folder};
pub(crate) use program::{assert_refused, closed_pipe, command_in, error_text, program};
pub(crate) use python::{python, run_script};
pub(crate) use tiny_run::TINY_RUN;

/// All files below `folder` with their contents.
pub(crate) fn content(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut files = BTreeMap::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                files.insert(path.clone(), fs::read(&path).unwrap());
            }
        }
    }
    files
}

pub(crate) fn read_json(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}
