//! Batches of crops, as a stream returns them.

use std::path::PathBuf;

use tch::{Device, Tensor};

use super::{Cut, EncodedImages};
use crate::error::Result;
use crate::native;
use crate::numbers::to_device;

/// The square crops of the images of one batch.
#[derive(Debug)]
pub struct CroppedBatch {
    /// For each [`Cut`], the crops of all images: `[B, 3, size, size]`, `Uint8`, on the CPU.
    pub crops: Vec<Tensor>,
    /// The labels, `[B]` of `Int64`, on the CPU; `None` if the images have no classes.
    pub labels: Option<Tensor>,
    /// The positions of the images in the batch, in the requested order.
    pub positions: Vec<i64>,
    /// The images that could not be read. They are not in the batch, which is smaller by their number.
    pub broken: Vec<BrokenImage>,
}

impl CroppedBatch {
    /// The crops on `device`. Copies to a GPU are asynchronous: the call does not wait for it.
    ///
    /// # Errors
    ///
    /// [`Error::Torch`](crate::Error::Torch) if the device does not exist or is out of memory.
    pub fn crops_on(&self, device: Device) -> Result<Vec<Tensor>> {
        self.crops.iter().map(|crop| to_device(crop, device)).collect()
    }

    /// The labels on `device`, copied like [`CroppedBatch::crops_on`].
    ///
    /// # Errors
    ///
    /// Those of [`CroppedBatch::crops_on`].
    pub fn labels_on(&self, device: Device) -> Result<Option<Tensor>> {
        self.labels.as_ref().map(|labels| to_device(labels, device)).transpose()
    }
}

/// An image that could not be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BrokenImage {
    /// Its position among the images.
    pub position: i64,
    /// Its file; for an image in an archive, the archive and its name in it.
    pub path: PathBuf,
    /// What is wrong with it.
    pub problem: String,
}

/// The crops of an image, one per cut, each as planes; or what is wrong with its file.
pub(super) type Squares = std::result::Result<Vec<Vec<u8>>, String>;

/// Assembles a batch of the images at `positions`, in page-locked memory if `pinned`.
pub(super) fn assemble(
    source: &dyn EncodedImages,
    cuts: &[Cut],
    positions: &[i64],
    images: Vec<Result<Squares>>,
    pinned: bool,
) -> Result<CroppedBatch> {
    let mut whole = Vec::with_capacity(images.len());
    let (mut read, mut labels, mut broken) = (Vec::new(), Vec::new(), Vec::new());
    for (&position, squares) in positions.iter().zip(images) {
        match squares? {
            Ok(squares) => {
                whole.push(squares);
                read.push(position);
                if source.is_labeled() {
                    labels.push(source.label(position)?);
                }
            }
            Err(problem) => broken.push(BrokenImage { position, path: source.path(position)?, problem }),
        }
    }
    let crops = cuts.iter().enumerate().map(|(cut, setting)| {
        let shape = [whole.len() as i64, 3, setting.size(), setting.size()];
        native::memory::join(whole.iter().map(|squares| &*squares[cut]), &shape, pinned)
    });
    let crops = crops.collect::<Result<_>>()?;
    let labels = source.is_labeled().then(|| Tensor::f_from_slice(&labels)).transpose()?;
    Ok(CroppedBatch { crops, labels, positions: read, broken })
}
