//! Where the files of a data set lie: which images to train on, and which labeled ones to measure with.

use std::collections::HashSet;
use std::fmt::Display;
use std::fs;
use std::path::{Path, PathBuf};

use image::ImageFormat;
use patchmix::Error;
use patchmix::data::{EncodedImages, ImageFolder};
use patchmix::files::printable;

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
    /// What may not be as it was meant, a line each.
    pub(super) notes: Vec<String>,
}

/// The folder inside Tiny-ImageNet's archive.
const TINY_IMAGENET: &str = "tiny-imagenet-200";

impl Layout {
    /// Lists the files or shards in the folder of a request, and those of its folder of validation images.
    pub(super) fn list(request: &Request<'_>) -> Result<Layout> {
        let mut layout = match request.dataset {
            DatasetName::Shards => Layout::shards(request)?,
            _ => Layout::folders(request)?,
        };
        if request.limit > 0 {
            let limited = layout.train.take(request.limit);
            layout.train = limited.map_err(|error| format!("--limit {}: {error}", request.limit))?;
        }
        Ok(layout)
    }

    fn shards(request: &Request<'_>) -> Result<Layout> {
        let named = |error: Error| format!("{error} (--data names the folder that holds train-*.tar and val-*.tar)");
        let train = Listing::shards(request.data, "train", &[]).map_err(named)?;
        if let Some(val) = request.val {
            let apart = |error: Error| format!("{error} (--val names the folder that holds val-*.tar)");
            let test = Listing::shards(val, "val", &[]).map_err(apart)?;
            return Layout::apart(train, test, |names| Listing::shards(val, "val", names).map_err(apart));
        }
        if !holds_val_shards(request.data)? && (request.to_pretrain || !train.is_labeled()) {
            return Ok(Layout { train, test: None, voters: Voters::Nobody, notes: Vec::new() });
        }
        let test = Listing::shards(request.data, "val", train.class_names()).map_err(named)?;
        match train.is_labeled() {
            true => Ok(Layout { train, test: Some(test), voters: Voters::Training, notes: Vec::new() }),
            false => Layout::among_test(train, test),
        }
    }

    fn folders(request: &Request<'_>) -> Result<Layout> {
        let data = root(request);
        let train = training_images(request.dataset, &data)?;
        let notes: Vec<String> = beside(request.dataset, &data)?.into_iter().collect();
        let mut layout = match request.val {
            Some(val) => folder_apart(request.dataset, val, train)?,
            None => folder_beside(request, &data.join("val"), train)?,
        };
        layout.notes.extend(notes);
        Ok(layout)
    }

    /// With labeled images apart from the training images. If these have all of their classes, `with_classes` lists
    /// them again with the labels of the training images, which vote.
    fn apart<E: Display>(
        train: Listing,
        test: Listing,
        with_classes: impl FnOnce(&[String]) -> std::result::Result<Listing, E>,
    ) -> Result<Layout> {
        if !train.is_labeled() || !test.is_labeled() {
            return Layout::among_test(train, test);
        }
        let unknown = {
            let known: HashSet<&String> = train.class_names().iter().collect();
            test.class_names().iter().find(|name| !known.contains(name)).map(printable)
        };
        let Some(unknown) = unknown else {
            let test = with_classes(train.class_names()).map_err(|error| error.to_string())?;
            return Ok(Layout { train, test: Some(test), voters: Voters::Training, notes: Vec::new() });
        };
        let (place, classes) = (shown(test.place()), train.class_names().len());
        let note = format!(
            "note: {place}: its class {unknown} is not one of the {classes} classes of the training images, so that \
             each of its images is classified by the others"
        );
        Ok(Layout { notes: vec![note], ..Layout::among_test(train, test)? })
    }

    /// With test images that are classified by each other. An error if that would mean nothing.
    fn among_test(train: Listing, test: Listing) -> Result<Layout> {
        let place = shown(test.place());
        let fault = match (test.is_labeled(), test.len(), test.class_names()) {
            (false, ..) => "its images have no classes to measure with".to_owned(),
            (_, 1, _) => "holds a single image, which has no others to be compared with".to_owned(),
            (_, _, [class]) => {
                format!("all images are of one class, {}, which tells them apart from nothing", printable(class))
            }
            _ => return Ok(Layout { train, test: Some(test), voters: Voters::OtherTest, notes: Vec::new() }),
        };
        Err(format!("{place}: {fault}; name other labeled images by --val").into())
    }
}

/// Whether there are shards of validation images in a folder, packed ones included.
fn holds_val_shards(folder: &Path) -> Result<bool> {
    let named = |error: std::io::Error| format!("{}: {error}", shown(folder));
    for entry in fs::read_dir(folder).map_err(named)? {
        let name = entry.map_err(named)?.file_name();
        let name = name.to_string_lossy();
        if name.starts_with("val-") && (name.ends_with(".tar") || name.ends_with(".tgz") || name.contains(".tar.")) {
            return Ok(true);
        }
    }
    Ok(false)
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
        let is_labeled = !may_lack_classes || !contents(&train)?.0.is_empty();
        let images = if is_labeled { ImageFolder::open(&train) } else { ImageFolder::unlabeled(&train) };
        return Ok(images.map_err(named)?);
    }
    // Validation images are not to be trained on for want of a folder beside them.
    if !may_lack_classes || data.join("val").is_dir() {
        return Err(named(format!("{}: has no folder train/", shown(data))).into());
    }
    Ok(ImageFolder::unlabeled(data).map_err(named)?)
}

/// A note about images that are not trained on, as a collection of photos may have a folder named train by chance.
fn beside(dataset: DatasetName, data: &Path) -> Result<Option<String>> {
    /// More folders are not named.
    const NAMED: usize = 5;
    if dataset != DatasetName::ImageFolder || !data.join("train").is_dir() {
        return Ok(None);
    }
    let (mut folders, files) = contents(data)?;
    folders.retain(|name| !["train", "val", "test"].contains(&name.as_str()));
    folders.sort_unstable();
    let images = files.iter().filter(|name| ImageFormat::from_path(name).is_ok()).count();
    let mut others: Vec<String> = folders.iter().take(NAMED).map(|name| format!("{}/", printable(name))).collect();
    others.extend((folders.len() > NAMED).then(|| format!("{} more folders", folders.len() - NAMED)));
    others.extend((images > 0).then(|| format!("{images} images in no folder")));
    let data = shown(data);
    Ok((!others.is_empty())
        .then(|| format!("note: {data}: images to train on are those in train/ alone, without {}", others.join(", "))))
}

/// The names of the folders and of the files in a folder, apart from hidden ones.
fn contents(folder: &Path) -> Result<(Vec<String>, Vec<String>)> {
    let in_folder = |error: std::io::Error| format!("{}: {error}", shown(folder));
    let (mut folders, mut files) = (Vec::new(), Vec::new());
    for entry in fs::read_dir(folder).map_err(in_folder)? {
        let entry = entry.map_err(in_folder)?;
        let kind = entry.file_type().map_err(in_folder)?;
        let is_folder = kind.is_dir() || kind.is_symlink() && entry.path().is_dir();
        let name = entry.file_name().to_string_lossy().into_owned();
        if !name.starts_with('.') {
            if is_folder { &mut folders } else { &mut files }.push(name);
        }
    }
    Ok((folders, files))
}

/// The images of `val` with the classes of the training images. Some unpack Tiny-ImageNet into class folders.
fn with_classes(dataset: DatasetName, val: &Path, class_names: &[String]) -> patchmix::Result<ImageFolder> {
    match annotations(dataset, val) {
        Some(annotations) => ImageFolder::annotated(&val.join("images"), &annotations, class_names),
        None => ImageFolder::with_classes(val, class_names),
    }
}

/// The text with the classes of Tiny-ImageNet's validation images, if it is there.
fn annotations(dataset: DatasetName, val: &Path) -> Option<PathBuf> {
    let annotations = val.join("val_annotations.txt");
    (dataset == DatasetName::TinyImagenet && annotations.exists()).then_some(annotations)
}

/// With the labeled images in `val`, beside the training images. A pre-training goes on without.
fn folder_beside(request: &Request<'_>, val: &Path, train: ImageFolder) -> Result<Layout> {
    let may_lack = request.to_pretrain && request.dataset == DatasetName::ImageFolder;
    let (test, voters) = match !train.is_labeled() || (may_lack && !val.is_dir()) {
        true => (None, Voters::Nobody),
        false => {
            let test = with_classes(request.dataset, val, train.class_names()).map_err(named)?;
            (Some(Listing::Folder(test)), Voters::Training)
        }
    };
    Ok(Layout { train: Listing::Folder(train), test, voters, notes: Vec::new() })
}

/// With the labeled images of a folder apart from the training images.
fn folder_apart(dataset: DatasetName, val: &Path, train: ImageFolder) -> Result<Layout> {
    let apart = |error: Error| format!("{error} (--val names the folder that holds CLASS/*.jpg)");
    let listed = |names: &[String]| with_classes(dataset, val, names).map(Listing::Folder).map_err(apart);
    let test = match annotations(dataset, val) {
        Some(_) => listed(train.class_names())?,
        None => Listing::Folder(ImageFolder::open(val).map_err(apart)?),
    };
    let real = |folder: &Path| folder.canonicalize().map_err(|error| format!("{}: {error}", shown(folder)));
    let (inside, outside) = (real(val)?, real(train.folder())?);
    if inside.starts_with(&outside) {
        let (val, train) = (shown(val), shown(train.folder()));
        return Err(format!("--val {val}: lies within the training images {train}; move it apart").into());
    }
    Layout::apart(Listing::Folder(train), test, listed)
}
