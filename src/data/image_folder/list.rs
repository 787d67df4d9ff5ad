//! Lists the class folders and image files of a folder, or all image files below it.

use std::collections::{BTreeMap, HashSet};
use std::fs::{self, DirEntry};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use super::problem;
use crate::error::{Error, Result};

/// Extensions of image files, in lower case. The content decides which format a file is read as.
const EXTENSIONS: [&str; 6] = ["jpg", "jpeg", "jpe", "jfif", "png", "webp"];

const LEADS_BACK: &str = "links to a folder that is listed already";
const NOT_UNICODE: &str = "names that are not Unicode";
const FOLDER_NOT_UNICODE: &str = "folders whose names are not Unicode, with all that is in them";

/// What was passed over, and how often.
pub(in crate::data) type PassedOver = BTreeMap<String, u64>;

/// A walk over the class folders of one folder, or over everything below it.
pub(super) struct Walk {
    folder: PathBuf,
    /// The folder and everything above: a link to one of them leads back.
    above: HashSet<Identity>,
    /// The folders seen so far, in the current class if there are classes.
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
        let root = self.folder.clone();
        let (mut names, mut loose) = (Vec::new(), 0);
        for entry in self.entries(&root)? {
            match entry? {
                Entry::Folder(name) => names.push(name),
                Entry::File(name) => loose += u64::from(is_image_name(&name)),
                Entry::Nameless(path, true) => {
                    return Err(problem(&path, "has a name that is not Unicode; rename it".to_owned()));
                }
                Entry::Nameless(_, false) => self.pass_over(NOT_UNICODE, 1),
            }
        }
        self.pass_over("images in no class folder", loose);
        let mut classes = Vec::new();
        for name in sorted(names) {
            let path = root.join(&name);
            match self.above.contains(&identity(&path).map_err(Error::io(&path))?) {
                true => self.pass_over(LEADS_BACK, 1),
                false => classes.push(name),
            }
        }
        if classes.is_empty() {
            let advice = "contains no folders; pass a folder with one folder per class, such as train/CLASS/*.jpg";
            return Err(problem(&root, advice.to_owned()));
        }
        Ok(classes)
    }

    /// The images of a class and its subfolders, in order, as paths relative to the class folder.
    ///
    /// Only names are looked at, which is fast. A file that only looks like an image is found out when it is read.
    pub(super) fn images_of(&mut self, class_name: &str) -> Result<Vec<Box<str>>> {
        let folder = self.folder.join(class_name);
        self.seen.clear();
        if folder.is_dir() { self.images_in(&folder) } else { Ok(Vec::new()) }
    }

    /// The images of the folder and its subfolders, in order, as paths relative to the folder.
    pub(super) fn all_images(&mut self) -> Result<Vec<Box<str>>> {
        let folder = self.folder.clone();
        // It is listed itself here, once.
        self.above.remove(&identity(&folder).map_err(Error::io(&folder))?);
        self.images_in(&folder)
    }

    fn images_in(&mut self, folder: &Path) -> Result<Vec<Box<str>>> {
        let mut paths = Vec::new();
        self.list_images(folder, "", &mut paths)?;
        paths.sort_unstable();
        Ok(paths)
    }

    fn list_images(&mut self, folder: &Path, prefix: &str, paths: &mut Vec<Box<str>>) -> Result<()> {
        let identity = identity(folder).map_err(Error::io(folder))?;
        // Each folder once: links can lead back, and in a circle.
        if self.above.contains(&identity) || !self.seen.insert(identity) {
            self.pass_over(LEADS_BACK, 1);
            return Ok(());
        }
        let mut folders = Vec::new();
        // Of a folder of millions of files, memory holds the paths of its images only.
        for entry in self.entries(folder)? {
            match entry? {
                Entry::Folder(name) => folders.push(name),
                Entry::File(name) if is_image_name(&name) => paths.push(format!("{prefix}{name}").into()),
                Entry::File(name) => self.pass_over(&ending(&name), 1),
                Entry::Nameless(_, true) => self.pass_over(FOLDER_NOT_UNICODE, 1),
                Entry::Nameless(_, false) => self.pass_over(NOT_UNICODE, 1),
            }
        }
        // Which of two links to a folder is followed must not depend on the file system.
        sorted(folders)
            .iter()
            .try_for_each(|name| self.list_images(&folder.join(name), &format!("{prefix}{name}/"), paths))
    }

    /// The entries of `folder` whose names do not start with a dot, in the order of the file system.
    fn entries(&self, folder: &Path) -> Result<impl Iterator<Item = Result<Entry>> + use<>> {
        let path = folder.to_owned();
        let all = fs::read_dir(folder).map_err(in_words(folder))?;
        Ok(all.filter_map(move |entry| match entry {
            Ok(entry) if entry.file_name().as_encoded_bytes().starts_with(b".") => None,
            Ok(entry) => Some(Entry::of(&entry)),
            Err(error) => Some(Err(Error::io(&path)(error))),
        }))
    }

    fn pass_over(&mut self, what: &str, times: u64) {
        add(&mut self.passed_over, what, times);
    }
}

/// Counts what was passed over `times` times.
pub(in crate::data) fn add(passed_over: &mut PassedOver, what: &str, times: u64) {
    /// There may be any number of endings.
    const MAX_KINDS: usize = 32;
    if times == 0 {
        return;
    }
    let what = match passed_over.len() < MAX_KINDS || passed_over.contains_key(what) {
        true => what,
        false => "others",
    };
    *passed_over.entry(what.to_owned()).or_default() += times;
}

/// An entry of a folder.
enum Entry {
    /// A folder, or a link to one, by its name.
    Folder(String),
    File(String),
    /// One whose name is not Unicode, and whether it is a folder.
    Nameless(PathBuf, bool),
}

impl Entry {
    fn of(entry: &DirEntry) -> Result<Entry> {
        let is_folder = is_folder(entry)?;
        Ok(match entry.file_name().into_string() {
            Ok(name) if is_folder => Entry::Folder(name),
            Ok(name) => Entry::File(name),
            Err(_) => Entry::Nameless(entry.path(), is_folder),
        })
    }
}

fn sorted(mut names: Vec<String>) -> Vec<String> {
    names.sort_unstable();
    names
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
