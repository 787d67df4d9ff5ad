//! Downloads from a server on this machine, up to the folder of data files.

mod hostile;
mod server;
mod unencrypted;

use std::io::Write;
use std::time::Duration;

use super::*;
use server::{Reply, Seen, serve};

const FILES: &[(&str, u64)] = &[("a.bin", 5000), ("b.bin", 300)];

/// Incompressible bytes, so that cutting the archive cuts data.
fn noise(length: u64) -> Vec<u8> {
    let mut state = 1_u64;
    let step = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    };
    std::iter::repeat_with(step).take(length as usize).collect()
}

/// Adds an entry, bypassing the `tar` crate, which refuses to write hostile paths.
fn add(builder: &mut tar::Builder<Vec<u8>>, path: &str, kind: tar::EntryType, data: &[u8]) {
    let mut header = tar::Header::new_gnu();
    header.as_old_mut().name[..path.len()].copy_from_slice(path.as_bytes());
    header.set_entry_type(kind);
    header.set_mode(0o644);
    header.set_size(data.len() as u64);
    if kind.is_symlink() || kind.is_hard_link() {
        header.set_link_name("/etc/passwd").unwrap();
    }
    header.set_cksum();
    builder.append(&header, data).unwrap();
}

/// The expected archive, with an extra entry at its end if given.
fn archive(extra: Option<(&str, tar::EntryType)>) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    add(&mut builder, "small/", tar::EntryType::Directory, &[]);
    for (name, length) in FILES {
        add(&mut builder, &format!("small/{name}"), tar::EntryType::Regular, &noise(*length));
    }
    add(&mut builder, "small/readme.html", tar::EntryType::Regular, b"hello");
    if let Some((path, kind)) = extra {
        add(&mut builder, path, kind, if kind.is_file() { b"evil" } else { b"" });
    }
    compress(&builder.into_inner().unwrap())
}

fn compress(data: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(data).unwrap();
    encoder.finish().unwrap()
}

fn digests(data: &[u8]) -> [String; 2] {
    let hexadecimal = |digest: &[u8]| digest.iter().map(|byte| format!("{byte:02x}")).collect();
    [hexadecimal(&Md5::digest(data)), hexadecimal(&Sha256::digest(data))]
}

fn source(url: &str, archive: &[u8]) -> Source {
    let contents = Contents { folder_name: "small", files: FILES, max_bytes: 20_000 };
    let retry = Retry { attempts: 4, pause: Duration::from_millis(1) };
    let url = Address::parse(url).unwrap();
    Source { url, file_name: "small.tar.gz", checksums: digests(archive), max_bytes: 200_000_000, contents, retry }
}

/// A folder that holds a file of the user's own.
fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("mine.txt"), "mine").unwrap();
    folder
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap();
    let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn assert_unpacked(folder: &Path) {
    assert_eq!(names(folder), ["mine.txt", "small"]);
    assert_eq!(names(&folder.join("small")), ["a.bin", "b.bin", "readme.html"]);
    assert_eq!(fs::read(folder.join("small/a.bin")).unwrap(), noise(5000));
    assert_eq!(fs::read(folder.join("small/b.bin")).unwrap(), noise(300));
    assert_eq!(fs::read(folder.join("mine.txt")).unwrap(), b"mine");
}

/// Downloads successfully; returns the requests that the server saw.
fn fetched(script: Vec<Reply>, part: Option<&[u8]>) -> Vec<Seen> {
    let (folder, archive) = (folder(), archive(None));
    if let Some(part) = part {
        fs::write(folder.path().join("small.tar.gz.part"), part).unwrap();
    }
    let (url, seen) = serve(archive.clone(), script);
    let target = provide(&source(&url, &archive), folder.path()).unwrap();
    assert_eq!(target, folder.path().join("small"));
    assert_unpacked(folder.path());
    // The server has stopped, so a second call must not need it.
    provide(&source(&url, &archive), folder.path()).unwrap();
    seen.lock().unwrap().clone()
}

fn seen(start: Option<usize>, sent: usize) -> Seen {
    Seen { range: start.map(|start| format!("bytes={start}-")), sent }
}

#[test]
fn a_complete_download_is_unpacked_once() {
    assert_eq!(fetched(vec![Reply::Good], None), [seen(None, archive(None).len())]);
}

#[test]
fn a_cut_connection_is_resumed_where_it_broke() {
    let length = archive(None).len();
    let log = fetched(vec![Reply::Cut(2000), Reply::Cut(500), Reply::Good], None);
    assert_eq!(log, [seen(None, 2000), seen(Some(2000), 500), seen(Some(2500), length - 2500)]);
}

#[test]
fn the_part_file_of_an_earlier_run_is_continued() {
    let archive = archive(None);
    let log = fetched(vec![Reply::Good], Some(&archive[..3000]));
    assert_eq!(log, [seen(Some(3000), archive.len() - 3000)]);
}

#[test]
fn a_server_that_ignores_the_range_starts_over() {
    let length = archive(None).len();
    let log = fetched(vec![Reply::Cut(2000), Reply::NoRange], None);
    assert_eq!(log, [seen(None, 2000), seen(Some(2000), length)]);
    let log = fetched(vec![Reply::Cut(2000), Reply::WrongRange, Reply::Good], None);
    assert_eq!(log.last(), Some(&seen(None, length)));
}

#[test]
fn a_part_file_that_cannot_be_continued_is_verified() {
    let archive = archive(None);
    // Complete according to its checksum: nothing is sent.
    assert_eq!(fetched(vec![Reply::Good], Some(&archive)), [seen(Some(archive.len()), 0)]);
    // Too long: downloaded again.
    let log = fetched(vec![Reply::Good, Reply::Good], Some(&[0; 9000]));
    assert_eq!(log, [seen(Some(9000), 0), seen(None, archive.len())]);
}

#[test]
fn a_busy_server_is_retried() {
    let log = fetched(vec![Reply::Status(503), Reply::Good], None);
    assert_eq!(log.len(), 2);
}

#[test]
fn an_archive_of_the_user_is_used_and_kept() {
    let (folder, archive) = (folder(), archive(None));
    let path = folder.path().join("small.tar.gz");
    fs::write(&path, &archive).unwrap();
    let source = source("http://127.0.0.1:1/", &archive);
    provide(&source, folder.path()).unwrap();
    assert_eq!(fs::read(&path).unwrap(), archive);
    assert_eq!(names(folder.path()), ["mine.txt", "small", "small.tar.gz"]);
}

/// Serves `served` where `expected` is wanted; returns the error, which must leave only the files `left`.
fn rejected(served: Vec<u8>, expected: &[u8], script: Vec<Reply>, left: &[&str]) -> String {
    let folder = folder();
    let (url, _) = serve(served, script);
    let error = provide(&source(&url, expected), folder.path()).unwrap_err().to_string();
    assert_eq!(names(folder.path()), left, "{error}");
    assert!(!error.contains('\n'));
    error
}

#[test]
fn a_wrong_checksum_is_rejected_before_unpacking() {
    let (good, mut bad) = (archive(None), archive(None));
    bad[1000] ^= 1;
    let error = rejected(bad.clone(), &good, vec![Reply::Good], &["mine.txt"]);
    assert!(error.contains(&digests(&good)[0]) && error.contains(&digests(&bad)[0]), "{error}");
}

#[test]
fn an_unreachable_server_is_named_and_the_part_file_is_kept() {
    let archive = archive(None);
    let script = vec![Reply::Cut(100), Reply::Cut(100)];
    let error = rejected(archive.clone(), &archive, script, &["mine.txt", "small.tar.gz.part"]);
    assert!(error.contains("http://127.0.0.1") && error.contains("by hand"), "{error}");
    let error = rejected(archive.clone(), &archive, vec![Reply::Status(404)], &["mine.txt"]);
    assert!(error.contains("404"), "{error}");
}

#[test]
fn an_incomplete_folder_is_left_alone() {
    let (folder, archive) = (folder(), archive(None));
    fs::create_dir(folder.path().join("small")).unwrap();
    fs::write(folder.path().join("small/a.bin"), "short").unwrap();
    let error = provide(&source("http://127.0.0.1:1/", &archive), folder.path()).unwrap_err().to_string();
    assert!(error.contains("a.bin has 5 bytes instead of 5000"), "{error}");
    assert_eq!(fs::read(folder.path().join("small/a.bin")).unwrap(), b"short");
    assert_eq!(names(folder.path()), ["mine.txt", "small"]);
}

/// STL-10: 5,000 and 8,000 images of 96 x 96 pixels with a byte for the label, 100,000 without; torchvision's MD5.
#[test]
fn the_file_sizes_of_stl10_are_those_of_its_images() {
    let source = Archive::Stl10.source(Archive::Stl10.official_url()).unwrap();
    let (files, image) = (source.contents.files, 3 * 96 * 96);
    let expected = [5_000 * image, 5_000, 8_000 * image, 8_000, 100_000 * image];
    assert_eq!(files.iter().map(|(_, length)| *length).collect::<Vec<u64>>(), expected);
    assert!(source.contents.max_bytes > expected.iter().sum() && source.max_bytes > 2_640_397_119);
    assert!(source.url.is_https() && source.url.uri().path().ends_with(source.file_name));
    assert!(source.checksums.map(|digits| digits.len()) == [32, 64]);
}

/// Each archive has its own limit: that of CIFAR would refuse STL-10.
#[test]
fn a_server_that_offers_more_than_the_archive_is_refused() {
    let (folder, archive) = (folder(), archive(None));
    let (url, _) = serve(archive.clone(), vec![Reply::Good]);
    let source = Source { max_bytes: archive.len() as u64 - 1, ..source(&url, &archive) };
    let error = provide(&source, folder.path()).unwrap_err().to_string();
    assert!(error.contains(&format!("the server offers more than {} bytes", archive.len() - 1)), "{error}");
    assert_eq!(names(folder.path()), ["mine.txt"]);
}

#[test]
fn the_file_sizes_are_those_of_60_000_records() {
    for (archive, record) in [(Archive::Cifar10, 1 + 3072), (Archive::Cifar100, 2 + 3072)] {
        let source = archive.source(archive.official_url()).unwrap();
        assert_eq!(source.contents.files.iter().map(|(_, length)| length).sum::<u64>(), 60_000 * record);
        assert!(source.url.is_https() && source.url.uri().path().ends_with(source.file_name));
    }
}
