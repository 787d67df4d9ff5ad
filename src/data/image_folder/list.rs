//! Lists the class folders and image files of a folder.

use std::collections::{BTreeMap, HashSet};
use std::fs::{self, DirEntry};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use super::problem;
use crate::error::{Error, Result};

/// Extensions of image files, in lower case. The content decides which format a file is read as.
const EXTENSIONS: [&str; 6] = ["jpg", "jpeg", "jpe", "jfif", "png", "webp"];

const LEADS_BACK: &str = "links to a folder that is listed already";

/// What was passed over, and how often.
pub(in crate::data) type PassedOver = BTreeMap<String, u64>;

/// A walk over the class folders of one folder.
pub(super) struct Walk {
    folder: PathBuf,
    /// The folder and everything above: a link to one of them leads back.
    above: HashSet<Identity>,
    /// The folders seen in the current class.
    seen: HashSet<Identity>,
    pub(super) passed_over: PassedOver,
}

/// What tells a folder from all others, by whatever path it is reached.
#[cfg(unix)]
type Identity = (u64, u64);
#[cfg(not(unix))]
type Identity = PathBuf;

#[cfg(unix)]
fn identity(folder: &Path) -> std::io::Result<Identity> {
    use std::os::unix::fs::MetadataExt;
    fs::metadata(folder).map(|folder| (folder.dev(), folder.ino()))
}
#[cfg(not(unix))]
fn identity(folder: &Path) -> std::io::Result<Identity> {
    fs::canonicalize(folder)
}

impl Walk {
    pub(super) fn new(folder: &Path) -> Result<Walk> {
        let real = fs::canonicalize(folder).map_err(in_words(folder))?;
        let above = real.ancestors().map(identity).collect::<std::io::Result<_>>().map_err(Error::io(folder))?;
        Ok(Walk { folder: folder.to_owned(), above, seen: HashSet::new(), passed_over: PassedOver::new() })
    }

    /// The names of the class folders, in order; an error if there are none.
    pub(super) fn class_folders(&mut self) -> Result<Vec<String>> {
        let mut names = Vec::new();
        for (name, entry) in self.entries(&self.folder.clone(), true)? {
            if is_folder(&entry)? {
                match self.above.contains(&identity(&entry.path()).map_err(Error::io(&entry.path()))?) {
                    true => self.pass_over(LEADS_BACK),
                    false => names.push(name),
                }
            } else if is_image_name(&name) {
                self.pass_over("images in no class folder");
            }
        }
        if names.is_empty() {
            let advice = "contains no folders; pass a folder with one folder per class, such as train/CLASS/*.jpg";
            return Err(problem(&self.folder, advice.to_owned()));
        }
        Ok(names)
    }

    /// The images of a class and its subfolders, in order, as paths relative to the class folder.
    ///
    /// Only names are looked at, which is fast. A file that only looks like an image is found out when it is read.
    pub(super) fn images_of(&mut self, class_name: &str) -> Result<Vec<String>> {
        let mut paths = Vec::new();
        let folder = self.folder.join(class_name);
        if folder.is_dir() {
            self.seen.clear();
            self.list_images(&folder, "", &mut paths)?;
            paths.sort_unstable();
        }
        Ok(paths)
    }

    fn list_images(&mut self, folder: &Path, prefix: &str, paths: &mut Vec<String>) -> Result<()> {
        let identity = identity(folder).map_err(Error::io(folder))?;
        // Each folder once a class: links can lead back, and in a circle.
        if self.above.contains(&identity) || !self.seen.insert(identity) {
            self.pass_over(LEADS_BACK);
            return Ok(());
        }
        for (name, entry) in self.entries(folder, false)? {
            let path = format!("{prefix}{name}");
            if is_folder(&entry)? {
                self.list_images(&entry.path(), &format!("{path}/"), paths)?;
            } else if is_image_name(&name) {
                paths.push(path);
            } else {
                self.pass_over(&ending(&name));
            }
        }
        Ok(())
    }

    /// The entries of `folder` whose names do not start with a dot, in order.
    fn entries(&mut self, folder: &Path, are_classes: bool) -> Result<Vec<(String, DirEntry)>> {
        let mut found = Vec::new();
        for entry in fs::read_dir(folder).map_err(in_words(folder))? {
            let entry = entry.map_err(Error::io(folder))?;
            match entry.file_name().into_string() {
                Ok(name) if name.starts_with('.') => {}
                Ok(name) => found.push((name, entry)),
                Err(_) if are_classes && is_folder(&entry)? => {
                    return Err(problem(&entry.path(), "has a name that is not Unicode; rename it".to_owned()));
                }
                Err(_) => self.pass_over("names that are not Unicode"),
            }
        }
        // Which of two links to a folder is followed must not depend on the file system.
        found.sort_unstable_by(|one, other| one.0.cmp(&other.0));
        Ok(found)
    }

    fn pass_over(&mut self, what: &str) {
        count(&mut self.passed_over, what);
    }
}

/// Counts what was passed over.
pub(in crate::data) fn count(passed_over: &mut PassedOver, what: &str) {
    add(passed_over, what, 1);
}

/// Counts what was passed over `times` times.
pub(in crate::data) fn add(passed_over: &mut PassedOver, what: &str, times: u64) {
    /// There may be any number of endings.
    const MAX_KINDS: usize = 32;
    let what = match passed_over.len() < MAX_KINDS || passed_over.contains_key(what) {
        true => what,
        false => "others",
    };
    *passed_over.entry(what.to_owned()).or_default() += times;
}

/// An error in reading `folder`.
fn in_words(folder: &Path) -> impl FnOnce(std::io::Error) -> Error + '_ {
    |error| match error.kind() {
        ErrorKind::NotFound => problem(folder, "there is no such folder".to_owned()),
        ErrorKind::NotADirectory => problem(folder, "is a file; pass the folder with the class folders".to_owned()),
        _ => Error::io(folder)(error),
    }
}

/// Whether the entry is a folder, or a link to one.
fn is_folder(entry: &DirEntry) -> Result<bool> {
    let path = entry.path();
    let kind = entry.file_type().map_err(Error::io(&path))?;
    Ok(kind.is_dir() || kind.is_symlink() && path.is_dir())
}

fn extension(name: &str) -> &str {
    name.rsplit_once('.').map_or("", |(_, extension)| extension)
}

pub(in crate::data) fn is_image_name(name: &str) -> bool {
    EXTENSIONS.iter().any(|known| extension(name).eq_ignore_ascii_case(known))
}

/// The ending of a name, if it is like one.
pub(in crate::data) fn ending(name: &str) -> String {
    let extension = extension(name);
    match (1..=8).contains(&extension.len()) && extension.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
        true => format!(".{}", extension.to_ascii_lowercase()),
        false => "others".to_owned(),
    }
}
