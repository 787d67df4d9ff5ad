//! A folder belongs to one process, from its beginning to its end.

use std::fs;
use std::path::Path;
use std::process::{Child, Output, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use super::{TINY, command, run, run_well};
use crate::support::{assert_refused, content, error_text, metrics};

/// Long enough for an epoch on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// A process that ends with the test at the latest.
struct Started(Option<Child>);

impl Drop for Started {
    fn drop(&mut self) {
        if let Some(child) = &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Started {
    fn new(folder: &Path, options: &str) -> Started {
        Started(Some(command(folder, options).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()))
    }

    fn child(&mut self) -> &mut Child {
        self.0.as_mut().unwrap()
    }

    fn has_ended(&mut self) -> bool {
        self.child().try_wait().unwrap().is_some()
    }

    fn output(mut self) -> Output {
        self.0.take().unwrap().wait_with_output().unwrap()
    }
}

#[track_caller]
fn wait_for(mut holds: impl FnMut() -> bool) {
    let started = Instant::now();
    while !holds() {
        assert!(started.elapsed() < PATIENCE, "not within {PATIENCE:?}");
        sleep(Duration::from_millis(10));
    }
}

#[test]
fn a_run_that_lives_is_left_alone_and_named() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let begun = format!("{TINY} --epochs 100000 --out here");
    let mut first = Started::new(folder, &begun);
    wait_for(|| folder.join("here/metrics.csv").exists());
    let id = first.child().id();
    for options in ["--resume --out here".to_owned(), format!("{begun} --resume-if-begun")] {
        assert_refused(&options, &run(folder, &options), &["here: process", &format!("process {id} on "), "--out"]);
    }
    let output = run(folder, &begun);
    assert!(error_text(&output).contains("holds a run already"), "{}", error_text(&output));
    assert!(!first.has_ended(), "it trains on");

    // The lock ends with its process, however that ends.
    drop(first);
    run_well(folder, "--resume --out here --stop-after 1");
    assert_eq!(fs::read(folder.join("here/lock")).unwrap(), b"");
}

#[test]
fn of_two_runs_that_begin_at_once_in_one_folder_one_trains() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    for options in ["", "--resume-if-begun"] {
        let options = format!("{TINY} --epochs 100000 {options} --out here");
        let mut both = [Started::new(folder, &options), Started::new(folder, &options)];
        wait_for(|| both.iter_mut().any(Started::has_ended));
        let [mut one, other] = both;
        let (ended, mut training) = if one.has_ended() { (one, other) } else { (other, one) };
        let output = ended.output();
        let text = error_text(&output);
        assert_eq!(output.status.code(), Some(1), "{text}");
        assert!(text.contains("is training there") || text.contains("holds a run already"), "{text}");
        wait_for(|| folder.join("here/metrics.csv").exists());
        assert!(!training.has_ended());
        drop(training);
        fs::remove_dir_all(folder.join("here")).unwrap();
    }
}

#[test]
fn runs_without_a_name_that_begin_at_once_take_folders_of_their_own() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let both = [1, 2].map(|_| Started::new(folder, &format!("{TINY} --epochs 2")));
    for started in both {
        let output = started.output();
        assert!(output.status.success(), "{}", error_text(&output));
    }
    for name in ["runs/builtin", "runs/builtin-2"] {
        assert_eq!(metrics(&folder.join(name)).len(), 2, "{name}");
    }
    assert_eq!(metrics(&folder.join("runs/builtin")), metrics(&folder.join("runs/builtin-2")));
}

#[test]
fn what_died_as_it_began_can_begin_again() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    fs::create_dir(folder.join("here")).unwrap();
    for leftover in ["lock", "config.json.77-0.partial"] {
        fs::write(folder.join("here").join(leftover), "").unwrap();
    }
    run_well(folder, &format!("{TINY} --epochs 1 --resume-if-begun --out here"));
    assert!(!content(folder).keys().any(|path| path.extension().is_some_and(|end| end == "partial")));
}
