//! What a stream hands over.

use std::path::PathBuf;

use tch::{Device, Tensor};

use super::{Cut, ImageFolder};
use crate::error::Result;
use crate::native;
use crate::numbers::to_device;

/// The squares cut out of the images of one batch.
#[derive(Debug)]
pub struct CroppedBatch {
    /// For each cut, those of all images: `[B, 3, size, size]`, `Uint8`, on the CPU.
    pub crops: Vec<Tensor>,
    /// The classes, `[B]` of `Int64`.
    pub labels: Tensor,
    /// The positions in the folder of the images that are in the batch, in the order asked for.
    pub positions: Vec<i64>,
    /// The images that are not in the batch, which is smaller by them.
    pub broken: Vec<BrokenImage>,
}

impl CroppedBatch {
    /// The crops on `device`. Nothing waits for a GPU: the copy is done when what uses it comes to it.
    ///
    /// # Errors
    ///
    /// [`Error::Torch`](crate::Error::Torch) if there is no such device, or no memory there.
    pub fn crops_on(&self, device: Device) -> Result<Vec<Tensor>> {
        self.crops.iter().map(|crop| to_device(crop, device)).collect()
    }

    /// The classes on `device`, as [`CroppedBatch::crops_on`] has the crops.
    ///
    /// # Errors
    ///
    /// As [`CroppedBatch::crops_on`].
    pub fn labels_on(&self, device: Device) -> Result<Tensor> {
        to_device(&self.labels, device)
    }
}

/// An image that could not be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BrokenImage {
    /// Its position in the folder.
    pub position: i64,
    /// Its file.
    pub path: PathBuf,
    /// What is wrong, in words.
    pub problem: String,
}

/// The squares of an image, one a cut, each in planes; or what is wrong with its file.
pub(super) type Squares = std::result::Result<Vec<Vec<u8>>, String>;

/// Puts the images at `positions` together, in page-locked memory if `pinned`.
pub(super) fn assemble(
    folder: &ImageFolder,
    cuts: &[Cut],
    positions: &[i64],
    images: Vec<Squares>,
    pinned: bool,
) -> Result<CroppedBatch> {
    let mut whole = Vec::with_capacity(images.len());
    let (mut read, mut labels, mut broken) = (Vec::new(), Vec::new(), Vec::new());
    for (&position, squares) in positions.iter().zip(images) {
        match squares {
            Ok(squares) => {
                whole.push(squares);
                read.push(position);
                labels.push(folder.label(position)?);
            }
            Err(problem) => broken.push(BrokenImage { position, path: folder.path(position)?, problem }),
        }
    }
    let crops = cuts.iter().enumerate().map(|(cut, setting)| {
        let shape = [whole.len() as i64, 3, setting.size(), setting.size()];
        native::memory::join(whole.iter().map(|squares| &*squares[cut]), &shape, pinned)
    });
    let crops = crops.collect::<Result<_>>()?;
    Ok(CroppedBatch { crops, labels: Tensor::f_from_slice(&labels)?, positions: read, broken })
}
