//! Shards as files: which there are, and reading at any position through files that stay open.

use std::collections::{HashMap, VecDeque};
use std::fs::{self, File, Metadata};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use crate::data::folder::problem;
use crate::data::image_folder::Contents;
use crate::error::{Error, Result};
use crate::files::open_file;

/// Files that stay open, of training and of validation images each. macOS allows a process 256 by default, most systems
/// 1024.
const MAX_OPEN: usize = 100;

/// The shards `folder/PREFIX-*.tar`, such as `train-000000.tar`, sorted by name.
///
/// # Errors
///
/// [`Error::Data`] if there are none, if one is there in another form only, such as `train-000000.tar.gz`, or if the
/// folder does not exist; [`Error::Io`] if it cannot be read.
pub fn shard_paths(folder: &Path, prefix: &str) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(folder).map_err(|error| match error.kind() {
        ErrorKind::NotFound => problem(folder, "there is no such folder".to_owned()),
        ErrorKind::NotADirectory => problem(folder, "is a file; pass the folder with the shards".to_owned()),
        _ => Error::io(folder)(error),
    })?;
    let (mut paths, mut others) = (Vec::new(), Vec::new());
    for entry in entries {
        let entry = entry.map_err(Error::io(folder))?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        let rest = name.strip_prefix(prefix).and_then(|rest| rest.strip_prefix('-'));
        if rest.is_some_and(|rest| rest.ends_with(".tar")) {
            paths.push(entry.path());
        } else if let Some(plain) = rest.and_then(|_| plain_name(&name)) {
            others.push((name.into_owned(), plain));
        }
    }
    paths.sort_unstable();
    others.sort_unstable();
    // A packed shard may stay beside the unpacked one.
    let lacking = others.iter().find(|(_, plain)| !paths.contains(&folder.join(plain)));
    match (paths.is_empty(), lacking) {
        (false, None) => Ok(paths),
        (true, None) => Err(problem(folder, format!("contains no {prefix}-*.tar"))),
        (true, Some((name, _))) => {
            Err(problem(folder, format!("contains no {prefix}-*.tar, but {name}; unpack it to a .tar")))
        }
        (false, Some((name, plain))) => Err(problem(
            folder,
            format!("contains {name} without {plain}; unpack or complete it, or move it elsewhere"),
        )),
    }
}

/// The name of the shard that a file is another form of: packed, or of which a part is there.
fn plain_name(name: &str) -> Option<String> {
    let stem = name.strip_suffix(".tgz").or_else(|| name.split_once(".tar.").map(|(stem, _)| stem));
    stem.map(|stem| format!("{stem}.tar"))
}

/// What is different about a file after it was changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    length: u64,
    modified: Option<SystemTime>,
}

impl Stamp {
    fn of(file: &Metadata) -> Stamp {
        Stamp { length: file.len(), modified: file.modified().ok() }
    }
}

/// A shard's file, as it was when its index was read.
#[derive(Debug)]
pub(super) struct ShardFile {
    pub(super) path: PathBuf,
    stamp: Stamp,
}

impl ShardFile {
    /// Opens a shard whose index is to be read, and its length in bytes.
    pub(super) fn open(path: &Path) -> Result<(ShardFile, File, u64)> {
        let file = open_file(path).map_err(Error::io(path))?;
        let stamp = Stamp::of(&file.metadata().map_err(Error::io(path))?);
        Ok((ShardFile { path: path.to_owned(), stamp }, file, stamp.length))
    }

    /// An error if the file has changed since its index was read.
    pub(super) fn check_unchanged(&self, file: &File) -> Result<()> {
        if Stamp::of(&file.metadata().map_err(Error::io(&self.path))?) == self.stamp {
            return Ok(());
        }
        let advice = "changed while it was in use, and its images are elsewhere now; start again";
        Err(problem(&self.path, advice.to_owned()))
    }
}

/// All shards, and those of them that are open: the ones opened last.
#[derive(Debug)]
pub(super) struct ShardFiles {
    pub(super) shards: Vec<ShardFile>,
    open: Mutex<Open>,
    max_open: usize,
}

#[derive(Debug, Default)]
struct Open {
    files: HashMap<usize, Arc<File>>,
    /// The same in the order in which they were opened.
    order: VecDeque<usize>,
}

impl ShardFiles {
    pub(super) fn new(shards: Vec<ShardFile>) -> ShardFiles {
        ShardFiles { shards, open: Mutex::default(), max_open: MAX_OPEN }
    }

    /// Reads `length` bytes at `offset` of a shard; an error if it has changed.
    pub(super) fn read(&self, shard: usize, offset: u64, length: u64) -> Result<Contents> {
        let file = self.file(shard)?;
        // No more than the shard has: its index was checked.
        let mut bytes = vec![0; length as usize];
        let read = read_exact_at(&file, &mut bytes, offset);
        self.shards[shard].check_unchanged(&file)?;
        Ok(read.map(|()| bytes).map_err(|error| error.to_string()))
    }

    /// A shard's file, opened now unless it is open.
    fn file(&self, shard: usize) -> Result<Arc<File>> {
        let is_open = || self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(file) = is_open().files.get(&shard) {
            return Ok(Arc::clone(file));
        }
        // Without the lock, as a file system may take its time.
        let path = &self.shards[shard].path;
        let file = Arc::new(open_file(path).map_err(Error::io(path))?);
        let mut open = is_open();
        if open.files.insert(shard, Arc::clone(&file)).is_none() {
            open.order.push_back(shard);
        }
        // Images come in random order, so that the one opened first is as good to close as any.
        while open.order.len() > self.max_open {
            let first = open.order.pop_front();
            first.and_then(|first| open.files.remove(&first));
        }
        Ok(file)
    }
}

#[cfg(unix)]
fn read_exact_at(file: &File, bytes: &mut [u8], offset: u64) -> io::Result<()> {
    std::os::unix::fs::FileExt::read_exact_at(file, bytes, offset)
}

#[cfg(windows)]
fn read_exact_at(file: &File, mut bytes: &mut [u8], mut offset: u64) -> io::Result<()> {
    while !bytes.is_empty() {
        let count = std::os::windows::fs::FileExt::seek_read(file, bytes, offset)?;
        if count == 0 {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        (bytes, offset) = (&mut bytes[count..], offset + count as u64);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_files_stay_open_and_every_byte_is_found() {
        let place = tempfile::tempdir().unwrap();
        let shards = (0..7_u8).map(|number| {
            let path = place.path().join(number.to_string());
            fs::write(&path, [number, number + 100]).unwrap();
            ShardFile::open(&path).unwrap().0
        });
        let files = ShardFiles { max_open: 3, ..ShardFiles::new(shards.collect()) };
        for shard in [0, 1, 2, 3, 0, 6, 6, 5, 4, 0, 1] {
            let expected = shard as u8;
            assert_eq!(files.read(shard, 1, 1).unwrap().unwrap(), [expected + 100]);
            let open = files.open.lock().unwrap();
            assert!(open.files.len() == open.order.len() && open.files.len() <= 3);
        }
        assert!(files.read(0, 2, 1).unwrap().is_err(), "beyond its end");
    }
}
