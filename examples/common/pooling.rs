//! How features are read, as an option of a command line.

use clap::ValueEnum;
use patchmix::vit::Pooling;

/// Which tokens make the features of an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum PoolingName {
    /// The class token.
    ClassToken,
    /// The mean of the patches' tokens.
    PatchMean,
}

impl From<PoolingName> for Pooling {
    fn from(name: PoolingName) -> Pooling {
        match name {
            PoolingName::ClassToken => Pooling::ClassToken,
            PoolingName::PatchMean => Pooling::PatchMean,
        }
    }
}
