//! Shards: tar archives of images with their classes, in WebDataset's layout.

mod archive;
mod files;
mod index;
mod indexing;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub use files::shard_paths;

use super::check_count;
use super::folder::problem;
use super::image_folder::list::{PassedOver, add};
use super::image_folder::{Contents, EncodedImages, check_position};
use crate::error::Result;
use files::ShardFiles;
use index::Index;
use indexing::read_indices;

/// The images of tar archives in [WebDataset]'s layout: `KEY.jpg` beside `KEY.cls`, the class as a decimal number; or
/// without any `.cls`, as images without classes.
///
/// A key is the name of a member up to the first dot of its base name, its folders included. Images have the extensions
/// of an [`ImageFolder`](super::ImageFolder). Other members are passed over and counted, as are images without a class.
/// Images are in the order of the archives and of their members.
///
/// It stores an index, 16 bytes per image and its name, which is read from the headers of all members when the shards
/// are opened. A [`CropStream`](super::CropStream) reads images at their places in the archives, in any order and
/// without unpacking them. The archives must not change meanwhile.
///
/// [WebDataset]: https://github.com/webdataset/webdataset
#[derive(Debug, Clone)]
pub struct ImageShards {
    files: Arc<ShardFiles>,
    /// One per file.
    indices: Vec<Index>,
    /// The position of the first image of every shard, followed by the number of images.
    starts: Vec<i64>,
    class_names: Vec<String>,
    passed_over: PassedOver,
}

/// A member of a shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ShardMember<'a> {
    /// The archive.
    pub shard: &'a Path,
    /// Its name in the archive.
    pub name: &'a str,
    /// Where its content begins, in bytes.
    pub offset: u64,
    /// Length of its content in bytes.
    pub length: u64,
}

/// Samples of an archive that is given as its contents, for fuzzing: offset and length in bytes, class and name.
#[cfg(any(fuzzing, test))]
pub fn shard_samples(bytes: &[u8]) -> std::result::Result<Vec<(u64, u64, u32, String)>, String> {
    let index = Index::read(std::io::Cursor::new(bytes), bytes.len() as u64, &mut PassedOver::new())?;
    let sample = |number| {
        let (offset, length) = index.place(number);
        (offset, length, index.label(number), index.name(number).to_owned())
    };
    Ok((0..index.len()).map(sample).collect())
}

impl ImageShards {
    /// Reads the indices of the archives at `paths`, several at once. [`shard_paths`] finds those of a folder.
    ///
    /// The classes are the numbers that occur, in order, each named by its number; there are none without any `.cls`.
    /// Labels count them: they are the numbers themselves if these are 0, 1, 2 and so on.
    ///
    /// # Errors
    ///
    /// [`Error::Data`](crate::Error::Data) for an archive that is empty, compressed, truncated, damaged or joined of
    /// several, has no image (or only such without a class where others have one), two images or two classes for a key,
    /// or a class that is not a number below 2^20, and if there are no paths; [`Error::Io`](crate::Error::Io) if one
    /// cannot be read.
    pub fn open(paths: &[PathBuf]) -> Result<ImageShards> {
        let shards = ImageShards::index(paths)?;
        if !shards.indices.iter().any(Index::is_labeled) {
            return Ok(shards);
        }
        let numbers: BTreeSet<u32> = shards.indices.iter().flat_map(Index::labels).collect();
        shards.labeled(numbers.iter().map(u32::to_string).collect())
    }

    /// The same with the [class names](ImageShards::class_names) of the training images, for validation images.
    ///
    /// # Errors
    ///
    /// [`Error::Data`](crate::Error::Data) for an image of another class or without a class; those of
    /// [`ImageShards::open`].
    pub fn with_classes(paths: &[PathBuf], class_names: &[String]) -> Result<ImageShards> {
        ImageShards::index(paths)?.labeled(class_names.to_vec())
    }

    /// Gives the images the labels of their classes: the places of the numbers in `class_names`.
    fn labeled(mut self, class_names: Vec<String>) -> Result<ImageShards> {
        let label_of: HashMap<u32, u32> =
            class_names.iter().zip(0..).filter_map(|(name, label)| Some((name.parse().ok()?, label))).collect();
        for (index, file) in self.indices.iter_mut().zip(&self.files.shards) {
            if !index.is_labeled() {
                return Err(problem(&file.path, "has no classes: a member KEY.cls beside each KEY.jpg".to_owned()));
            }
            index.relabel(&label_of).map_err(|number| {
                let classes = class_names.len();
                let advice = format!("has an image of class {number}, not one of the {classes} of the training images");
                problem(&file.path, advice)
            })?;
        }
        Ok(ImageShards { class_names, ..self })
    }

    fn index(paths: &[PathBuf]) -> Result<ImageShards> {
        if paths.is_empty() {
            return Err(problem(Path::new("shards"), "none are given".to_owned()));
        }
        let (mut files, mut indices, mut passed_over) = (Vec::new(), Vec::new(), PassedOver::new());
        for (file, index, others) in read_indices(paths)? {
            others.iter().for_each(|(what, times)| add(&mut passed_over, what, *times));
            files.push(file);
            indices.push(index);
        }
        let (files, starts) = (Arc::new(ShardFiles::new(files)), starts(&indices));
        Ok(ImageShards { files, indices, starts, class_names: Vec::new(), passed_over })
    }

    /// The number of images.
    pub fn len(&self) -> i64 {
        self.starts.last().copied().unwrap_or(0)
    }

    /// Whether there are no images.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The number of shards.
    pub fn shards(&self) -> usize {
        self.files.shards.len()
    }

    /// Whether the images have classes.
    pub fn is_labeled(&self) -> bool {
        !self.class_names.is_empty()
    }

    /// The number of classes; 0 if the images have none.
    pub fn classes(&self) -> i64 {
        self.class_names.len() as i64
    }

    /// The names of the classes; none if the images have no classes.
    pub fn class_names(&self) -> &[String] {
        &self.class_names
    }

    /// What was passed over, and how many of it: members by their extension, such as `.json`, and in words what is left
    /// out for other reasons, such as images without a class.
    pub fn passed_over(&self) -> &BTreeMap<String, u64> {
        &self.passed_over
    }

    /// The member that holds the image at `position`.
    ///
    /// # Errors
    ///
    /// [`Error::Value`](crate::Error::Value) unless `position` is in `0..len()`.
    pub fn member(&self, position: i64) -> Result<ShardMember<'_>> {
        let (shard, sample) = self.find(position)?;
        let (offset, length) = self.indices[shard].place(sample);
        let name = self.indices[shard].name(sample);
        Ok(ShardMember { shard: &self.files.shards[shard].path, name, offset, length })
    }

    /// The shard of the image at `position`, and its number there.
    fn find(&self, position: i64) -> Result<(usize, usize)> {
        check_position(position, self.len())?;
        // If several shards start at one position, all but the last are empty.
        let shard = self.starts.partition_point(|&start| start <= position) - 1;
        Ok((shard, (position - self.starts[shard]) as usize))
    }

    /// A subset of `count` images spread evenly over the classes, so that each keeps its share to within one image; in
    /// the order of the set.
    ///
    /// # Errors
    ///
    /// [`Error::Value`](crate::Error::Value) unless `1 <= count <= len()`.
    pub fn take(&self, count: i64) -> Result<ImageShards> {
        check_count("count", count, self.len())?;
        let mut taken = self.spread(count);
        let indices = self.indices.iter().map(|index| {
            let of_shard: Vec<bool> = taken.by_ref().take(index.len()).collect();
            index.take((0..index.len()).filter(|&sample| of_shard[sample]))
        });
        let indices: Vec<Index> = indices.collect();
        Ok(ImageShards {
            files: Arc::clone(&self.files),
            starts: starts(&indices),
            indices,
            class_names: self.class_names.clone(),
            passed_over: self.passed_over.clone(),
        })
    }

    /// For every image, whether it is one of `count` that are spread evenly over the classes.
    fn spread(&self, count: i64) -> std::vec::IntoIter<bool> {
        let labels = || self.indices.iter().flat_map(|index| (0..index.len()).map(|sample| index.label(sample)));
        // The places of a class in the list of all images sorted by class follow one another.
        let mut places = vec![0_i64; self.class_names.len().max(1) + 1];
        labels().for_each(|label| places[label as usize + 1] += 1);
        for class in 1..places.len() {
            places[class] += places[class - 1];
        }
        let (count, all) = (i128::from(count), i128::from(self.len()));
        // Place p is taken if p = floor(number * all / count) for some number.
        let is_taken = labels().map(|label| {
            let place = i128::from(places[label as usize]);
            places[label as usize] += 1;
            let number = (place * count + all - 1) / all;
            number < count && number * all / count == place
        });
        is_taken.collect::<Vec<_>>().into_iter()
    }
}

impl EncodedImages for ImageShards {
    fn len(&self) -> i64 {
        self.len()
    }

    fn is_labeled(&self) -> bool {
        self.is_labeled()
    }

    fn label(&self, position: i64) -> Result<i64> {
        let (shard, sample) = self.find(position)?;
        match self.is_labeled() {
            true => Ok(self.indices[shard].label(sample).into()),
            false => Err(problem(&self.files.shards[shard].path, "its images have no classes".to_owned())),
        }
    }

    fn path(&self, position: i64) -> Result<PathBuf> {
        let ShardMember { shard, name, .. } = self.member(position)?;
        // Not joined, where a name from the root would replace the shard.
        let mut path = shard.as_os_str().to_owned();
        path.push("/");
        path.push(name);
        Ok(path.into())
    }

    fn read(&self, position: i64) -> Result<Contents> {
        let (shard, sample) = self.find(position)?;
        let (offset, length) = self.indices[shard].place(sample);
        self.files.read(shard, offset, length)
    }
}

/// The position of the first image of every shard, followed by the number of images.
fn starts(indices: &[Index]) -> Vec<i64> {
    let ends = indices.iter().scan(0, |end, index| {
        *end += index.len() as i64;
        Some(*end)
    });
    [0].into_iter().chain(ends).collect()
}
