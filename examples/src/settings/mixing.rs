//! How the plans of a mix are drawn.

use clap::ValueEnum;
use serde::Serialize;

/// Which images share a random partition of their patches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
#[allow(clippy::enum_variant_names)] // as on the command line
pub(crate) enum MixPlans {
    /// Both global views share one, and all local views another
    PerBatch,
    /// Every view of a batch has one, as published
    PerView,
    /// Every image of every view has one
    PerImage,
}

/// The shape of the groups of patches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum MixBlocks {
    /// Scattered, as published
    Random,
    /// Bands of rows or columns from a random position on
    Contiguous,
}
