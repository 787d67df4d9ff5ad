//! Checkpoints of kinds that public bug reports describe, where they are at hand beside the checkout.

use std::path::Path;

use super::MODULES;
use crate::common::python::{python, run_script};

/// The file, whether it is imported, and words of the only line or among the lines.
const CASES: [(&str, bool, &str); 8] = [
    ("zero.pth", false, "is empty"),
    ("intkeys.pth", false, "key"),
    ("hugeblock.pth", false, "blocks.99999999999"),
    ("nan.pth", false, "NaN"),
    ("int8.pth", false, "is torch.int8"),
    ("nonsquare_sq.pth", true, "--grid"),
    ("compiled.pth", true, "_orig_mod"),
    ("ema.pth", true, "model_ema"),
];

#[test]
fn reported_checkpoints_are_imported_or_refused_in_one_line() {
    let cases = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/cases/checkpoints");
    let Some(mut python) = python(MODULES).filter(|_| cases.exists()) else { return };
    let folder = tempfile::tempdir().unwrap();
    let lines = CASES.map(|(name, ..)| {
        format!(
            "{} {} --heads 2",
            cases.join(name).display(),
            folder.path().join(name).with_extension("safetensors").display()
        )
    });
    let results = run_script(&mut python, "scripts/import_checkpoint.py", &lines);
    for ((name, is_imported, words), (imported, text)) in CASES.into_iter().zip(results) {
        assert_eq!(imported, is_imported, "{name}: {text}");
        assert!(text.contains(words) && (is_imported || text.trim().lines().count() == 1), "{name}: {text}");
    }
}
