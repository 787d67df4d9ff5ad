//! A run whose numbers are no longer finite stops before it spoils anything.

use std::fs;

use super::{TINY, command, run, run_well};
use crate::support::{content, error_text, metrics};

/// A run of one good epoch, then with a learning rate that no weight survives: as if the loss had diverged by itself.
fn diverging(more: &str) -> (tempfile::TempDir, std::process::Output) {
    let folder = tempfile::tempdir().unwrap();
    run_well(folder.path(), &format!("{TINY} --epochs 1 --out here"));
    let config = folder.path().join("here/config.json");
    let text = fs::read_to_string(&config).unwrap().replace("\"epochs\": 1", "\"epochs\": 100000");
    fs::write(&config, text.replace("\"lr\": 0.004", "\"lr\": 1e38")).unwrap();
    let checkpoints = content(&folder.path().join("here/checkpoints"));
    let output = run(folder.path(), &format!("--resume --out here {more}"));
    assert_eq!(content(&folder.path().join("here/checkpoints")), checkpoints, "the good checkpoint stays, no bad one");
    (folder, output)
}

#[test]
fn a_loss_that_is_not_finite_stops_the_run_and_is_named_with_its_step() {
    let (_folder, output) = diverging("");
    assert!(!output.status.success());
    let text = error_text(&output);
    let error = text.lines().find(|line| line.starts_with("error")).unwrap();
    // Step 5, the first of the second epoch, still sees good weights.
    assert!(error.contains("step 6: origin_to_origin is not finite"), "{text}");
    assert!(error.contains("after 1 such"), "{text}");
    assert!(error.contains("The last checkpoint is from before"), "{text}");
}

#[test]
fn a_run_that_diverges_at_once_is_not_said_to_have_a_checkpoint() {
    let folder = tempfile::tempdir().unwrap();
    let output = run(folder.path(), &format!("{TINY} --lr 1e38 --epochs 3 --out here"));
    let text = error_text(&output);
    let error = text.lines().find(|line| line.starts_with("error")).unwrap_or_else(|| panic!("{text}"));
    assert!(error.contains("There is no checkpoint yet") && !error.contains("from before"), "{text}");
}

#[test]
fn as_many_steps_as_allowed_are_skipped_first() {
    let (_folder, output) = diverging("--max-skipped-steps 2");
    assert!(!output.status.success());
    let text = error_text(&output);
    assert!(text.contains("step 6") && text.contains("after 3 such steps in a row"), "{text}");
}

/// Steps 6 to 8 of the second epoch, 9 to 11 of the third.
#[test]
fn a_row_of_skipped_steps_does_not_end_with_its_epoch() {
    let (_folder, output) = diverging("--max-skipped-steps 5");
    let text = error_text(&output);
    assert!(text.contains("step 6") && text.contains("after 6 such steps in a row"), "{text}");
}

#[test]
fn nothing_is_saved_within_a_row_of_skipped_steps() {
    // 11 steps end in the middle of the third epoch.
    let (folder, output) = diverging("--max-skipped-steps 1000000 --knn-every 1000000 --stop-after 11");
    let text = error_text(&output);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("not saved, as the last 10 steps were skipped") && text.contains("--resume"), "{text}");
    assert!(!text.contains("saved; resume"), "{text}");
    let text = error_text(&run(folder.path(), "--resume --out here --max-skipped-steps 2"));
    assert!(text.contains("resuming from here/checkpoints/epoch-00001-batch-000000"), "{text}");
}

/// As `diverging` checks: no checkpoint at the end of the second and of the third epoch.
#[test]
fn an_epoch_that_ends_in_a_row_of_skipped_steps_is_not_the_best() {
    let (folder, output) = diverging("--max-skipped-steps 1000000 --knn-every 1 --stop-after 9");
    let text = error_text(&output);
    assert!(text.contains("no accuracy after 3 skipped steps in a row"), "{text}");
    assert_eq!(metrics(&folder.path().join("here")).len(), 3, "the third epoch is done: {text}");
}

#[cfg(unix)]
#[test]
fn a_signal_within_a_row_of_skipped_steps_leaves_the_last_good_checkpoint() {
    use std::io::{BufRead, BufReader};
    use std::process::{Command, Stdio};

    let (folder, _) = diverging("");
    let before = content(&folder.path().join("here/checkpoints"));
    let options = "--resume --out here --max-skipped-steps 1000000 --knn-every 1000000";
    let mut child = command(folder.path(), options).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map(Result::unwrap);
    assert!(lines.any(|line| line.starts_with("epoch")), "it goes on");
    assert!(Command::new("kill").args(["-TERM", &child.id().to_string()]).status().unwrap().success());
    let rest: Vec<String> = lines.collect();
    assert!(rest.iter().any(|line| line.starts_with("not saved")), "{rest:?}");
    assert_eq!(child.wait().unwrap().code(), Some(130), "{rest:?}");
    assert_eq!(content(&folder.path().join("here/checkpoints")), before);
}

#[test]
fn gradient_norm_and_spread_of_the_features_are_recorded() {
    let folder = tempfile::tempdir().unwrap();
    run_well(folder.path(), &format!("{TINY} --epochs 2 --knn-every 1 --out here"));
    for row in metrics(&folder.path().join("here")) {
        let norm = row.number("gradient_norm");
        assert!(norm > 0.0 && norm.is_finite(), "{row:?}");
        let spread = row.number("feature_std");
        assert!(spread > 0.0 && spread < 1.5, "{row:?}");
        assert_eq!(row.number("skipped_steps"), 0.0);
    }
}
