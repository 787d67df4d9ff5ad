//! The members of a tar archive, found by their headers alone.

use std::cell::Cell;
use std::io::{self, Read, Seek, SeekFrom};
use std::rc::Rc;

use tar::{Archive, EntryType};

use crate::data::folder::shortened;

/// Unit of a tar archive in bytes: headers and contents begin at multiples of it.
pub(super) const BLOCK: u64 = 512;

/// Limit of the bytes of a member's headers, long names and extended headers included, which may claim any length.
const MAX_HEADERS: u64 = 1 << 20;

/// Limit of the zeros that end an archive, in bytes. They fill a record, of 10 KiB with the usual programs.
const MAX_PADDING: u64 = 1 << 20;

/// The first bytes of compressed files, and the command that unpacks them.
const COMPRESSED: [(&[u8], &str); 4] =
    [(b"\x1f\x8b", "gunzip -k"), (b"\xfd7zXZ", "xz -dk"), (b"\x28\xb5\x2f\xfd", "zstd -d"), (b"BZh", "bunzip2 -k")];

/// A member of an archive.
pub(super) struct Member<'a> {
    /// `None` if it is not Unicode.
    pub(super) name: Option<&'a str>,
    pub(super) kind: Kind,
    /// Where its content begins, in bytes.
    pub(super) offset: u64,
    /// Length of its content in bytes.
    pub(super) length: u64,
}

/// What a member is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    File,
    /// A symbolic or hard link, whose content is elsewhere.
    Link,
    /// A file with holes, whose content is not in one piece.
    Sparse,
    /// A folder, a device or a header for what follows.
    Other,
}

/// Calls `found` with every member of an archive of `length` bytes, and with its content to read if it wants to. The
/// contents are passed over by seeking. The error says what is wrong with the archive.
pub(super) fn for_each_member(
    mut archive: impl Read + Seek,
    length: u64,
    mut found: impl FnMut(&Member<'_>, &mut dyn Read) -> Result<(), String>,
) -> Result<(), String> {
    check_start(&mut archive, length)?;
    let allowance = Rc::new(Cell::new(MAX_HEADERS));
    let mut archive = Archive::new(Bounded { archive, allowance: Rc::clone(&allowance), has_ended: false });
    for (number, entry) in archive.entries_with_seek().map_err(|error| error.to_string())?.enumerate() {
        let mut entry = entry.map_err(|error| {
            format!("{error} (after {number} members); it is damaged, or no tar archive: make or download it again")
        })?;
        let kind = match entry.header().entry_type() {
            EntryType::Regular | EntryType::Continuous => Kind::File,
            EntryType::Link | EntryType::Symlink => Kind::Link,
            EntryType::GNUSparse => Kind::Sparse,
            _ => Kind::Other,
        };
        let (offset, size) = (entry.raw_file_position(), entry.size());
        let name = entry.path_bytes().into_owned();
        let member = Member { name: std::str::from_utf8(&name).ok(), kind, offset, length: size };
        let end = size.checked_next_multiple_of(BLOCK).and_then(|size| offset.checked_add(size)).unwrap_or(u64::MAX);
        if kind == Kind::File && end > length {
            let name = shortened(&String::from_utf8_lossy(&name));
            return Err(format!("is truncated: {name} ends at byte {end} of {length}; make or download it again"));
        }
        found(&member, &mut entry)?;
        allowance.set(MAX_HEADERS);
    }
    let Bounded { archive, has_ended, .. } = archive.into_inner();
    match has_ended {
        true => Err("is truncated: the zeros that end an archive are missing; make or download it again".to_owned()),
        false => check_padding(archive, length),
    }
}

/// An error unless zeros alone follow the first block of zeros, which was read last.
fn check_padding(mut archive: impl Read + Seek, length: u64) -> Result<(), String> {
    let end = archive.stream_position().map_err(|error| error.to_string())?;
    let rest = length.saturating_sub(end);
    let mut bytes = vec![0; rest.min(MAX_PADDING) as usize];
    archive.read_exact(&mut bytes).map_err(|error| error.to_string())?;
    if rest <= MAX_PADDING && bytes.iter().all(|byte| *byte == 0) {
        return Ok(());
    }
    Err(format!(
        "goes on for {rest} bytes behind its end at byte {end}: an incomplete download, or archives that cat joined; \
         leave these apart, or join them with tar -A"
    ))
}

/// An error for an empty or a compressed file.
fn check_start(archive: &mut (impl Read + Seek), length: u64) -> Result<(), String> {
    let mut start = [0; 8];
    let count = length.min(8) as usize;
    let read = archive.read_exact(&mut start[..count]).and_then(|()| archive.rewind());
    read.map_err(|error| error.to_string())?;
    if length == 0 {
        return Err("is empty; make or download it again".to_owned());
    }
    match COMPRESSED.iter().find(|(magic, _)| start.starts_with(magic)) {
        Some((_, command)) => {
            Err(format!("is compressed, and its images are read from the middle: unpack it with {command}"))
        }
        None => Ok(()),
    }
}

/// An archive of which no more is read than it is allowed: a header may claim that a name has any length.
struct Bounded<R> {
    archive: R,
    allowance: Rc<Cell<u64>>,
    /// Whether there was no more to read.
    has_ended: bool,
}

impl<R: Read> Read for Bounded<R> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let left = self.allowance.get();
        if left == 0 {
            return Err(io::Error::other(format!("the headers of a member have more than {MAX_HEADERS} bytes")));
        }
        let most = bytes.len().min(left as usize);
        let count = self.archive.read(&mut bytes[..most])?;
        self.allowance.set(left - count as u64);
        self.has_ended |= count == 0 && !bytes.is_empty();
        Ok(count)
    }
}

impl<R: Seek> Seek for Bounded<R> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.archive.seek(to)
    }
}
