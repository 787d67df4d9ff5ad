//! The number formats of a run: chosen once, and kept.

use std::path::Path;

use approx::assert_abs_diff_eq;
use patchmix::backend::has_fast_bfloat16;
use serde_json::Value;
use tch::Device;

use super::{TINY, run_well};
use crate::support::{error_text, metrics, read_json};

/// [`TINY`] with `--precision auto`, which is the default.
fn tiny_auto() -> String {
    TINY.replace("--precision f32", "")
}

fn config(run: &Path) -> Value {
    read_json(&run.join("config.json"))
}

#[test]
fn bfloat16_trains_to_nearly_the_same_losses() {
    let folder = tempfile::tempdir().unwrap();
    let [f32, bf16] = ["f32", "bf16"].map(|precision| {
        run_well(folder.path(), &format!("{} --epochs 2 --precision {precision} --out {precision}", tiny_auto()));
        metrics(&folder.path().join(precision))[1].number("loss")
    });
    assert_ne!(f32, bf16, "the option changes what is computed");
    assert_abs_diff_eq!(f32, bf16, epsilon = 0.05 * f32);
}

#[test]
fn auto_takes_what_is_fast_here_and_the_run_keeps_it() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let (chosen, line) = match has_fast_bfloat16(Device::Cpu) {
        true => ("bf16", "numbers  bfloat16 products, float32 for the rest\n"),
        false => ("f32", "numbers  float32\n"),
    };
    let output = run_well(folder, &format!("{} --epochs 2 --stop-after 2 --out auto", tiny_auto()));
    assert!(error_text(&output).contains(line), "{}", error_text(&output));
    assert_eq!(config(&folder.join("auto"))["precision"], chosen);

    // As if the run had begun on a machine of the other kind.
    let other = if chosen == "bf16" { "f32" } else { "bf16" };
    run_well(folder, &format!("{} --precision {other} --epochs 2 --stop-after 2 --out other", tiny_auto()));
    run_well(folder, &format!("{} --precision {other} --epochs 2 --out straight", tiny_auto()));
    run_well(folder, "--resume --precision auto --out other");
    assert_eq!(config(&folder.join("other"))["precision"], other);
    assert_eq!(metrics(&folder.join("other")), metrics(&folder.join("straight")));
    // Another one is a change, and recorded.
    run_well(folder, &format!("--resume --precision {chosen} --epochs 3 --out other"));
    let changed = &config(&folder.join("other"))["history"][0]["changed"];
    assert_eq!(changed["precision"], serde_json::json!({ "from": other, "to": chosen }));
}

#[test]
fn on_a_cpu_strict_and_deterministic_are_what_it_does_anyway() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let tiny = format!("{} --epochs 2", tiny_auto());
    run_well(folder, &format!("{tiny} --precision f32 --out plain"));
    let output = run_well(folder, &format!("{tiny} --precision f32-strict --deterministic --out strict"));
    let text = error_text(&output);
    assert!(text.contains("numbers  float32\n") && !text.contains("deterministic"), "{text}");
    assert_eq!(metrics(&folder.join("plain")), metrics(&folder.join("strict")));
    let strict = config(&folder.join("strict"));
    assert_eq!((&strict["precision"], &strict["deterministic"]), (&"f32-strict".into(), &true.into()));
    assert_eq!(config(&folder.join("plain"))["deterministic"], false);
}
