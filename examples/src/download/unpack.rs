//! Unpacks an untrusted archive.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Component, Path, PathBuf};

use flate2::read::GzDecoder;
use patchmix::files::printable;

use super::storage_error;
use crate::Result;
use crate::terminal::shown;

/// Entries that an archive may have; the official ones have 9 and 6.
const MAX_ENTRIES: usize = 20;

/// Expected contents of an archive.
pub(super) struct Contents {
    /// The one folder that holds all files.
    pub(super) folder_name: &'static str,
    /// Required files and their sizes. There may be others.
    pub(super) files: &'static [(&'static str, u64)],
    /// Largest size of the unpacked archive, headers included.
    pub(super) max_bytes: u64,
}

impl Contents {
    /// An error unless `folder` has all files in their sizes.
    pub(super) fn check(&self, folder: &Path) -> Result<()> {
        for (name, expected) in self.files {
            let path = folder.join(name);
            match fs::metadata(&path) {
                Ok(metadata) if metadata.is_file() && metadata.len() == *expected => {}
                Ok(metadata) => {
                    let found = metadata.len();
                    return Err(format!("{} has {found} bytes instead of {expected}", shown(&path)).into());
                }
                Err(error) => return Err(storage_error(&path, &error)),
            }
        }
        Ok(())
    }
}

/// Unpacks `archive` into a new subfolder of `folder`, which appears only when it is complete.
pub(super) fn unpack(archive: &Path, contents: &Contents, folder: &Path) -> Result<()> {
    let scratch = tempfile::Builder::new()
        .prefix(".unpacking-")
        .tempdir_in(folder)
        .map_err(|error| storage_error(folder, &error))?;
    let unpacked = scratch.path().join(contents.folder_name);
    fs::create_dir(&unpacked).map_err(|error| storage_error(&unpacked, &error))?;
    unpack_entries(archive, contents, &unpacked)?;
    contents.check(&unpacked)?;
    let target = folder.join(contents.folder_name);
    fs::rename(&unpacked, &target).map_err(|error| storage_error(&target, &error))
}

/// Writes the files of the archive into `folder`; rejects the archive at the first entry that is not a plain file.
fn unpack_entries(archive: &Path, contents: &Contents, folder: &Path) -> Result<()> {
    let name = shown(archive);
    let describe = |error: io::Error| format!("cannot unpack {name}: {}", printable(error));
    let file = File::open(archive).map_err(|error| storage_error(archive, &error))?;
    // The limit applies to the stream rather than to the files, since tar reads long names into memory as well.
    let stream = Bounded { inner: GzDecoder::new(io::BufReader::new(file)), left: contents.max_bytes };
    for (index, entry) in tar::Archive::new(stream).entries().map_err(describe)?.enumerate() {
        let mut entry = entry.map_err(describe)?;
        if index >= MAX_ENTRIES {
            return Err(format!("{name} is rejected: it holds more than {MAX_ENTRIES} files").into());
        }
        let path = entry.path().map_err(describe)?.into_owned();
        let kind = entry.header().entry_type();
        match plain_name(&path, contents.folder_name) {
            Some(Some(file)) if kind.is_file() => write_file(&mut entry, &folder.join(file))?,
            Some(None) if kind.is_dir() => {}
            _ => {
                let entry = shown(&path);
                return Err(format!("{name} is rejected: its entry {entry} is not a plain file of the data").into());
            }
        }
    }
    Ok(())
}

/// The file name in `folder_name/file`, `Some(None)` for the folder itself, and `None` for every other path.
fn plain_name(path: &Path, folder_name: &str) -> Option<Option<PathBuf>> {
    let mut parts = path.components().filter(|part| *part != Component::CurDir);
    match (parts.next()?, parts.next(), parts.next()) {
        (Component::Normal(folder), None, None) if folder == folder_name => Some(None),
        (Component::Normal(folder), Some(Component::Normal(file)), None) if folder == folder_name => {
            Some(Some(file.into()))
        }
        _ => None,
    }
}

/// Copies one entry into a new file.
fn write_file(entry: &mut impl Read, path: &Path) -> Result<()> {
    let mut file = File::create_new(path).map_err(|error| storage_error(path, &error))?;
    io::copy(entry, &mut file).map_err(|error| storage_error(path, &error))?;
    Ok(())
}

/// A stream that fails after `left` bytes.
struct Bounded<R> {
    inner: R,
    left: u64,
}

impl<R: Read> Read for Bounded<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.left = self
            .left
            .checked_sub(count as u64)
            .ok_or_else(|| io::Error::other("the archive holds more than the data set"))?;
        Ok(count)
    }
}
