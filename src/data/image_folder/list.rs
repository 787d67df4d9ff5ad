//! Lists the class folders and image files of a folder.

use std::fs::{self, DirEntry};
use std::io::ErrorKind;
use std::path::Path;

use super::problem;
use crate::error::{Error, Result};

/// Extensions of image files, in lower case.
const EXTENSIONS: [&str; 4] = ["jpg", "jpeg", "png", "webp"];

/// The names of the folders in `folder`, in order; an error if there are none.
pub(super) fn class_folders(folder: &Path) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for (name, entry) in entries(folder)? {
        if is_folder(&entry)? {
            names.push(name);
        }
    }
    if names.is_empty() {
        let advice =
            "contains no folders; pass a folder with one folder per class, such as train/CLASS/*.jpg".to_owned();
        return Err(problem(folder, advice));
    }
    names.sort_unstable();
    Ok(names)
}

/// Adds the images of `folder` and its subfolders to `paths`, each prefixed with `prefix`.
///
/// Only names are looked at, which is fast. A file that only looks like an image is found out when it is read.
pub(super) fn list_images(folder: &Path, prefix: &str, paths: &mut Vec<String>) -> Result<()> {
    for (name, entry) in entries(folder)? {
        let path = format!("{prefix}{name}");
        if is_image_name(&name) {
            paths.push(path);
        } else if is_folder(&entry)? {
            list_images(&entry.path(), &format!("{path}/"), paths)?;
        }
    }
    Ok(())
}

/// The entries of `folder` whose names do not start with a dot.
fn entries(folder: &Path) -> Result<Vec<(String, DirEntry)>> {
    let listing = fs::read_dir(folder).map_err(|error| match error.kind() {
        ErrorKind::NotFound => problem(folder, "there is no such folder".to_owned()),
        ErrorKind::NotADirectory => problem(folder, "is a file; pass the folder with the class folders".to_owned()),
        _ => Error::io(folder)(error),
    })?;
    let mut found = Vec::new();
    for entry in listing {
        let entry = entry.map_err(Error::io(folder))?;
        let name = entry.file_name().into_string();
        let name = name.map_err(|_| problem(&entry.path(), "has a name that is not Unicode; rename it".to_owned()))?;
        if !name.starts_with('.') {
            found.push((name, entry));
        }
    }
    Ok(found)
}

/// Whether the entry is a folder, or a link to one.
fn is_folder(entry: &DirEntry) -> Result<bool> {
    let path = entry.path();
    let kind = entry.file_type().map_err(Error::io(&path))?;
    Ok(kind.is_dir() || kind.is_symlink() && path.is_dir())
}

fn is_image_name(name: &str) -> bool {
    let extension = name.rsplit_once('.').map_or("", |(_, extension)| extension);
    EXTENSIONS.iter().any(|known| extension.eq_ignore_ascii_case(known))
}
