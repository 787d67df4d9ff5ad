//! Files and names that come from outside: atomic writes, bounded reads, and names that cannot steer a terminal.

use std::fmt::Display;
use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, ErrorKind, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::process;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::error::{Error, Result};

/// Writes `bytes` to `path` atomically: after a crash, the file has either its old or its new contents.
///
/// A [`PartialFile`] holds them until they are written.
///
/// # Errors
///
/// [`Error::Io`] if the file cannot be written or `path` is something other than a file; its old contents are intact
/// then.
pub fn write_atomic(path: &Path, bytes: &[u8]) -> Result<()> {
    let mut file = PartialFile::create(path)?;
    file.write(bytes)?;
    file.finish()
}

/// A file that is written piece by piece and appears under its name when it is complete.
///
/// Until then it lies beside it as `NAME.PROCESS-NUMBER.partial`, which is removed when it is dropped; a process that
/// is killed leaves it behind. A link to a file is written through, one that leads nowhere is replaced, and an old file
/// keeps its permissions.
#[derive(Debug)]
pub struct PartialFile {
    /// The name as it was given, for errors.
    path: PathBuf,
    real: PathBuf,
    partial: PathBuf,
    file: File,
    is_finished: bool,
}

impl PartialFile {
    /// Creates an empty file that will be at `path`.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] if it cannot be created or `path` is something other than a file.
    pub fn create(path: &Path) -> Result<PartialFile> {
        let (real, old) = match fs::canonicalize(path) {
            Ok(real) => (real, Some(fs::metadata(path).map_err(Error::io(path))?)),
            Err(_) => (path.to_owned(), None), // there is no such file yet
        };
        if let Some(old) = &old {
            check_is_file(old).map_err(Error::io(path))?;
        }
        let (file, partial) = create_partial(&real).map_err(Error::io(path))?;
        let created = PartialFile { path: path.to_owned(), real, partial, file, is_finished: false };
        // First, as the new contents may be as secret as the old ones.
        old.map_or(Ok(()), |old| created.file.set_permissions(old.permissions())).map_err(Error::io(path))?;
        Ok(created)
    }

    /// Appends `bytes`.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] if they cannot be written, for example to a full disk.
    pub fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.file.write_all(bytes).map_err(Error::io(&self.path))
    }

    /// Writes `bytes` over the beginning of the file, such as a header whose numbers are known at the end only.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] if they cannot be written.
    pub fn write_start(&mut self, bytes: &[u8]) -> Result<()> {
        let written = self.file.rewind().and_then(|()| self.file.write_all(bytes));
        written.and_then(|()| self.file.seek(SeekFrom::End(0))).map_err(Error::io(&self.path))?;
        Ok(())
    }

    /// Syncs the file and gives it its name, in place of an old file.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] if that fails; an old file is intact then.
    pub fn finish(mut self) -> Result<()> {
        let synced = self.file.sync_all();
        synced.and_then(|()| fs::rename(&self.partial, &self.real)).map_err(Error::io(&self.path))?;
        self.is_finished = true;
        // Syncing the folder makes the rename durable. Some file systems cannot sync a folder; the file is complete
        // anyway.
        let folder = self.real.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let _ = File::open(folder).and_then(|folder| folder.sync_all());
        Ok(())
    }
}

impl Drop for PartialFile {
    fn drop(&mut self) {
        if !self.is_finished {
            // A failure to remove it would add nothing to the error that led here.
            let _ = fs::remove_file(&self.partial);
        }
    }
}

/// Creates a new file beside `path`. It never opens an existing one, which may be another process's, a link to
/// somewhere else or a pipe.
fn create_partial(path: &Path) -> io::Result<(File, PathBuf)> {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    loop {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let mut name = path.file_name().unwrap_or_default().to_owned();
        name.push(format!(".{}-{number}.partial", process::id()));
        let partial = path.with_file_name(name);
        match OpenOptions::new().write(true).create_new(true).open(&partial) {
            // An earlier process of the same number left it.
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            opened => return opened.map(|file| (file, partial)),
        }
    }
}

/// Whether `name` is that of a file that a [`PartialFile`] leaves if its process is killed while it writes `of`.
pub fn is_partial(name: &str, of: &str) -> bool {
    let middle = name.strip_prefix(of).and_then(|rest| rest.strip_prefix('.')?.strip_suffix(".partial"));
    let numbers = middle.and_then(|middle| middle.split_once('-'));
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    numbers.is_some_and(|(process, number)| is_number(process) && is_number(number))
}

/// Reads a file of at most `limit` bytes.
///
/// # Errors
///
/// [`Error::Io`] if it cannot be read or is not a regular file (a device may have no end, a pipe no writer);
/// [`Error::Data`] if it is longer.
pub fn read_small(path: &Path, limit: u64) -> Result<Vec<u8>> {
    let file = open_file(path).map_err(Error::io(path))?;
    let mut bytes = Vec::new();
    // The length in the metadata may be wrong by now.
    file.take(limit.saturating_add(1)).read_to_end(&mut bytes).map_err(Error::io(path))?;
    if bytes.len() as u64 > limit {
        let problem = format!("is longer than {limit} bytes, the limit for such a file; is it another file?");
        return Err(Error::Data { path: path.to_owned(), problem });
    }
    Ok(bytes)
}

/// Opens a regular file. Opening a pipe could wait for ever, so it is looked at first.
pub(crate) fn open_file(path: &Path) -> io::Result<File> {
    check_is_file(&fs::metadata(path)?)?;
    let file = File::open(path)?;
    check_is_file(&file.metadata()?)?; // it may have been replaced
    Ok(file)
}

fn check_is_file(found: &Metadata) -> io::Result<()> {
    if found.is_file() { Ok(()) } else { Err(io::Error::new(ErrorKind::InvalidInput, "is not a file")) }
}

/// A name or message from outside, with escapes such as `\n` and `\u{1b}` in place of the characters that control a
/// terminal or change the direction of text.
pub fn printable(text: impl Display) -> String {
    let steers = |character: char| {
        // Marks and embeddings of direction; separators of lines and paragraphs.
        let is_format =
            matches!(character, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
        character.is_control() || is_format || character == '\u{61c}' || character == '\u{feff}'
    };
    let mut printable = String::new();
    for character in text.to_string().chars() {
        match steers(character) {
            true => printable.extend(character.escape_default()),
            false => printable.push(character),
        }
    }
    printable
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_cannot_steer_a_terminal() {
        assert_eq!(printable("a\n\u{1b}[2J\u{9b}b\u{202e}c\u{7f}"), r"a\n\u{1b}[2J\u{9b}b\u{202e}c\u{7f}");
        assert_eq!(printable("Käse 犬 'a\\b'"), "Käse 犬 'a\\b'");
        let error = Error::Data { path: "a\nb".into(), problem: "has a class \u{1b}c".to_owned() };
        assert_eq!(error.to_string(), r"a\nb: has a class \u{1b}c");
    }

    #[test]
    fn a_partial_file_has_its_name_when_it_is_finished() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("a.json");
        let names = || {
            let entries = fs::read_dir(place.path()).unwrap();
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect::<Vec<_>>()
        };
        let mut file = PartialFile::create(&path).unwrap();
        file.write(b"head, ").unwrap();
        file.write(b"body").unwrap();
        assert!(matches!(&names()[..], [name] if is_partial(name, "a.json")));
        drop(file);
        assert_eq!(names(), [""; 0]);

        write_atomic(&path, b"old").unwrap();
        let mut file = PartialFile::create(&path).unwrap();
        file.write(b"????, ").unwrap();
        file.write(b"body").unwrap();
        file.write_start(b"head").unwrap();
        file.write(b" and end").unwrap();
        assert_eq!((names().len(), fs::read(&path).unwrap()), (2, b"old".to_vec()));
        file.finish().unwrap();
        assert_eq!((names(), fs::read(&path).unwrap()), (vec!["a.json".to_owned()], b"head, body and end".to_vec()));
        assert!(PartialFile::create(place.path()).is_err(), "a folder is no file");
    }

    #[test]
    fn partial_files_are_known_by_their_names() {
        assert!(is_partial("a.json.12-0.partial", "a.json"));
        for name in ["a.json", "a.json.partial", "a.json.12-.partial", "a.json.1x-0.partial", "b.json.12-0.partial"] {
            assert!(!is_partial(name, "a.json"), "{name}");
        }
    }
}
