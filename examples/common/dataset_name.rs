//! The data sets that can be named on a command line.

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

/// Which images.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum DatasetName {
    Cifar10,
    Cifar100,
    /// Drawn by the program: ten classes of shapes and textures.
    Builtin,
    /// Images in folders by class: DIR/train/CLASS/*.jpg and DIR/val/CLASS/*.jpg.
    ImageFolder,
}
