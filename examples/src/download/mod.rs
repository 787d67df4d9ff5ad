//! Downloads the official archives of CIFAR and STL-10 and unpacks them.
//!
//! An interrupted download continues where it stopped, no archive is opened before its checksum matches, and the data
//! folder appears only when every file in it is complete.

mod address;
mod fetch;
mod unpack;

use std::fs::{self, File};
use std::io::{self, ErrorKind, Read};
use std::path::{Path, PathBuf};

use md5::{Digest, Md5};
use sha2::Sha256;

use crate::Result;
use crate::terminal::shown;
use address::Address;
use fetch::{Retry, fetch};
use unpack::{Contents, unpack};

/// One of the official archives, in the binary version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Archive {
    /// 60,000 images of 10 classes.
    Cifar10,
    /// 60,000 images of 100 classes.
    Cifar100,
    /// 13,000 images of 10 classes, and 100,000 without labels.
    Stl10,
}

impl Archive {
    /// The authors' address.
    fn official_url(self) -> &'static str {
        match self {
            Self::Cifar10 => "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
            Self::Cifar100 => "https://www.cs.toronto.edu/~kriz/cifar-100-binary.tar.gz",
            Self::Stl10 => "https://cs.stanford.edu/~acoates/stl10/stl10_binary.tar.gz",
        }
    }

    /// The longest archive accepted; the official ones have 170,052,171, 168,513,733 and 2,640,397,119 bytes.
    fn max_bytes(self) -> u64 {
        match self {
            Self::Cifar10 | Self::Cifar100 => 200_000_000,
            Self::Stl10 => 2_700_000_000,
        }
    }

    /// The archive at `url`.
    fn source(self, url: &str) -> Result<Source> {
        // MD5 as on the authors' page, of STL-10 as in torchvision; it can be forged. SHA-256 as in TensorFlow
        // Datasets.
        let (file_name, checksums, folder_name, files): (_, [_; 2], _, &[_]) = match self {
            Self::Cifar10 => (
                "cifar-10-binary.tar.gz",
                [
                    "c32a1d4ab5d03f1284b67883e8d87530",
                    "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
                ],
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
                [
                    "03b5dce01913d631647c71ecec9e9cb8",
                    "58a81ae192c23a4be8b1804d68e518ed807d710a4eb253b1f2a199162a40d8ec",
                ],
                "cifar-100-binary",
                &[("train.bin", 153_700_000), ("test.bin", 30_740_000)],
            ),
            Self::Stl10 => (
                "stl10_binary.tar.gz",
                [
                    "91f7769df0f17e558f3565bffb0c7dfb",
                    "f31fd99273a1acb8609c8db427cebb1de3f71de77758cdc0e22956e1289b9866",
                ],
                "stl10_binary",
                &[
                    ("train_X.bin", 138_240_000),
                    ("train_y.bin", 5_000),
                    ("test_X.bin", 221_184_000),
                    ("test_y.bin", 8_000),
                    ("unlabeled_X.bin", 2_764_800_000),
                ],
            ),
        };
        // The rest is for lists of names and the headers of the archive.
        let max_unpacked = files.iter().map(|(_, length)| length).sum::<u64>() + 6_000_000;
        let contents = Contents { folder_name, files, max_bytes: max_unpacked };
        let checksums = checksums.map(str::to_owned);
        let (url, max_bytes, retry) = (Address::parse(url)?, self.max_bytes(), Retry::default());
        Ok(Source { url, file_name, checksums, max_bytes, contents, retry })
    }
}

/// Makes sure that the files of `archive` are in a subfolder of `folder`, and returns that subfolder.
///
/// Downloads nothing if they already are. `mirror` replaces the official address. An archive that the user put into
/// `folder` under its official name is used instead of the network.
pub(crate) fn data_files(archive: Archive, folder: &Path, mirror: Option<&str>) -> Result<PathBuf> {
    provide(&archive.source(mirror.unwrap_or(archive.official_url()))?, folder)
}

/// Address, checksum and contents of an archive.
struct Source {
    url: Address,
    file_name: &'static str,
    /// MD5 and SHA-256 in lower-case hexadecimal.
    checksums: [String; 2],
    /// More than this is not accepted.
    max_bytes: u64,
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

/// An error if a file does not have the expected checksums.
fn verify(path: &Path, source: &Source) -> Result<()> {
    let found = checksums(path).map_err(|error| storage_error(path, &error))?;
    for ((kind, expected), found) in ["MD5", "SHA-256"].iter().zip(&source.checksums).zip(found) {
        if found != *expected {
            let path = shown(path);
            return Err(format!("{path} has the wrong {kind} checksum: expected {expected}, found {found}").into());
        }
    }
    Ok(())
}

/// MD5 and SHA-256 of a file, in lower-case hexadecimal.
fn checksums(path: &Path) -> io::Result<[String; 2]> {
    if !fs::metadata(path)?.is_file() {
        return Err(io::Error::new(ErrorKind::InvalidInput, "is not a file"));
    }
    let mut file = File::open(path)?;
    let (mut md5, mut sha256) = (Md5::new(), Sha256::new());
    let mut buffer = vec![0; 1 << 16];
    loop {
        match file.read(&mut buffer)? {
            0 => break,
            count => {
                md5.update(&buffer[..count]);
                sha256.update(&buffer[..count]);
            }
        }
    }
    let hexadecimal = |digest: &[u8]| digest.iter().map(|byte| format!("{byte:02x}")).collect();
    Ok([hexadecimal(&md5.finalize()), hexadecimal(&sha256.finalize())])
}

/// An error of the file system, with the path and, where there is one, the remedy.
fn storage_error(path: &Path, error: &io::Error) -> Box<dyn std::error::Error> {
    let advice = match error.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => "; free 400 MB (6 GB for STL-10) and start again",
        ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => "; choose a writable folder",
        _ => "",
    };
    format!("{}: {error}{advice}", shown(path)).into()
}

#[cfg(test)]
mod tests;
