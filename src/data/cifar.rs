//! Reads the binary versions of CIFAR-10 and CIFAR-100: records of one or two label bytes and 3,072 bytes of pixels.

use std::io::Read;
use std::path::Path;

use tch::{Device, Kind, Tensor};

use super::folder::{self, Names};
use super::{Dataset, Split, check_count};
use crate::error::Result;

/// Side of an image.
const SIZE: i64 = 32;

/// Bytes of an image: the red plane, the green, the blue, each row by row.
const PIXELS: usize = (3 * SIZE * SIZE) as usize;

/// The layout of one of the data sets.
#[derive(Clone)]
struct Format {
    title: &'static str,
    folder: &'static str,
    archive: &'static str,
    train_files: &'static [&'static str],
    test_file: &'static str,
    /// Files and folders of the Python version.
    python: &'static [&'static str],
    /// Records in each training file.
    train_records: i64,
    test_records: i64,
    /// Name and number of values of the label bytes that start a record; the last one is the class.
    labels: &'static [(&'static str, u8)],
    names_file: &'static str,
    /// Class names to use if the file of names is missing.
    names: &'static [&'static str],
}

const CIFAR10: Format = Format {
    title: "CIFAR-10",
    folder: "cifar-10-batches-bin",
    archive: "cifar-10-binary.tar.gz",
    train_files: &["data_batch_1.bin", "data_batch_2.bin", "data_batch_3.bin", "data_batch_4.bin", "data_batch_5.bin"],
    test_file: "test_batch.bin",
    python: &["data_batch_1", "cifar-10-batches-py", "cifar-10-python.tar.gz"],
    train_records: 10_000,
    test_records: 10_000,
    labels: &[("label", 10)],
    names_file: "batches.meta.txt",
    names: &["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"],
};

const CIFAR100: Format = Format {
    title: "CIFAR-100",
    folder: "cifar-100-binary",
    archive: "cifar-100-binary.tar.gz",
    train_files: &["train.bin"],
    test_file: "test.bin",
    python: &["train", "cifar-100-python", "cifar-100-python.tar.gz"],
    train_records: 50_000,
    test_records: 10_000,
    labels: &[("coarse label", 20), ("fine label", 100)],
    names_file: "fine_label_names.txt",
    names: &CIFAR100_NAMES,
};

/// The fine classes of CIFAR-100, in the order of their labels.
#[rustfmt::skip] // one name per line otherwise
const CIFAR100_NAMES: [&str; 100] = [
    "apple", "aquarium_fish", "baby", "bear", "beaver", "bed", "bee", "beetle", "bicycle", "bottle", "bowl", "boy",
    "bridge", "bus", "butterfly", "camel", "can", "castle", "caterpillar", "cattle", "chair", "chimpanzee", "clock",
    "cloud", "cockroach", "couch", "crab", "crocodile", "cup", "dinosaur", "dolphin", "elephant", "flatfish",
    "forest", "fox", "girl", "hamster", "house", "kangaroo", "keyboard", "lamp", "lawn_mower", "leopard", "lion",
    "lizard", "lobster", "man", "maple_tree", "motorcycle", "mountain", "mouse", "mushroom", "oak_tree", "orange",
    "orchid", "otter", "palm_tree", "pear", "pickup_truck", "pine_tree", "plain", "plate", "poppy", "porcupine",
    "possum", "rabbit", "raccoon", "ray", "road", "rocket", "rose", "sea", "seal", "shark", "shrew", "skunk",
    "skyscraper", "snail", "snake", "spider", "squirrel", "streetcar", "sunflower", "sweet_pepper", "table", "tank",
    "telephone", "television", "tiger", "tractor", "train", "trout", "tulip", "turtle", "wardrobe", "whale",
    "willow_tree", "wolf", "woman", "worm",
];

/// Reads CIFAR-10: 50,000 training and 10,000 test images of 32 x 32 pixels, in ten classes.
///
/// `folder` contains the files of the binary version (`data_batch_1.bin` to `data_batch_5.bin`, `test_batch.bin`), or
/// the folder `cifar-10-batches-bin` with them. With a `limit`, only the first `limit` images are read, and only their
/// files need to exist. The class names come from `batches.meta.txt` if it exists.
///
/// The images are `[N, 3, 32, 32]` on the CPU.
///
/// # Errors
///
/// [`Error::Data`](crate::Error::Data), which names the file and what to do, if the folder or a file is missing, is the
/// Python version or still compressed, has another length than the official file, or contains a label out of range;
/// [`Error::Io`](crate::Error::Io) if a file cannot be read; [`Error::Value`](crate::Error::Value) unless `limit` is
/// between 1 and the number of images.
pub fn cifar10(folder: &Path, split: Split, limit: Option<i64>) -> Result<Dataset> {
    read(&CIFAR10, folder, split, limit)
}

/// Reads CIFAR-100: 50,000 training and 10,000 test images of 32 x 32 pixels, with their 100 fine labels.
///
/// `folder` contains the files of the binary version (`train.bin`, `test.bin`), or the folder `cifar-100-binary` with
/// them. With a `limit`, only the first `limit` images are read. The class names come from `fine_label_names.txt` if it
/// exists.
///
/// The images are `[N, 3, 32, 32]` on the CPU.
///
/// # Errors
///
/// Those of [`cifar10`].
pub fn cifar100(folder: &Path, split: Split, limit: Option<i64>) -> Result<Dataset> {
    read(&CIFAR100, folder, split, limit)
}

/// Parses the bytes of a CIFAR-10 file (CIFAR-100 with `two_labels`) without the check of the file's length; `path` is
/// for the errors. The entry point of the fuzz target, which `cargo fuzz` builds with `--cfg fuzzing`.
///
/// # Errors
///
/// [`Error::Data`](crate::Error::Data) for a label out of range, [`Error::Torch`](crate::Error::Torch) if there is no
/// memory for the images.
#[cfg(any(fuzzing, test))]
pub fn cifar_records(bytes: &[u8], two_labels: bool, path: &Path) -> Result<Dataset> {
    let format = if two_labels { &CIFAR100 } else { &CIFAR10 };
    let count = (bytes.len() / format.record_length()) as i64;
    let mut labels = Vec::new();
    let pixels = read_records(format, &mut &bytes[..], path, count, &mut labels)?;
    let images = Tensor::f_from_slice(&pixels)?.f_view([count, 3, SIZE, SIZE])?;
    Ok(Dataset { images, labels: Tensor::f_from_slice(&labels)?, class_names: Vec::new() })
}

impl Format {
    /// The files of a split, and the number of records in each.
    fn files(&self, split: Split) -> (&[&'static str], i64) {
        match split {
            Split::Train => (self.train_files, self.train_records),
            Split::Test => (std::slice::from_ref(&self.test_file), self.test_records),
        }
    }

    fn record_length(&self) -> usize {
        self.labels.len() + PIXELS
    }

    fn locate(&self, folder: &Path) -> Result<std::path::PathBuf> {
        let mut files = self.train_files.to_vec();
        files.push(self.test_file);
        let Format { title, folder: inner, archive, python: others, .. } = *self;
        folder::locate(folder, &Names { title, folder: inner, archive, files: &files, others, language: "Python" })
    }
}

fn read(format: &Format, folder: &Path, split: Split, limit: Option<i64>) -> Result<Dataset> {
    let (files, records) = format.files(split);
    let total = records * files.len() as i64;
    let count = limit.unwrap_or(total);
    check_count("limit", count, total)?;
    let folder = format.locate(folder)?;
    let class_names = folder::class_names(&folder.join(format.names_file), format.names)?;
    let images = Tensor::f_zeros([count, 3, SIZE, SIZE], (Kind::Uint8, Device::Cpu))?;
    let mut labels = Vec::new();
    for (number, name) in (0..).zip(files) {
        let start = number * records;
        let wanted = records.min(count - start);
        if wanted <= 0 {
            break;
        }
        let path = folder.join(name);
        let mut file = folder::open(&path, records as u64 * format.record_length() as u64, format.title)?;
        let pixels = read_records(format, &mut file, &path, wanted, &mut labels)?;
        let pixels = Tensor::f_from_slice(&pixels)?.f_view([wanted, 3, SIZE, SIZE])?;
        images.f_narrow(0, start, wanted)?.f_copy_(&pixels)?;
    }
    Ok(Dataset { images, labels: Tensor::f_from_slice(&labels)?, class_names })
}

/// Reads the first `count` records of a file: returns their pixels and appends their classes to `labels`.
fn read_records(
    format: &Format,
    file: &mut impl Read,
    path: &Path,
    count: i64,
    labels: &mut Vec<i64>,
) -> Result<Vec<u8>> {
    let mut bytes = vec![0; count as usize * format.record_length()];
    folder::fill(file, &mut bytes, path)?;
    let mut pixels = Vec::with_capacity(count as usize * PIXELS);
    for (number, record) in bytes.chunks_exact(format.record_length()).enumerate() {
        let (label_bytes, image) = record.split_at(format.labels.len());
        let mut class = 0;
        for ((name, values), value) in format.labels.iter().zip(label_bytes) {
            if value >= values {
                let advice = format!(
                    "{name} {value} in record {number} (counted from 0) is not below {values}; \
                     the file is damaged or not {}; unpack or download it again",
                    format.title
                );
                return Err(folder::problem(path, advice));
            }
            class = i64::from(*value);
        }
        labels.push(class);
        pixels.extend_from_slice(image);
    }
    Ok(pixels)
}

#[cfg(test)]
mod tests;
