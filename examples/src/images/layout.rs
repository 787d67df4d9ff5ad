//! Where the files of a data set lie: which images to train on, and which labeled ones to measure with.

use std::fmt::Display;
use std::fs;
use std::path::{Path, PathBuf};

use patchmix::Error;
use patchmix::data::{EncodedImages, ImageFolder};

use super::listing::Listing;
use super::{Request, Voters};
use crate::Result;
use crate::settings::DatasetName;
use crate::terminal::shown;

/// Lists of image files.
pub(super) struct Layout {
    pub(super) train: Listing,
    /// Labeled images to measure on; none if there is nobody to vote.
    pub(super) test: Option<Listing>,
    pub(super) voters: Voters,
}

/// The folder inside Tiny-ImageNet's archive.
const TINY_IMAGENET: &str = "tiny-imagenet-200";

impl Layout {
    /// Lists the files or shards in the folder of a request, and those of its folder of validation images.
    pub(super) fn list(request: &Request<'_>) -> Result<Layout> {
        let Layout { train, test, voters } = match request.dataset {
            DatasetName::Shards => Layout::shards(request)?,
            _ => Layout::folders(request)?,
        };
        let train = match request.limit {
            0 => train,
            limit => train.take(limit).map_err(|error| format!("--limit {limit}: {error}"))?,
        };
        Ok(Layout { train, test, voters })
    }

    fn shards(request: &Request<'_>) -> Result<Layout> {
        let named = |error: Error| format!("{error} (--data names the folder that holds train-*.tar and val-*.tar)");
        let train = Listing::shards(request.data, "train", &[]).map_err(named)?;
        let folder = request.val.unwrap_or(request.data);
        if request.val.is_none() && !holds_val_shards(folder)? && (request.to_pretrain || !train.is_labeled()) {
            return Ok(Layout { train, test: None, voters: Voters::Nobody });
        }
        let test = Listing::shards(folder, "val", train.class_names()).map_err(|error| match request.val {
            Some(_) => format!("{error} (--val names the folder that holds val-*.tar)"),
            None => named(error),
        })?;
        if !test.is_labeled() {
            return Err(format!("{}: its images have no classes to measure with", shown(test.place())).into());
        }
        let voters = if train.is_labeled() { Voters::Training } else { Voters::OtherTest };
        Ok(Layout { train, test: Some(test), voters })
    }

    fn folders(request: &Request<'_>) -> Result<Layout> {
        let data = root(request);
        let train = training_images(request.dataset, &data)?;
        let (test, voters) = match request.val {
            Some(val) => labeled_apart(val, &train)?,
            None => labeled_beside(request, &data.join("val"), &train)?,
        };
        Ok(Layout { train: Listing::Folder(train), test: test.map(Listing::Folder), voters })
    }
}

/// Whether there are shards of validation images in a folder, packed ones included.
fn holds_val_shards(folder: &Path) -> Result<bool> {
    let named = |error: std::io::Error| format!("{}: {error}", shown(folder));
    let names = fs::read_dir(folder).map_err(named)?.map(|entry| Ok(entry.map_err(named)?.file_name()));
    let names = names.collect::<Result<Vec<_>>>()?;
    Ok(names.iter().any(|name| name.as_encoded_bytes().starts_with(b"val-")))
}

/// An error, with the option that names the folder.
fn named(error: impl Display) -> String {
    format!("{error} (--data names the folder that holds the images, or train/ and val/)")
}

/// The folder of the data set, which may lie in the folder that it was unpacked in.
fn root(request: &Request<'_>) -> PathBuf {
    let inner = request.data.join(TINY_IMAGENET);
    let is_inner = request.dataset == DatasetName::TinyImagenet && !request.data.join("train").is_dir();
    if is_inner && inner.is_dir() { inner } else { request.data.to_owned() }
}

/// Those in `train/CLASS`; or all below `train` or below `data`, without classes, unless the data set has some.
fn training_images(dataset: DatasetName, data: &Path) -> Result<ImageFolder> {
    let (train, may_lack_classes) = (data.join("train"), dataset == DatasetName::ImageFolder);
    if train.is_dir() {
        let is_labeled = !may_lack_classes || has_folders(&train)?;
        let images = if is_labeled { ImageFolder::open(&train) } else { ImageFolder::unlabeled(&train) };
        return Ok(images.map_err(named)?);
    }
    // Validation images are not to be trained on for want of a folder beside them.
    if !may_lack_classes || data.join("val").is_dir() {
        return Err(named(format!("{}: has no folder train/", shown(data))).into());
    }
    Ok(ImageFolder::unlabeled(data).map_err(named)?)
}

/// Whether there are folders in a folder, apart from hidden ones.
fn has_folders(folder: &Path) -> Result<bool> {
    let in_folder = |error: std::io::Error| format!("{}: {error}", shown(folder));
    for entry in fs::read_dir(folder).map_err(in_folder)? {
        let entry = entry.map_err(in_folder)?;
        let kind = entry.file_type().map_err(in_folder)?;
        let is_folder = kind.is_dir() || kind.is_symlink() && entry.path().is_dir();
        if is_folder && !entry.file_name().as_encoded_bytes().starts_with(b".") {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The labeled images in `val`, with the classes of the training images beside it. A pre-training goes on without.
fn labeled_beside(request: &Request<'_>, val: &Path, train: &ImageFolder) -> Result<(Option<ImageFolder>, Voters)> {
    let may_lack = request.to_pretrain && request.dataset == DatasetName::ImageFolder;
    if !train.is_labeled() || (may_lack && !val.is_dir()) {
        return Ok((None, Voters::Nobody));
    }
    let annotations = val.join("val_annotations.txt");
    // Some unpack Tiny-ImageNet into class folders.
    let test = match request.dataset == DatasetName::TinyImagenet && annotations.exists() {
        true => ImageFolder::annotated(&val.join("images"), &annotations, train.class_names()),
        false => ImageFolder::with_classes(val, train.class_names()),
    };
    Ok((Some(test.map_err(named)?), Voters::Training))
}

/// The labeled images of a folder apart from the training images, and who votes on them.
fn labeled_apart(val: &Path, train: &ImageFolder) -> Result<(Option<ImageFolder>, Voters)> {
    let apart = |error: Error| format!("{error} (--val names the folder that holds CLASS/*.jpg)");
    let test = ImageFolder::open(val).map_err(apart)?;
    let real = |folder: &Path| folder.canonicalize().map_err(|error| format!("{}: {error}", shown(folder)));
    let (inside, outside) = (real(val)?, real(train.folder())?);
    if inside.starts_with(&outside) {
        let (val, train) = (shown(val), shown(train.folder()));
        return Err(format!("--val {val}: lies within the training images {train}; move it apart").into());
    }
    if test.len() < 2 {
        return Err(
            format!("--val {}: holds a single image, which has no others to be compared with", shown(val)).into()
        );
    }
    let are_known = train.is_labeled() && test.class_names().iter().all(|name| train.class_names().contains(name));
    Ok(match are_known {
        true => (Some(ImageFolder::with_classes(val, train.class_names()).map_err(apart)?), Voters::Training),
        false => (Some(test), Voters::OtherTest),
    })
}
