//! Unpacks an archive that is not trusted to be harmless.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Component, Path, PathBuf};

use flate2::read::GzDecoder;

use super::{Result, storage_error};

/// What an archive must hold.
pub(super) struct Contents {
    /// The one folder that all its files lie in.
    pub(super) folder_name: &'static str,
    /// The files that must be there, and their sizes. Others may lie beside them.
    pub(super) files: &'static [(&'static str, u64)],
    /// How many bytes may come out of the archive, its headers included.
    pub(super) largest: u64,
}

impl Contents {
    /// Whether all files lie in `folder` and have their sizes.
    pub(super) fn check(&self, folder: &Path) -> Result<()> {
        for (name, expected) in self.files {
            let path = folder.join(name);
            match fs::metadata(&path) {
                Ok(metadata) if metadata.is_file() && metadata.len() == *expected => {}
                Ok(metadata) => {
                    let found = metadata.len();
                    return Err(format!("{} has {found} bytes instead of {expected}", path.display()).into());
                }
                Err(error) => return Err(storage_error(&path, &error)),
            }
        }
        Ok(())
    }
}

/// Unpacks `archive` into a new sub-folder of `folder`, which appears only when all of it is there.
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

/// Writes the files of the archive into `folder`; refuses the archive at the first entry that is anything else.
fn unpack_entries(archive: &Path, contents: &Contents, folder: &Path) -> Result<()> {
    let describe = |error: io::Error| format!("cannot unpack {}: {error}", archive.display());
    let file = File::open(archive).map_err(|error| storage_error(archive, &error))?;
    // The limit is on the stream and not on the files: a long name, too, is held in memory.
    let stream = Bounded { inner: GzDecoder::new(io::BufReader::new(file)), left: contents.largest };
    for entry in tar::Archive::new(stream).entries().map_err(describe)? {
        let mut entry = entry.map_err(describe)?;
        let path = entry.path().map_err(describe)?.into_owned();
        let kind = entry.header().entry_type();
        let name = plain_name(&path, contents.folder_name);
        match name {
            Some(Some(name)) if kind.is_file() => write_file(&mut entry, &folder.join(name))?,
            Some(None) if kind.is_dir() => {}
            _ => {
                let (archive, entry) = (archive.display(), path.display());
                return Err(format!("{archive} is refused: its entry {entry} is not a plain file of the data").into());
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

/// Copies one entry into a file that must not exist yet.
fn write_file(entry: &mut impl Read, path: &Path) -> Result<()> {
    let mut file = File::create_new(path).map_err(|error| storage_error(path, &error))?;
    io::copy(entry, &mut file).map_err(|error| storage_error(path, &error))?;
    Ok(())
}

/// A stream that fails once more than `left` bytes have been read from it.
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
            .ok_or_else(|| io::Error::other("there is more in the archive than belongs to the data"))?;
        Ok(count)
    }
}
