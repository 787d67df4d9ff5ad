//! Data sets: CIFAR-10, CIFAR-100 and STL-10 from their binary files, folders of JPEG, PNG and WebP files, and built-in
//! procedural images.
//!
//! A [`Dataset`] holds all images in memory as bytes, on the CPU or on a GPU. [`Batches`] assigns images to the batches
//! of an epoch. It depends on seed and epoch only, so a resumed run sees the same batches as an uninterrupted one.
//!
//! ```no_run
//! use std::path::Path;
//! use patchmix::data::{Batches, Split, cifar10};
//!
//! let data = cifar10(Path::new("data"), Split::Train, None)?.to_device(tch::Device::cuda_if_available())?;
//! for epoch in 0..10 {
//!     for positions in Batches::new(data.len(), 512, 0, epoch)?.iter() {
//!         let (images, labels) = data.select(positions)?;
//!     }
//! }
//! # Ok::<(), patchmix::Error>(())
//! ```
//!
//! With the feature `image-folder`, an `ImageFolder` lists images that need not fit in memory, `ImageShards` index
//! those in tar archives, and a `CropStream` decodes and crops them in threads while the model trains on earlier
//! batches. The rest of a view is made of whole batches, on the GPU if there is one
//! ([`ViewRecipe::view_of_crops`](crate::augment::ViewRecipe::view_of_crops)).

mod batches;
mod center;
mod cifar;
mod figure;
mod folder;
#[cfg(feature = "image-folder")]
mod image_folder;
mod procedural;
#[cfg(feature = "image-folder")]
mod shards;
mod stl10;

use tch::{Device, Tensor};

pub use batches::{Batches, epoch_order};
pub(crate) use center::CenterCrop;
#[cfg(any(fuzzing, test))]
pub use cifar::cifar_records;
pub use cifar::{cifar10, cifar100};
#[cfg(feature = "image-folder")]
pub use image_folder::{
    BrokenImage, Contents, CropStream, CroppedBatch, Cut, EncodedImages, ImageFolder, StreamConfig,
};
#[cfg(all(feature = "image-folder", any(fuzzing, test)))]
pub use image_folder::{crops_of_bytes, jpeg_dimensions};
pub use procedural::procedural;
#[cfg(all(feature = "image-folder", any(fuzzing, test)))]
pub use shards::shard_samples;
#[cfg(feature = "image-folder")]
pub use shards::{ImageShards, ShardMember, shard_paths};
pub use stl10::{stl10, stl10_unlabeled};

use crate::error::{Error, Result, check_defined, check_device, check_index, check_shape};
use crate::numbers::to_device;

/// A part of a data set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Split {
    /// The training images.
    Train,
    /// The test or validation images.
    Test,
}

/// Labeled images in memory.
#[derive(Debug)]
pub struct Dataset {
    /// The images, `[N, 3, H, W]` of `Uint8`: red, green and blue from 0 to 255, rows from the top.
    pub images: Tensor,
    /// The class of each image, `[N]` of `Int64`, from 0 to `class_names.len() - 1`.
    pub labels: Tensor,
    /// The names of the classes.
    pub class_names: Vec<String>,
}

impl Dataset {
    /// The number of images.
    pub fn len(&self) -> i64 {
        if self.images.defined() { self.images.size().first().copied().unwrap_or(0) } else { 0 }
    }

    /// Whether there are no images.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The number of classes.
    pub fn classes(&self) -> i64 {
        self.class_names.len() as i64
    }

    /// The first `count` images, sharing memory with the whole set.
    ///
    /// # Errors
    ///
    /// [`Error::Value`] unless `1 <= count <= len()`, [`Error::Shape`] unless there is one label per image.
    pub fn take(&self, count: i64) -> Result<Dataset> {
        self.check()?;
        check_count("count", count, self.len())?;
        Ok(Dataset {
            images: self.images.f_narrow(0, 0, count)?,
            labels: self.labels.f_narrow(0, 0, count)?,
            class_names: self.class_names.clone(),
        })
    }

    /// `count` images spread evenly, so that every class keeps its share to within one image; in the order of the set.
    ///
    /// # Errors
    ///
    /// [`Error::Value`] unless `1 <= count <= len()`, [`Error::Shape`] unless there is one label per image,
    /// [`Error::Device`] if the labels are on another device than the images.
    pub fn spread(&self, count: i64) -> Result<Dataset> {
        self.check()?;
        let length = self.len();
        check_count("count", count, length)?;
        if count == length {
            return self.take(count);
        }
        // Even steps through the set itself would miss classes where the classes alternate.
        let by_class = Vec::<i64>::try_from(self.labels.f_to_device(Device::Cpu)?.f_argsort_stable(true, 0, false)?)?;
        let place = |number: i64| (i128::from(number) * i128::from(length) / i128::from(count)) as usize;
        let mut positions: Vec<i64> = (0..count).map(|number| by_class[place(number)]).collect();
        positions.sort_unstable();
        let (images, labels) = self.select(&positions)?;
        Ok(Dataset { images, labels, class_names: self.class_names.clone() })
    }

    /// The images `[P, 3, H, W]` and labels `[P]` at `positions`, in that order, on the device of the set.
    ///
    /// # Errors
    ///
    /// [`Error::Value`] unless all positions are in `0..len()`, [`Error::Shape`] unless there is one label per image,
    /// [`Error::Device`] if the labels are on another device than the images.
    pub fn select(&self, positions: &[i64]) -> Result<(Tensor, Tensor)> {
        self.check()?;
        let length = self.len();
        // On a GPU, an index out of range aborts all further work of the process.
        if let Some(position) = positions.iter().find(|position| !(0..length).contains(*position)) {
            let expected = format!("in 0..{length}, the number of images");
            return Err(Error::Value { name: "position", expected, actual: *position as f64 });
        }
        let positions = to_device(&Tensor::f_from_slice(positions)?, self.images.device())?;
        Ok((self.images.f_index_select(0, &positions)?, self.labels.f_index_select(0, &positions)?))
    }

    /// The same images and labels on `device`; nothing is copied if they are already there.
    ///
    /// # Errors
    ///
    /// [`Error::Torch`] if the device cannot be used or is out of memory, [`Error::Undefined`] if images or labels are
    /// undefined, [`Error::Value`] if the CUDA index is out of range.
    pub fn to_device(&self, device: Device) -> Result<Dataset> {
        check_index(device)?;
        check_defined("images", &self.images)?;
        check_defined("labels", &self.labels)?;
        Ok(Dataset {
            images: self.images.f_to_device(device)?,
            labels: self.labels.f_to_device(device)?,
            class_names: self.class_names.clone(),
        })
    }

    /// An error unless images and labels fit together: the fields are public.
    fn check(&self) -> Result<()> {
        check_shape("images", &self.images, &[("N", None), ("3", Some(3)), ("H", None), ("W", None)])?;
        check_shape("labels", &self.labels, &[("N", Some(self.len()))])?;
        check_device("labels", &self.labels, self.images.device())
    }
}

/// An error unless `1 <= count <= images`.
fn check_count(name: &'static str, count: i64, images: i64) -> Result<()> {
    if (1..=images).contains(&count) {
        return Ok(());
    }
    let expected = format!("between 1 and the number of images, {images}");
    Err(Error::Value { name, expected, actual: count as f64 })
}
