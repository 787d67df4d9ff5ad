//! A finished pre-training for the programs that need one.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use super::program::{command_in, error_text};

/// A folder with a pre-training of one epoch on built-in images in the subfolder `run`.
pub(crate) static TINY_RUN: LazyLock<PathBuf> = LazyLock::new(|| {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("tiny-run");
    if folder.exists() {
        fs::remove_dir_all(&folder).unwrap();
    }
    fs::create_dir_all(&folder).unwrap();
    let options = "--recipe quick --width 16 --depth 2 --heads 2 --patch-size 8 --hidden 16 --out-dim 8 --limit 64 \
                   --batch-size 16 --epochs 1 --warmup-epochs 0 --threads 1 --device cpu --precision f32 --out run";
    let output = command_in(&folder, "pretrain_cifar", options).output().unwrap();
    assert!(output.status.success(), "{}", error_text(&output));
    folder
});
