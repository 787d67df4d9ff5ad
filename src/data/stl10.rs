//! Reads the binary version of STL-10: files of 96 x 96 pixels an image, column by column, and files of labels.

use std::path::Path;

use tch::{Device, Kind, Tensor};

use super::folder::{self, Names};
use super::{Dataset, Split, check_count};
use crate::error::Result;

const TITLE: &str = "STL-10";

/// Side of an image.
const SIZE: i64 = 96;

/// Bytes of an image: the red plane, the green, the blue, each column by column.
const PIXELS: u64 = (3 * SIZE * SIZE) as u64;

/// Images that are read at once, 14 MB of bytes.
const CHUNK: i64 = 512;

const TRAIN: [&str; 2] = ["train_X.bin", "train_y.bin"];
const TEST: [&str; 2] = ["test_X.bin", "test_y.bin"];
const UNLABELED: &str = "unlabeled_X.bin";

const NAMES: Names<'_> = Names {
    title: TITLE,
    folder: "stl10_binary",
    archive: "stl10_binary.tar.gz",
    files: &[TRAIN[0], TEST[0], UNLABELED],
    others: &["train.mat", "stl10_matlab", "stl10_matlab.tar.gz"],
    language: "Matlab",
};

/// Class names to use if the file of names is missing.
const CLASSES: [&str; 10] = ["airplane", "bird", "car", "cat", "deer", "dog", "horse", "monkey", "ship", "truck"];

/// Reads the labeled images of STL-10: 5,000 training and 8,000 test images of 96 x 96 pixels, in ten classes.
///
/// `folder` contains the files of the binary version (`train_X.bin`, `train_y.bin`, `test_X.bin`, `test_y.bin`), or the
/// folder `stl10_binary` with them. With a `limit`, only the first `limit` images are read. The class names come from
/// `class_names.txt` if it exists. The files may hold any number of images.
///
/// The images are `[N, 3, 96, 96]` on the CPU, row by row like those of all data sets; the labels, from 1 to 10 in the
/// files, start at 0.
///
/// # Errors
///
/// [`Error::Data`](crate::Error::Data), which names the file and what to do, if the folder or a file is missing, is the
/// Matlab version or still compressed, does not end with a whole image, has another number of images than of labels, or
/// contains a label out of range; [`Error::Io`](crate::Error::Io) if a file cannot be read;
/// [`Error::Value`](crate::Error::Value) unless `limit` is between 1 and the number of images.
pub fn stl10(folder: &Path, split: Split, limit: Option<i64>) -> Result<Dataset> {
    let [images_file, labels_file] = if split == Split::Train { TRAIN } else { TEST };
    let folder = folder::locate(folder, &NAMES)?;
    let [images_path, labels_path] = [images_file, labels_file].map(|name| folder.join(name));
    let (images_in_file, labels_in_file) = (count(&images_path, PIXELS)?, count(&labels_path, 1)?);
    if images_in_file != labels_in_file {
        let fault = format!("has {labels_in_file} labels for the {images_in_file} images of {images_file}");
        return Err(folder::problem(&labels_path, format!("{fault}; unpack or download both again")));
    }
    let limit = limit.unwrap_or(images_in_file);
    check_count("limit", limit, images_in_file)?;
    let class_names = folder::class_names(&folder.join("class_names.txt"), &CLASSES)?;
    let labels = read_labels(&labels_path, limit, class_names.len())?;
    let images = empty(limit)?;
    read_images(&images_path, &images)?;
    Ok(Dataset { images, labels: Tensor::f_from_slice(&labels)?, class_names })
}

/// Reads the images of STL-10 to pre-train on, without labels: the 5,000 training images, then the 100,000 unlabeled
/// ones. `[N, 3, 96, 96]` of `Uint8` on the CPU; 2.9 GB for all.
///
/// That is the usual set for self-supervised learning; the test images are not in it. With a `limit`, only the first
/// `limit` images are read.
///
/// # Errors
///
/// Those of [`stl10`].
pub fn stl10_unlabeled(folder: &Path, limit: Option<i64>) -> Result<Tensor> {
    let folder = folder::locate(folder, &NAMES)?;
    let [train_path, unlabeled_path] = [TRAIN[0], UNLABELED].map(|name| folder.join(name));
    let (train, unlabeled) = (count(&train_path, PIXELS)?, count(&unlabeled_path, PIXELS)?);
    let limit = limit.unwrap_or(train + unlabeled);
    check_count("limit", limit, train + unlabeled)?;
    // Both parts into one tensor: joined at the end, they would take twice the memory.
    let images = empty(limit)?;
    let from_train = limit.min(train);
    read_images(&train_path, &images.f_narrow(0, 0, from_train)?)?;
    if limit > train {
        read_images(&unlabeled_path, &images.f_narrow(0, train, limit - train)?)?;
    }
    Ok(images)
}

fn empty(count: i64) -> Result<Tensor> {
    Ok(Tensor::f_empty([count, 3, SIZE, SIZE], (Kind::Uint8, Device::Cpu))?)
}

/// The number of records of `length` bytes in a file.
fn count(path: &Path, length: u64) -> Result<i64> {
    let bytes = folder::length(path, TITLE)?;
    match bytes % length {
        0 => Ok((bytes / length) as i64),
        _ => {
            let fault = format!("does not end with a whole image: {bytes} bytes, of which an image has {length}");
            Err(folder::problem(path, format!("{fault}; unpack or download it again")))
        }
    }
}

/// Fills `images` with the first images of a file, a chunk at a time.
fn read_images(path: &Path, images: &Tensor) -> Result<()> {
    let count = images.size()[0];
    let mut file = folder::open_file(path, TITLE)?;
    for first in (0..count).step_by(CHUNK as usize) {
        let images = images.f_narrow(0, first, CHUNK.min(count - first))?;
        let mut bytes = vec![0; images.numel()];
        folder::fill(&mut file, &mut bytes, path)?;
        let by_column = Tensor::f_from_slice(&bytes)?.f_view([-1, 3, SIZE, SIZE])?;
        { images }.f_copy_(&by_column.f_transpose(2, 3)?)?;
    }
    Ok(())
}

/// The first labels of a file, from 0.
fn read_labels(path: &Path, count: i64, classes: usize) -> Result<Vec<i64>> {
    let mut bytes = vec![0; count as usize];
    folder::fill(&mut folder::open_file(path, TITLE)?, &mut bytes, path)?;
    let label = |(number, byte): (usize, u8)| match (1..=classes).contains(&usize::from(byte)) {
        true => Ok(i64::from(byte) - 1),
        false => {
            let fault = format!("label {byte} of image {number} (counted from 0) is not in 1..={classes}");
            let advice = format!("the file is damaged or not {TITLE}; unpack or download it again");
            Err(folder::problem(path, format!("{fault}; {advice}")))
        }
    };
    bytes.into_iter().enumerate().map(label).collect()
}

#[cfg(test)]
mod tests;
