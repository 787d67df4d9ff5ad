//! The number formats of a run: chosen once, and kept.

use std::fs;
use std::path::Path;

use patchmix::backend::has_fast_bfloat16;
use serde_json::Value;
use tch::Device;

use super::{TINY, content, metrics, run, run_well};

/// [`TINY`] with `--precision auto`, which is the default.
fn tiny_auto() -> String {
    TINY.replace("--precision f32", "")
}

fn config(run: &Path) -> Value {
    serde_json::from_slice(&fs::read(run.join("config.json")).unwrap()).unwrap()
}

#[test]
fn bfloat16_trains_to_nearly_the_same_losses() {
    let folder = tempfile::tempdir().unwrap();
    let losses = ["f32", "bf16"].map(|precision| {
        run_well(folder.path(), &format!("{} --epochs 2 --precision {precision} --out {precision}", tiny_auto()));
        metrics(&folder.path().join(precision))[2][4].parse::<f64>().unwrap()
    });
    assert_ne!(losses[0], losses[1], "the option changes what is computed");
    assert!((losses[0] - losses[1]).abs() < 0.05 * losses[0], "{losses:?}");
}

#[test]
fn auto_takes_what_is_fast_here_and_the_run_keeps_it() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let (chosen, said) = match has_fast_bfloat16(Device::Cpu) {
        true => ("bf16", "numbers  bfloat16 products, float32 for the rest\n"),
        false => ("f32", "numbers  float32\n"),
    };
    let output = run_well(folder, &format!("{} --epochs 2 --stop-after 2 --out auto", tiny_auto()));
    assert!(String::from_utf8(output.stderr).unwrap().contains(said));
    assert_eq!(config(&folder.join("auto"))["precision"], chosen);

    // As if the run had begun on a machine of the other kind.
    let other = if chosen == "bf16" { "f32" } else { "bf16" };
    run_well(folder, &format!("{} --precision {other} --epochs 2 --stop-after 2 --out other", tiny_auto()));
    run_well(folder, &format!("{} --precision {other} --epochs 2 --out straight", tiny_auto()));
    run_well(folder, "--resume --precision auto --out other");
    assert_eq!(config(&folder.join("other"))["precision"], other);
    assert_eq!(metrics(&folder.join("other")), metrics(&folder.join("straight")));
    let before = content(folder);
    let output = run(folder, &format!("--resume --precision {chosen} --out other"));
    assert!(!output.status.success());
    assert!(String::from_utf8(output.stderr).unwrap().contains(&format!("--precision \"{chosen}\" differs")));
    assert_eq!(content(folder), before);
}

#[test]
fn on_a_cpu_strict_and_deterministic_are_what_it_does_anyway() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let tiny = format!("{} --epochs 2", tiny_auto());
    run_well(folder, &format!("{tiny} --precision f32 --out plain"));
    let output = run_well(folder, &format!("{tiny} --precision f32-strict --deterministic --out strict"));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("numbers  float32\n") && !said.contains("deterministic"), "{said}");
    assert_eq!(metrics(&folder.join("plain")), metrics(&folder.join("strict")));
    let strict = config(&folder.join("strict"));
    assert_eq!((&strict["precision"], &strict["deterministic"]), (&"f32-strict".into(), &true.into()));
    assert_eq!(config(&folder.join("plain"))["deterministic"], false);
}
