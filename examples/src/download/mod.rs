//! Downloads the official CIFAR archives and unpacks them.
//!
//! An interrupted download continues where it stopped, no archive is opened before its checksum matches, and the data
//! folder appears only when every file in it is complete.

mod fetch;
mod unpack;

use std::fs::{self, File};
use std::io::{self, ErrorKind, Read};
use std::path::{Path, PathBuf};

use md5::{Digest, Md5};

use crate::Result;
use fetch::{Retry, fetch};
use unpack::{Contents, unpack};

/// One of the two official archives, in the binary version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Archive {
    /// 60,000 images of 10 classes.
    Cifar10,
    /// 60,000 images of 100 classes.
    Cifar100,
}

impl Archive {
    /// The authors' address.
    fn official_url(self) -> &'static str {
        match self {
            Self::Cifar10 => "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
            Self::Cifar100 => "https://www.cs.toronto.edu/~kriz/cifar-100-binary.tar.gz",
        }
    }

    /// The archive at `url`. The checksums are those on the authors' page.
    fn source(self, url: &str) -> Source {
        let (file_name, checksum, folder_name, files): (_, _, _, &[_]) = match self {
            Self::Cifar10 => (
                "cifar-10-binary.tar.gz",
                "c32a1d4ab5d03f1284b67883e8d87530",
                "cifar-10-batches-bin",
                &[
                    ("data_batch_1.bin", 30_730_000),
                    ("data_batch_2.bin", 30_730_000),
                    ("data_batch_3.bin", 30_730_000),
                    ("data_batch_4.bin", 30_730_000),
                    ("data_batch_5.bin", 30_730_000),
                    ("test_batch.bin", 30_730_000),
                ],
            ),
            Self::Cifar100 => (
                "cifar-100-binary.tar.gz",
                "03b5dce01913d631647c71ecec9e9cb8",
                "cifar-100-binary",
                &[("train.bin", 153_700_000), ("test.bin", 30_740_000)],
            ),
        };
        // The images take 184 MB; the rest is for lists of names and the headers of the archive.
        let contents = Contents { folder_name, files, max_bytes: 190_000_000 };
        Source { url: url.to_owned(), file_name, checksum: checksum.to_owned(), contents, retry: Retry::default() }
    }
}

/// Makes sure that the files of `archive` are in a subfolder of `folder`, and returns that subfolder.
///
/// Downloads nothing if they already are. `mirror` replaces the official address. An archive that the user put into
/// `folder` under its official name is used instead of the network.
pub(crate) fn cifar(archive: Archive, folder: &Path, mirror: Option<&str>) -> Result<PathBuf> {
    provide(&archive.source(mirror.unwrap_or(archive.official_url())), folder)
}

/// Address, checksum and contents of an archive.
struct Source {
    url: String,
    file_name: &'static str,
    /// MD5 in lower-case hexadecimal.
    checksum: String,
    contents: Contents,
    retry: Retry,
}

/// Downloads, verifies and unpacks an archive, as far as that is still to do; returns the folder of its files.
fn provide(source: &Source, folder: &Path) -> Result<PathBuf> {
    if source.contents.check(folder).is_ok() {
        return Ok(folder.to_owned()); // the files are in the folder itself
    }
    let target = folder.join(source.contents.folder_name);
    if target.exists() {
        // Never replaced: it may hold the user's own files.
        source
            .contents
            .check(&target)
            .map_err(|error| format!("{error}; move the folder away to download it again"))?;
        return Ok(target);
    }
    fs::create_dir_all(folder).map_err(|error| storage_error(folder, &error))?;
    let archive = folder.join(source.file_name);
    let own = archive.exists();
    if own {
        verify(&archive, source).map_err(|error| format!("{error}; remove this file to download it again"))?;
    } else {
        download(source, &archive)?;
    }
    unpack(&archive, &source.contents, folder)?;
    if !own {
        // The data is in place, so an archive that cannot be removed is no reason to fail.
        let _ = fs::remove_file(&archive);
    }
    Ok(target)
}

/// Downloads the archive; it gets its name when it is complete and has the right checksum.
fn download(source: &Source, archive: &Path) -> Result<()> {
    let part = archive.with_file_name(format!("{}.part", source.file_name));
    fetch(source, &part)?;
    if let Err(error) = verify(&part, source) {
        fs::remove_file(&part).map_err(|error| storage_error(&part, &error))?;
        let url = &source.url;
        return Err(format!("{error}; it came from {url} and was removed: try again or name a mirror").into());
    }
    fs::rename(&part, archive).map_err(|error| storage_error(archive, &error))
}

/// An error if a file does not have the expected checksum.
fn verify(path: &Path, source: &Source) -> Result<()> {
    let found = checksum(path).map_err(|error| storage_error(path, &error))?;
    if found != source.checksum {
        let name = path.display();
        return Err(format!("{name} has the wrong MD5 checksum: expected {}, found {found}", source.checksum).into());
    }
    Ok(())
}

/// MD5 of a file, in lower-case hexadecimal.
fn checksum(path: &Path) -> io::Result<String> {
    let mut file = File::open(path)?;
    let mut digest = Md5::new();
    let mut buffer = vec![0; 1 << 16];
    loop {
        match file.read(&mut buffer)? {
            0 => break,
            count => digest.update(&buffer[..count]),
        }
    }
    Ok(digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

/// An error of the file system, with the path and, where there is one, the remedy.
fn storage_error(path: &Path, error: &io::Error) -> Box<dyn std::error::Error> {
    let advice = match error.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => "; free 400 MB and start again",
        ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => "; choose a writable folder",
        _ => "",
    };
    format!("{}: {error}{advice}", path.display()).into()
}

#[cfg(test)]
mod tests;
