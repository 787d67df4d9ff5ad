//! Finds and opens the files of a data set; errors say what is there instead.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// An error that names a file or folder and says what to do.
pub(super) fn problem(path: &Path, problem: String) -> Error {
    Error::Data { path: path.to_owned(), problem }
}

/// The beginning of a name or of another text from a file, which may have any length, for messages.
#[cfg(feature = "image-folder")]
pub(super) fn shortened(text: &str) -> String {
    const MAX_CHARACTERS: usize = 100;
    match text.char_indices().nth(MAX_CHARACTERS) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text.to_owned(),
    }
}

/// The names of a data set on disk.
pub(super) struct Names<'a> {
    /// The name of the data set, for messages.
    pub(super) title: &'a str,
    /// The folder inside the archive.
    pub(super) folder: &'a str,
    /// The archive of the binary version.
    pub(super) archive: &'a str,
    /// Any of these files identifies the folder.
    pub(super) files: &'a [&'a str],
    /// Files and folders of the version for another language, and which that is.
    pub(super) others: &'a [&'a str],
    pub(super) language: &'a str,
}

/// The folder with the files: `folder` itself, or the archive's folder in it.
pub(super) fn locate(folder: &Path, names: &Names) -> Result<PathBuf> {
    let Names { title, archive, .. } = names;
    let entry = match fs::metadata(folder) {
        Ok(entry) => entry,
        Err(error) if error.kind() == ErrorKind::NotFound => {
            let advice = format!("there is no such folder; unpack {archive} and pass the folder with its files");
            return Err(problem(folder, advice));
        }
        Err(error) => return Err(Error::io(folder)(error)),
    };
    if !entry.is_dir() {
        let advice = format!("is a file; pass the folder with the files of {title} (tar -xzf unpacks {archive})");
        return Err(problem(folder, advice));
    }
    let places = [folder.to_owned(), folder.join(names.folder)];
    for place in &places {
        if names.files.iter().any(|file| place.join(file).exists()) {
            return Ok(place.clone());
        }
    }
    Err(problem(folder, why_not_found(&places, names)))
}

/// The likely reason why no file of the data set is in any of `places`.
fn why_not_found(places: &[PathBuf], names: &Names) -> String {
    let Names { title, archive, files, others, language, .. } = names;
    let holds = |name: &str| places.iter().any(|place| place.join(name).exists());
    if let Some(file) = files.iter().find(|file| holds(&format!("{file}.xz"))) {
        return format!("contains compressed files such as {file}.xz; unpack them with xz -dk");
    }
    if let Some(file) = files.iter().find(|file| holds(&format!("{file}.gz"))) {
        return format!("contains compressed files such as {file}.gz; unpack them with gunzip -k");
    }
    if holds(archive) {
        return format!("contains the archive {archive} but not its files; unpack it there with tar -xzf {archive}");
    }
    if let Some(file) = others.iter().find(|file| holds(file)) {
        return format!("contains {file}, which is {title} for {language}; get the binary version, {archive}");
    }
    format!("contains none of the files of {title} ({}); unpack {archive} and pass its folder", files.join(", "))
}

/// Opens a data file after checking that it is `expected` bytes long.
pub(super) fn open(path: &Path, expected: u64, title: &str) -> Result<File> {
    let actual = length(path, title)?;
    let fault = match actual {
        _ if actual < expected => format!("is truncated: {actual} bytes of {expected}"),
        _ if actual > expected => format!("is too long: {actual} bytes where {title} has {expected}"),
        _ => return open_file(path, title),
    };
    Err(problem(path, format!("{fault}; unpack or download it again")))
}

/// The length of a data file in bytes, which is not 0.
pub(super) fn length(path: &Path, title: &str) -> Result<u64> {
    let entry = match fs::metadata(path) {
        Ok(entry) => entry,
        Err(error) if error.kind() == ErrorKind::NotFound => return Err(problem(path, why_missing(path, title))),
        Err(error) => return Err(Error::io(path)(error)),
    };
    // Opening a named pipe could block forever.
    if !entry.is_file() {
        return Err(problem(path, format!("is not a file; unpack the binary version of {title} again")));
    }
    match entry.len() {
        0 => Err(problem(path, "is empty; unpack or download it again".to_owned())),
        length => Ok(length),
    }
}

/// Opens a data file of any length but 0.
pub(super) fn open_file(path: &Path, title: &str) -> Result<File> {
    length(path, title)?;
    File::open(path).map_err(Error::io(path))
}

fn why_missing(path: &Path, title: &str) -> String {
    for (suffix, command) in [(".xz", "xz -dk"), (".gz", "gunzip -k")] {
        let mut compressed = OsString::from(path);
        compressed.push(suffix);
        if Path::new(&compressed).exists() {
            return format!("exists in compressed form only ({suffix}); unpack it with {command}");
        }
    }
    format!("is missing; unpack the binary version of {title} again")
}

/// Fills `bytes` from the file, which may have shrunk since it was opened.
pub(super) fn fill(file: &mut impl Read, bytes: &mut [u8], path: &Path) -> Result<()> {
    file.read_exact(bytes).map_err(|error| match error.kind() {
        ErrorKind::UnexpectedEof => {
            problem(path, "ended early: it changed while it was being read; try again".to_owned())
        }
        _ => Error::io(path)(error),
    })
}

/// The class names in a small text file, a line each; those `built_in` if it does not exist.
pub(super) fn class_names(path: &Path, built_in: &[&str]) -> Result<Vec<String>> {
    match lines(path)? {
        Some(names) if names.len() == built_in.len() => Ok(names),
        Some(names) => {
            let (found, classes) = (names.len(), built_in.len());
            let advice = format!(
                "contains {found} class names instead of {classes}; unpack it again, or remove it to use the built-in \
                 names"
            );
            Err(problem(path, advice))
        }
        None => Ok(built_in.iter().map(|name| (*name).to_owned()).collect()),
    }
}

/// The non-blank lines of a small text file; `None` if it does not exist.
fn lines(path: &Path) -> Result<Option<Vec<String>>> {
    /// More than any list of class names.
    const LIMIT: u64 = 64 * 1024;
    if !path.exists() {
        return Ok(None);
    }
    if !path.is_file() {
        return Err(problem(path, "is not a file; remove it to use the built-in names".to_owned()));
    }
    let mut bytes = Vec::new();
    File::open(path).and_then(|file| file.take(LIMIT).read_to_end(&mut bytes)).map_err(Error::io(path))?;
    let text = String::from_utf8(bytes).map_err(|_| {
        problem(path, "is not text; unpack it again, or remove it to use the built-in names".to_owned())
    })?;
    Ok(Some(text.lines().map(str::trim).filter(|line| !line.is_empty()).map(str::to_owned).collect()))
}
