//! The images of a data set that a command line names.

use std::path::Path;

use patchmix::data::{Dataset, Split, cifar10, cifar100, procedural};

use super::Result;
use super::dataset_name::DatasetName;
use super::download::{self, Archive};

/// Built-in images: enough to learn from in minutes.
const BUILTIN_TRAIN: i64 = 4096;
const BUILTIN_TEST: i64 = 1000;
/// The built-in images are the same for every run, so that runs can be compared.
const BUILTIN_SEEDS: (u64, u64) = (1, 2);

/// Which images, where they are, and how many.
#[derive(Debug)]
pub(crate) struct ImageSource<'a> {
    pub(crate) dataset: DatasetName,
    /// Folder with the data set's files.
    pub(crate) data: &'a Path,
    /// Number of training images; 0 for all.
    pub(crate) limit: i64,
    /// Side in pixels of the built-in images.
    pub(crate) image_size: i64,
    /// Whether files that are not there are fetched.
    pub(crate) download: bool,
    /// Where from, if not from the authors.
    pub(crate) mirror: Option<&'a str>,
}

impl ImageSource<'_> {
    /// One part of the data set, on the CPU.
    pub(crate) fn load(&self, split: Split) -> Result<Dataset> {
        let limit = (self.limit > 0 && split == Split::Train).then_some(self.limit);
        let (read, archive): (fn(_, _, _) -> _, _) = match self.dataset {
            DatasetName::Builtin => return self.draw(split, limit),
            DatasetName::ImageFolder => {
                return Err("images in folders stream from their files; this program takes others".into());
            }
            DatasetName::Cifar10 => (cifar10, Archive::Cifar10),
            DatasetName::Cifar100 => (cifar100, Archive::Cifar100),
        };
        if self.download {
            download::cifar(archive, self.data, self.mirror)?;
        }
        let hint = if self.download { "" } else { " (--data names the folder, --download fetches it)" };
        read(self.data, split, limit).map_err(|error: patchmix::Error| format!("{error}{hint}").into())
    }

    fn draw(&self, split: Split, limit: Option<i64>) -> Result<Dataset> {
        if self.download {
            return Err("--download fetches cifar10 or cifar100; the built-in images need none".into());
        }
        let (count, seed) = match split {
            Split::Train => (limit.unwrap_or(BUILTIN_TRAIN), BUILTIN_SEEDS.0),
            Split::Test => (BUILTIN_TEST, BUILTIN_SEEDS.1),
        };
        Ok(procedural(count, self.image_size, seed)?)
    }
}
