//! Programs, architectures and recipes: the published ones, and a quick one.

use clap::ValueEnum;
use serde::Serialize;

/// The data sets that can be named on a command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum DatasetName {
    Cifar10,
    Cifar100,
    /// Trains on its training and unlabeled images, 105,000 of 96 px
    Stl10,
    /// Drawn by the program: ten classes of shapes and textures
    Builtin,
    /// Image files: DIR/train/CLASS/*.jpg and DIR/val/CLASS/*.jpg, or any tree of images without classes
    ImageFolder,
    /// Tar archives of KEY.jpg and KEY.cls (WebDataset): DIR/train-*.tar and DIR/val-*.tar
    Shards,
    /// As unpacked from cs231n.stanford.edu/tiny-imagenet-200.zip
    TinyImagenet,
    /// DIR/train/CLASS/*.jpg and DIR/val/CLASS/*.jpg of 100 classes of ImageNet
    #[serde(rename = "imagenet-100")]
    #[value(name = "imagenet-100")]
    Imagenet100,
}

impl DatasetName {
    /// The name on the command line.
    pub(crate) fn name(self) -> String {
        self.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
    }

    /// Whether the images are files, of their own or in archives, which are decoded when they are needed.
    pub(crate) fn is_folder(self) -> bool {
        use DatasetName::{ImageFolder, Imagenet100, Shards, TinyImagenet};
        matches!(self, ImageFolder | Shards | TinyImagenet | Imagenet100)
    }

    /// The data set's differences from the program's other images.
    fn options(self) -> &'static str {
        match self {
            DatasetName::Stl10 => STL10,
            DatasetName::TinyImagenet => TINY_IMAGENET,
            DatasetName::Imagenet100 => IMAGENET100,
            _ => "",
        }
    }
}

/// One of the two programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Program {
    /// `pretrain_cifar`: images that fit in memory: CIFAR-10, CIFAR-100, STL-10, or images that the program draws
    /// itself.
    Cifar,
    /// `pretrain_imagenet`: images in files, any number of any size.
    Imagenet,
}

impl Program {
    /// The name for `cargo run --example`.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Program::Cifar => "pretrain_cifar",
            Program::Imagenet => "pretrain_imagenet",
        }
    }

    /// The first line of `-h`.
    pub(crate) fn about(self) -> &'static str {
        match self {
            Program::Cifar => "Pre-trains a Vision Transformer with PatchMix on CIFAR, STL-10 or built-in images.",
            Program::Imagenet => "Pre-trains a Vision Transformer with PatchMix on images in folders or shards.",
        }
    }

    /// The first lines of `--help`.
    pub(crate) fn long_about(self) -> &'static str {
        match self {
            Program::Cifar => {
                "Pre-trains a Vision Transformer with PatchMix.\n\n\
                 Without arguments: a small model on images that the program draws itself, in a few minutes. With \
                 `--dataset cifar10` or `cifar100`: the paper's recipe for the architecture, every value of which can \
                 be changed; with `stl10` one derived from it. Images in folders are for `pretrain_imagenet`."
            }
            Program::Imagenet => {
                "Pre-trains a Vision Transformer with PatchMix on images in files, such as ImageNet.\n\n\
                 --data names the folder that holds train/CLASS/ and val/CLASS/ with jpeg, png or webp files of any \
                 size, or any folder of images without classes, where kNN accuracy is left out; with `--dataset \
                 shards` train-*.tar and val-*.tar. They are decoded while the model trains. The default is the \
                 paper's recipe for ViT-S, every value of which can be changed; `--recipe quick` is a small model for \
                 a first look. CIFAR and STL-10 are for `pretrain_cifar`."
            }
        }
    }

    /// The values of `--dataset`; the first is the default.
    pub(crate) fn datasets(self) -> &'static [DatasetName] {
        match self {
            Program::Cifar => &[DatasetName::Builtin, DatasetName::Cifar10, DatasetName::Cifar100, DatasetName::Stl10],
            Program::Imagenet => &[
                DatasetName::ImageFolder,
                DatasetName::Shards,
                DatasetName::TinyImagenet,
                DatasetName::Imagenet100,
                DatasetName::Builtin,
            ],
        }
    }
}

/// Shape of the encoder.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Architecture {
    /// Width 192, 12 blocks, 3 heads
    VitTiny,
    /// Width 384, 12 blocks, 12 heads
    VitSmall,
    /// Width 768, 12 blocks, 12 heads
    VitBase,
    /// As --width, --depth and --heads say
    Custom,
}

/// A preset of all settings.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Recipe {
    /// A small model that learns in minutes on two CPU cores
    Quick,
    /// The paper's for ViT-T: no momentum encoder
    VitTiny,
    /// The paper's for ViT-S: momentum encoder
    VitSmall,
    /// The paper's for ViT-B: momentum encoder
    VitBase,
    /// MoCo v3 in the same loop: no mixed images, symmetric
    MocoV3,
}

// The defaults of the options are the paper's for ViT-T on CIFAR.

/// The paper's differences for ImageNet.
const IMAGENET: &str = "
    --dataset image-folder --image-size 224 --patch-size 16 --batch-size 1024 --epochs 300 --warmup-epochs 10
    --crop-min-scale 0.05 --local-crops 8 --local-size 96 --knn-images 50000";

// Three data sets without published values; docs/pretraining.md says how these were derived.

const STL10: &str = "
    --dataset stl10 --image-size 96 --patch-size 8 --epochs 400 --warmup-epochs 50 --local-size 40";
const TINY_IMAGENET: &str = "
    --dataset tiny-imagenet --image-size 64 --patch-size 4 --batch-size 512 --epochs 400 --warmup-epochs 50
    --crop-min-scale 0.1 --local-crops 0 --local-size 28 --knn-images 0";
const IMAGENET100: &str = "
    --dataset imagenet-100 --batch-size 512 --epochs 400 --warmup-epochs 40 --knn-images 0";

const SMALL: &str = "
    --arch vit-small --lr 5e-4 --weight-decay 0.04 --weight-decay-end 0.4 --momentum-encoder 0.996";
const BASE: &str = "
    --arch vit-base --lr 7.5e-4 --weight-decay 0.04 --weight-decay-end 0.4 --momentum-encoder 0.996";
/// MoCo v3's, arXiv 2104.02057, for ViT-S. Its loss is the sum of both directions times 2τ, so the average over the
/// directions has the weight 4τ.
const MOCO_V3: &str = "
    --arch vit-small --drop-path 0 --freeze-patch-embedding=true --momentum-encoder 0.99
    --lr 1.5e-4 --weight-decay 0.1 --weight-decay-end 0.1 --crop-min-scale 0.08 --local-crops 0
    --groups 1 --temperature 0.2 --origin-smoothing 0 --symmetric=true
    --loss-weights origin-to-origin=0.8,mix-to-origin=0,mix-to-mix=0,local-mix-to-origin=0";
const MOCO_V3_IMAGENET: &str = "
    --warmup-epochs 40";
/// A small model that two CPU cores train in minutes.
const QUICK: &str = "
    --arch custom --width 64 --depth 3 --heads 2 --patch-size 4 --drop-path 0 --hidden 512 --out-dim 128
    --batch-size 64 --epochs 12 --warmup-epochs 1 --lr 4e-3 --crop-min-scale 0.4 --knn-every 2";
/// The same on larger images, with local views.
const QUICK_IMAGENET: &str = "
    --image-size 64 --patch-size 8 --crop-min-scale 0.15 --local-crops 2 --local-size 32 --local-max-scale 0.4
    --knn-images 5000";

impl Architecture {
    /// Width, depth and heads.
    pub(crate) fn shape(self) -> Option<(i64, i64, i64)> {
        match self {
            Architecture::VitTiny => Some((192, 12, 3)),
            Architecture::VitSmall => Some((384, 12, 12)),
            Architecture::VitBase => Some((768, 12, 12)),
            Architecture::Custom => None,
        }
    }
}

impl Recipe {
    /// The paper's recipe for a program's images and its smallest model, which `--help` gives as the defaults.
    pub(super) fn published(program: Program) -> Recipe {
        match program {
            Program::Cifar => Recipe::VitTiny,
            Program::Imagenet => Recipe::VitSmall,
        }
    }

    /// The recipe if the command line names none.
    pub(super) fn default_for(program: Program, dataset: DatasetName, architecture: Option<Architecture>) -> Recipe {
        match (dataset, architecture) {
            (DatasetName::Builtin, _) => Recipe::Quick,
            (_, None) => Recipe::published(program),
            (_, Some(Architecture::VitTiny | Architecture::Custom)) => Recipe::VitTiny,
            (_, Some(Architecture::VitSmall)) => Recipe::VitSmall,
            (_, Some(Architecture::VitBase)) => Recipe::VitBase,
        }
    }

    /// The options of a program's recipe for a data set, later ones laid over earlier ones.
    pub(super) fn options(self, program: Program, dataset: DatasetName) -> impl Iterator<Item = &'static str> {
        let [images, quick, moco_v3] = match program {
            Program::Cifar => ["", "", ""],
            Program::Imagenet => [IMAGENET, QUICK_IMAGENET, MOCO_V3_IMAGENET],
        };
        let of_dataset = dataset.options();
        let tables = match self {
            Recipe::Quick => [images, "", QUICK, quick],
            Recipe::VitTiny => [images, of_dataset, "", ""],
            Recipe::VitSmall => [images, of_dataset, SMALL, ""],
            Recipe::VitBase => [images, of_dataset, BASE, ""],
            Recipe::MocoV3 => [images, of_dataset, MOCO_V3, moco_v3],
        };
        tables.into_iter().flat_map(str::split_whitespace)
    }
}
