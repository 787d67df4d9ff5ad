//! Images as the contents of their files, wherever these are.

use std::path::PathBuf;

use super::ImageFolder;
use super::decode::MAX_FILE;
use crate::error::{Error, Result};
use crate::files::read_small;

/// The contents of an image's file; or what is wrong with it, in words.
pub type Contents = std::result::Result<Vec<u8>, String>;

/// Images as the contents of JPEG, PNG or WebP files, by their positions.
///
/// A [`CropStream`](super::CropStream) reads them from several threads. An [`ImageFolder`] has a file for each of them,
/// [`ImageShards`](crate::data::ImageShards) are archives of many.
pub trait EncodedImages: Send + Sync {
    /// The number of images.
    fn len(&self) -> i64;

    /// Whether there are no images.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether the images have classes.
    fn is_labeled(&self) -> bool;

    /// The class of the image at `position`.
    ///
    /// # Errors
    ///
    /// [`Error::Value`] unless `position` is in `0..len()`; [`Error::Data`] if the images have no classes.
    fn label(&self, position: i64) -> Result<i64>;

    /// A name for the image at `position`, for messages.
    ///
    /// # Errors
    ///
    /// [`Error::Value`] unless `position` is in `0..len()`.
    fn path(&self, position: i64) -> Result<PathBuf>;

    /// Reads the image at `position`. One that cannot be read is left out of its batch.
    ///
    /// # Errors
    ///
    /// [`Error::Value`] unless `position` is in `0..len()`; others mean that the positions hold no more, and end a
    /// stream.
    fn read(&self, position: i64) -> Result<Contents>;
}

impl EncodedImages for ImageFolder {
    fn len(&self) -> i64 {
        self.len()
    }

    fn is_labeled(&self) -> bool {
        self.is_labeled()
    }

    fn label(&self, position: i64) -> Result<i64> {
        self.label(position)
    }

    fn path(&self, position: i64) -> Result<PathBuf> {
        self.path(position)
    }

    fn read(&self, position: i64) -> Result<Contents> {
        Ok(read_small(&self.path(position)?, MAX_FILE).map_err(|error| match error {
            Error::Data { problem, .. } => problem,
            Error::Io { source, .. } => source.to_string(),
            other => other.to_string(),
        }))
    }
}

/// An error unless `position` is in `0..count`.
pub(in crate::data) fn check_position(position: i64, count: i64) -> Result<()> {
    if (0..count).contains(&position) {
        return Ok(());
    }
    let expected = format!("in 0..{count}, the number of images");
    Err(Error::Value { name: "position", expected, actual: position as f64 })
}
