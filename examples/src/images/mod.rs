//! The images of a program, in memory or in files: to train on, to measure on, to look at.

mod files;
mod layout;
mod listing;
mod memory;
mod options;

use std::path::Path;

use indicatif::ProgressBar;
use patchmix::augment::ViewRecipe;
use patchmix::data::{Cut, Dataset, Split};
use patchmix::eval::evaluation_cut;
use patchmix::vit::Pooling;
use tch::Tensor;

use crate::Result;
use crate::encoder::Frozen;
use crate::settings::DatasetName;

pub(crate) use files::BATCHES_AHEAD;
pub(crate) use options::{Choice, ImageOptions, open};

/// Which images, where they are, and how many.
#[derive(Debug)]
pub(crate) struct Request<'a> {
    pub(crate) dataset: DatasetName,
    /// Folder with the data set's files.
    pub(crate) data: &'a Path,
    /// Folder of labeled images to measure on, instead of those in `data`.
    pub(crate) val: Option<&'a Path>,
    /// Whether images without classes are wanted too, to pre-train on.
    pub(crate) to_pretrain: bool,
    /// Number of training images; 0 for all.
    pub(crate) limit: i64,
    /// Side of the built-in images in pixels.
    pub(crate) image_size: i64,
    /// Whether missing files are fetched.
    pub(crate) download: bool,
    /// Where they are fetched from, if not from the authors.
    pub(crate) mirror: Option<&'a str>,
    /// Threads that decode files; 0 for one per core.
    pub(crate) workers: u16,
    /// More broken files than this are an error.
    pub(crate) max_broken: u64,
}

/// Images that go through a frozen encoder together.
pub(crate) const ENCODER_BATCH: i64 = 500;

/// Images, wherever they are.
pub(crate) type Images = Box<dyn ImageSource>;

/// How a kNN accuracy of images is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Voters {
    /// Labeled training images vote on the classes of the test images.
    Training,
    /// Each test image is classified by the others: only these have classes.
    OtherTest,
    /// There are no labeled images to measure on.
    Nobody,
}

/// Images to train on, and labeled training and test images to measure with.
///
/// The two kinds of training images are the same, apart from a pre-training on images without classes. Everything that
/// is asked for by a [`Split`] is of the labeled ones.
pub(crate) trait ImageSource {
    /// The data set's name on a command line.
    fn name(&self) -> String;

    /// Whether the images are files, which are decoded when they are needed.
    fn is_folder(&self) -> bool;

    /// How many images there are to train on, broken ones included.
    fn to_train_on(&self) -> i64;

    /// Whether the images to train on have classes.
    fn is_labeled(&self) -> bool;

    fn voters(&self) -> Voters;

    /// How many labeled images a part has, broken ones included.
    fn count(&self, split: Split) -> i64;

    /// The names of the classes, in the order of the labels.
    fn class_names(&self) -> &[String];

    fn classes(&self) -> i64 {
        self.class_names().len() as i64
    }

    /// A fingerprint of the training images, which decides their order.
    fn identity(&self) -> Result<String>;

    /// How many broken files there were so far, for images in files.
    fn broken(&self) -> Option<usize>;

    /// The images to train on at these positions, batch by batch. Files are cropped by `cuts`, ahead of their use.
    fn batches<'a>(&'a self, positions: Vec<Vec<i64>>, cuts: Vec<Cut>) -> Result<DecodedBatches<'a>>;

    /// At most `count` of the images to train on, spread evenly, `[N, 3, H, W]` of `Uint8` on the device; prepared as by
    /// [`ImageSource::dataset`].
    fn examples(&self, count: i64, image_size: i64) -> Result<Tensor>;

    /// At most `count` images of a part (0 for all) in memory, on the device, spread evenly over the classes. Files are
    /// resized and their centers of `image_size` cut out; other images keep their size.
    fn dataset(&self, split: Split, count: i64, image_size: i64) -> Result<Dataset>;

    /// Images that [`ImageSource::dataset`] gave for this `image_size`, as an evaluation shows them to an encoder.
    fn evaluated(&self, images: &Tensor, image_size: i64) -> Result<Tensor>;

    /// Frozen features of at most `count` images of a part (0 for all), spread evenly, by each of the poolings, `batch`
    /// images at once.
    fn features(
        &self,
        encoder: Frozen<'_>,
        poolings: &[Pooling],
        split: Split,
        count: i64,
        batch: i64,
        bar: &ProgressBar,
    ) -> Result<Labeled>;

    /// Frozen features of all images to train on, or of all test images, in their order, `batch` images at once. Images
    /// that cannot be read are named and left out.
    fn stream_features(
        &self,
        encoder: Frozen<'_>,
        pooling: Pooling,
        split: Split,
        batch: i64,
        bar: &ProgressBar,
        take: &mut dyn FnMut(FeatureBatch) -> patchmix::Result<()>,
    ) -> Result<()>;

    /// How a kNN accuracy is measured, in words: how images are prepared, who votes, and on which images if these are apart. Runs keep it with their
    /// accuracies, so that only those that were measured alike are compared.
    fn protocol(&self, image_size: i64) -> Result<String> {
        Ok(preparation(image_size))
    }
}

/// Features `[B, width]` of images that follow one another, and their classes `[B]` if they have some.
pub(crate) struct FeatureBatch {
    pub(crate) features: Tensor,
    pub(crate) labels: Option<Tensor>,
    /// For images in files, their names below the folder of --data.
    pub(crate) paths: Option<Vec<String>>,
}

/// Decoded batches of an epoch.
pub(crate) type DecodedBatches<'a> = Box<dyn Iterator<Item = Result<Decoded<'a>>> + 'a>;

/// A decoded batch; calling it puts the batch on the device, without waiting for a GPU.
pub(crate) type Decoded<'a> = Box<dyn FnOnce() -> Result<Batch> + 'a>;

/// A batch on the device.
pub(crate) struct Batch {
    pub(crate) images: BatchImages,
    /// The classes, `[B]`, if the images to train on have some.
    pub(crate) labels: Option<Tensor>,
    /// Broken files, whose images are missing here.
    pub(crate) broken: u64,
}

/// The images of a batch.
pub(crate) enum BatchImages {
    /// `[B, 3, H, W]`.
    Whole(Tensor),
    /// Cut out and resized: for every cut a crop of every image, `[B, 3, size, size]`.
    Cut(Vec<Tensor>),
}

/// Features `[N, width]` for every pooling asked for, and the classes `[N]`.
pub(crate) struct Labeled {
    pub(crate) features: Vec<Tensor>,
    pub(crate) labels: Tensor,
}

impl Batch {
    /// The classes, `[B]`; an error if the images have none.
    pub(crate) fn labels(&self) -> Result<&Tensor> {
        Ok(self.labels.as_ref().ok_or("the images to train on have no classes")?)
    }

    /// A view of every image by `recipe`, of number `cut` of its crops if it was cut out already:
    /// `[B, 3, size, size]`.
    pub(crate) fn view(&self, recipe: &ViewRecipe, cut: usize) -> Result<Tensor> {
        Ok(match &self.images {
            BatchImages::Whole(images) => recipe.view(images)?,
            BatchImages::Cut(crops) => recipe.view_of_crops(&crops[cut])?,
        })
    }
}

/// The end of the protocol of images that are classified by each other.
pub(crate) const AMONG_TEST: &str = "; each image by the others";

/// How images are prepared for an encoder whose features are measured, in words.
pub(crate) fn preparation(image_size: i64) -> String {
    match evaluation_cut(image_size) {
        Cut::Center { resize, size } => format!("shorter side resized to {resize} px, center of {size} px"),
        Cut::Random { .. } => "random crops".to_owned(),
    }
}

/// `count` of `all` images, or all for 0.
fn at_most(count: i64, all: i64) -> i64 {
    if count == 0 { all } else { count.min(all) }
}
