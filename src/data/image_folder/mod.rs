//! Folders of images, by class or without classes: listing, decoding, cropping.

mod annotated;
mod batch;
mod cut;
pub(super) mod decode;
mod encoded;
mod jpeg;
pub(super) mod list;
mod square;
mod stream;
mod window;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

pub use batch::{BrokenImage, CroppedBatch};
pub use cut::Cut;
pub(super) use encoded::check_position;
pub use encoded::{Contents, EncodedImages};
pub use stream::{CropStream, StreamConfig};

use super::check_count;
use super::folder::problem;
use crate::error::Result;
use list::{PassedOver, Walk};

/// A list of the images of a folder with one folder per class, `folder/CLASS/*.jpg`, subfolders included; or of all
/// images below a folder, without classes.
///
/// It stores names only, some 30 bytes per image. A [`CropStream`] reads the pixels when they are needed.
///
/// Images are files with the extension `.jpg`, `.jpeg`, `.jpe`, `.jfif`, `.png` or `.webp`, in upper or lower case.
/// Other files are passed over and counted; everything whose name starts with a dot is ignored. Links are followed, but
/// no folder is listed twice within a class. Classes and files are sorted by the bytes of their names, so that a
/// position means the same image on every machine.
#[derive(Debug, Clone)]
pub struct ImageFolder {
    folder: PathBuf,
    /// Empty if the images have no classes.
    class_names: Vec<String>,
    /// Whether the images of a class lie in a folder of its name.
    has_class_folders: bool,
    /// The position of the first image of every class, followed by the number of images; of all images if there are no
    /// classes.
    class_starts: Vec<i64>,
    /// The paths of all images relative to their class folder, or to `folder` if there are none, concatenated: one
    /// string per image would take three times the memory.
    names: String,
    /// The end of each path in `names`.
    ends: Vec<usize>,
    passed_over: PassedOver,
}

/// The crops of an image that is given as the contents of its file, for fuzzing; or what is wrong with it.
#[cfg(any(fuzzing, test))]
pub fn crops_of_bytes(bytes: &[u8], cuts: &[Cut]) -> std::result::Result<Vec<Vec<u8>>, String> {
    cuts.iter().try_for_each(Cut::check).map_err(|error| error.to_string())?;
    decode::cut_bytes(bytes.to_vec(), 0, cuts, &mut fast_image_resize::Resizer::new())
}

/// The width and height of a JPEG file that is given as its contents, for fuzzing; or what is wrong with it.
#[cfg(any(fuzzing, test))]
pub fn jpeg_dimensions(bytes: &[u8]) -> std::result::Result<(u32, u32), String> {
    Ok(jpeg::Jpeg::open(bytes)?.dimensions())
}

impl ImageFolder {
    /// Lists the images of `folder`, whose subfolders are the classes.
    ///
    /// # Errors
    ///
    /// [`Error::Data`](crate::Error::Data) if the folder does not exist or has no subfolders, if one of them has no
    /// image, or if the name of one is not Unicode; [`Error::Io`](crate::Error::Io) if a folder cannot be read.
    pub fn open(folder: &Path) -> Result<ImageFolder> {
        let mut walk = Walk::new(folder)?;
        let class_names = walk.class_folders()?;
        let images = ImageFolder::list(walk, folder, class_names)?;
        match images.class_starts.windows(2).position(|starts| starts[0] == starts[1]) {
            None => Ok(images),
            Some(class) => {
                let advice = "contains no jpeg, png or webp file; remove it, or add images".to_owned();
                Err(problem(&folder.join(&images.class_names[class]), advice))
            }
        }
    }

    /// Lists the images of `folder` with given labels: the class named `class_names[label]` has label `label`.
    ///
    /// Use it for validation images, whose labels must be those of the training images. A class may have no images
    /// here.
    ///
    /// # Errors
    ///
    /// [`Error::Data`](crate::Error::Data) for a subfolder that is not one of the classes, and if there are no images;
    /// those of [`ImageFolder::open`].
    pub fn with_classes(folder: &Path, class_names: &[String]) -> Result<ImageFolder> {
        let mut walk = Walk::new(folder)?;
        if let Some(unknown) = walk.class_folders()?.iter().find(|name| !class_names.contains(name)) {
            let advice = format!("is not one of the {} classes of the training images", class_names.len());
            return Err(problem(&folder.join(unknown), advice));
        }
        let images = ImageFolder::list(walk, folder, class_names.to_vec())?;
        match images.is_empty() {
            true => Err(problem(folder, "contains no jpeg, png or webp file in the folders of the classes".to_owned())),
            false => Ok(images),
        }
    }

    /// Lists all images anywhere below `folder`, without classes, sorted by the bytes of their paths.
    ///
    /// # Errors
    ///
    /// [`Error::Data`](crate::Error::Data) if the folder does not exist or there are no images below it;
    /// [`Error::Io`](crate::Error::Io) if a folder cannot be read.
    pub fn unlabeled(folder: &Path) -> Result<ImageFolder> {
        let mut walk = Walk::new(folder)?;
        let mut images = ImageFolder::empty(folder, Vec::new());
        walk.all_images()?.iter().for_each(|path| images.push(path));
        images.class_starts.push(images.len());
        match images.is_empty() {
            true => Err(problem(folder, "contains no jpeg, png or webp file, nor do its subfolders".to_owned())),
            false => Ok(images.listed(walk)),
        }
    }

    /// Lists the images of the classes; a class without a folder has none.
    fn list(mut walk: Walk, folder: &Path, class_names: Vec<String>) -> Result<ImageFolder> {
        let mut images = ImageFolder { has_class_folders: true, ..ImageFolder::empty(folder, Vec::new()) };
        for class_name in &class_names {
            walk.images_of(class_name)?.iter().for_each(|path| images.push(path));
            images.class_starts.push(images.len());
        }
        Ok(ImageFolder { class_names, ..images.listed(walk) })
    }

    /// A folder of which no image is listed yet.
    fn empty(folder: &Path, class_names: Vec<String>) -> ImageFolder {
        ImageFolder {
            folder: folder.to_owned(),
            class_names,
            has_class_folders: false,
            class_starts: vec![0],
            names: String::new(),
            ends: Vec::new(),
            passed_over: PassedOver::new(),
        }
    }

    /// The same after the last image.
    fn listed(mut self, walk: Walk) -> ImageFolder {
        self.names.shrink_to_fit();
        self.ends.shrink_to_fit();
        ImageFolder { passed_over: walk.passed_over, ..self }
    }

    fn push(&mut self, path: &str) {
        self.names.push_str(path);
        self.ends.push(self.names.len());
    }

    /// The folder that was listed.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The number of images.
    pub fn len(&self) -> i64 {
        self.ends.len() as i64
    }

    /// Whether there are no images.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// Whether the images have classes.
    pub fn is_labeled(&self) -> bool {
        !self.class_names.is_empty()
    }

    /// The number of classes; 0 if the images have none.
    pub fn classes(&self) -> i64 {
        self.class_names.len() as i64
    }

    /// The names of the classes, which are the names of their folders; none if the images have no classes.
    pub fn class_names(&self) -> &[String] {
        &self.class_names
    }

    /// What the listing passed over, and how many of it: files by their extension, such as `.gif`, and in words what is
    /// left out for other reasons, such as links that lead back.
    pub fn passed_over(&self) -> &BTreeMap<String, u64> {
        &self.passed_over
    }

    /// The file of the image at `position`.
    ///
    /// # Errors
    ///
    /// [`Error::Value`](crate::Error::Value) unless `position` is in `0..len()`.
    pub fn path(&self, position: i64) -> Result<PathBuf> {
        check_position(position, self.len())?;
        let name = self.name(position as usize);
        Ok(match self.has_class_folders {
            true => self.folder.join(&self.class_names[self.class_at(position)]).join(name),
            false => self.folder.join(name),
        })
    }

    /// The class of the image at `position`.
    ///
    /// # Errors
    ///
    /// [`Error::Value`](crate::Error::Value) unless `position` is in `0..len()`; [`Error::Data`](crate::Error::Data) if
    /// the images have no classes.
    pub fn label(&self, position: i64) -> Result<i64> {
        check_position(position, self.len())?;
        match self.is_labeled() {
            true => Ok(self.class_at(position) as i64),
            false => Err(problem(&self.folder, "its images have no classes".to_owned())),
        }
    }

    /// The class of an image of the list.
    fn class_at(&self, position: i64) -> usize {
        // If several classes start at one position, all but the last are empty.
        self.class_starts.partition_point(|&start| start <= position) - 1
    }

    /// The path of an image relative to its class folder.
    fn name(&self, position: usize) -> &str {
        let start = position.checked_sub(1).map_or(0, |before| self.ends[before]);
        &self.names[start..self.ends[position]]
    }

    /// A subset of `count` images spread evenly over the list, so that every class keeps its share to within one image.
    ///
    /// # Errors
    ///
    /// [`Error::Value`](crate::Error::Value) unless `1 <= count <= len()`.
    pub fn take(&self, count: i64) -> Result<ImageFolder> {
        check_count("count", count, self.len())?;
        let share = |number: i64| u128::from(number as u64) * u128::from(count as u64);
        // Position p is taken if p = floor(place * len / count) for some place: this many of the first `start` images.
        let taken_before = |start: i64| share(start).div_ceil(u128::from(self.len() as u64)) as i64;
        let mut taken = ImageFolder {
            has_class_folders: self.has_class_folders,
            class_starts: self.class_starts.iter().map(|&start| taken_before(start)).collect(),
            passed_over: self.passed_over.clone(),
            ..ImageFolder::empty(&self.folder, self.class_names.clone())
        };
        for place in 0..count {
            let position = u128::from(place as u64) * u128::from(self.len() as u64) / u128::from(count as u64);
            taken.push(self.name(position as usize));
        }
        Ok(taken)
    }
}
