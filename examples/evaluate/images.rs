//! What the evaluations ask of images, wherever they are.

use clap::Args;
use patchmix::augment::ViewRecipe;
use patchmix::data::Split;
use patchmix::eval::LinearConfig;
use patchmix::vit::Pooling;
use tch::{Device, Tensor};

use super::Result;
use super::encoder::LoadedEncoder;

/// Options that name the images of one of the programs, and its published values.
pub(crate) trait ImageOptions: Args + std::fmt::Debug {
    type Images: Images;
    /// Images in a batch of the linear probe.
    const LINEAR_BATCH: i64;
    /// Learning rate of the linear probe for a batch of 256.
    const LINEAR_RATE: f64;

    /// What is there to learn from and to measure on; what the options leave open is as in the encoder's run.
    fn open(&self, encoder: &LoadedEncoder, device: Device) -> Result<Self::Images>;
}

/// Labelled images to learn from and to measure on.
pub(crate) trait Images {
    /// What they are called on a command line.
    fn name(&self) -> String;

    /// How many images a part has, broken ones included.
    fn count(&self, split: Split) -> i64;

    fn classes(&self) -> i64;

    /// How they are made as large as the encoder takes them, in words; empty if they are.
    fn preparation(&self, image_size: i64) -> String;

    /// The frozen encoder's features of one part by each of the poolings.
    fn features(&self, encoder: &LoadedEncoder, split: Split, poolings: &[Pooling]) -> Result<LabelledFeatures>;

    /// Gives for an epoch and the positions of a batch, in their order, a new random view of every training image and
    /// its label, on the device.
    fn views<'a>(&'a self, view: &'a ViewRecipe, config: &'a LinearConfig) -> Views<'a>;

    /// How many were found to be broken, where that can be.
    fn broken(&self) -> Option<usize>;
}

/// Features `[N, width]` for every pooling asked for, and the classes `[N]`.
pub(crate) struct LabelledFeatures {
    pub(crate) features: Vec<Tensor>,
    pub(crate) labels: Tensor,
}

/// Views `[P, 3, size, size]` and labels `[P]` of a batch.
pub(crate) type Views<'a> = Box<dyn FnMut(u64, &[i64]) -> patchmix::Result<(Tensor, Tensor)> + 'a>;
