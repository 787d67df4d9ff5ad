//! A finished pre-training to look at and to measure.

use std::fs;
use std::path::{Path, PathBuf};

use crate::program::{build_example, command_in};

/// A folder that holds a pre-training of one epoch, in the folder `run`. `name` tells the folders of test programs
/// apart.
pub(crate) fn tiny_run(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    if folder.exists() {
        fs::remove_dir_all(&folder).unwrap();
    }
    fs::create_dir_all(&folder).unwrap();
    let options = "--recipe quick --width 16 --depth 2 --heads 2 --patch-size 8 --hidden 16 --out-dim 8 --limit 64 \
                   --batch-size 16 --epochs 1 --warmup-epochs 0 --threads 1 --device cpu --precision f32 --out run";
    let program = build_example("pretrain_cifar");
    assert!(command_in(&folder, &program, options).output().unwrap().status.success());
    folder
}
