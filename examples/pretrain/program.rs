//! The two programs that pre-train: they differ in the images they take and in their recipes, and share everything else.

use super::dataset_name::DatasetName;
use super::recipes::{Architecture, Recipe};

/// One of the two programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Program {
    /// Images that fit in memory: CIFAR-10, CIFAR-100, or those that the program draws itself.
    #[allow(dead_code)] // each program is one of them
    Cifar,
    /// Images in files, as many as there are and of any size.
    #[allow(dead_code)]
    Imagenet,
}

impl Program {
    /// What `cargo run --example` calls it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Program::Cifar => "pretrain_cifar",
            Program::Imagenet => "pretrain_imagenet",
        }
    }

    /// What `--help` says first.
    pub(crate) fn about(self) -> &'static str {
        match self {
            Program::Cifar => {
                "Pre-trains a Vision Transformer with PatchMix.\n\n\
                 Without arguments: a small model on images that the program draws itself, in a few minutes. With \
                 `--dataset cifar10` or `cifar100`: the paper's recipe for the architecture, every value of which can be \
                 changed. Images in folders are for `pretrain_imagenet`."
            }
            Program::Imagenet => {
                "Pre-trains a Vision Transformer with PatchMix on images in folders by class, such as ImageNet.\n\n\
                 --data names the folder that holds train/CLASS/ and val/CLASS/ with jpeg, png or webp files of any size; \
                 they are decoded while the model trains. The default is the paper's recipe for ViT-S, every value of \
                 which can be changed; `--recipe quick` is a small model for a first look. CIFAR is for `pretrain_cifar`."
            }
        }
    }

    /// What `--dataset` may name; the first is the default.
    pub(crate) fn datasets(self) -> &'static [DatasetName] {
        match self {
            Program::Cifar => &[DatasetName::Builtin, DatasetName::Cifar10, DatasetName::Cifar100],
            Program::Imagenet => &[DatasetName::ImageFolder, DatasetName::Builtin],
        }
    }

    /// The recipe where the command line names none.
    pub(crate) fn recipe(self, dataset: DatasetName, architecture: Option<Architecture>) -> Recipe {
        let usual = match self {
            Program::Cifar => Architecture::VitTiny,
            Program::Imagenet => Architecture::VitSmall,
        };
        match dataset {
            DatasetName::Builtin => Recipe::Quick,
            _ => Recipe::published(architecture.unwrap_or(usual)),
        }
    }
}
