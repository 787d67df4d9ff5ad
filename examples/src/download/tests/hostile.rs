//! Servers, archives and neighbors that mean harm.

use std::os::unix::fs::chown;

use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use ureq::Agent;
use ureq::unversioned::resolver::DefaultResolver;

use super::unencrypted::Unencrypted;
use super::*;

/// A forged archive can have the right MD5.
#[test]
fn both_checksums_count() {
    let (folder, archive) = (folder(), archive(None));
    let (url, _) = serve(archive.clone(), vec![Reply::Good]);
    let mut source = source(&url, &archive);
    source.checksums[1] = digests(b"other")[1].clone();
    let error = provide(&source, folder.path()).unwrap_err().to_string();
    assert!(error.contains("has the wrong SHA-256 checksum"), "{error}");
    assert_eq!(names(folder.path()), ["mine.txt"]);
}

#[test]
fn a_planted_part_file_is_never_written_through() {
    let archive = archive(None);
    let outside = tempfile::tempdir().unwrap();
    let target = outside.path().join("target");
    type Plant = fn(&Path, &Path);
    let plants: [(&str, Plant); 5] = [
        ("link", |target, part| std::os::unix::fs::symlink(target, part).unwrap()),
        ("link to nothing", |_, part| std::os::unix::fs::symlink("nothing", part).unwrap()),
        ("second name", |target, part| fs::hard_link(target, part).unwrap()),
        ("folder", |_, part| fs::create_dir(part).unwrap()),
        ("pipe", |_, part| mkfifo(part, Mode::S_IRWXU).unwrap()),
    ];
    for (what, plant) in plants {
        let folder = folder();
        fs::write(&target, "theirs").unwrap();
        plant(&target, &folder.path().join("small.tar.gz.part"));
        let error = provide(&source("http://127.0.0.1:1/", &archive), folder.path()).unwrap_err().to_string();
        assert!(error.contains("small.tar.gz.part: was not left by a download of yours"), "{what}: {error}");
        assert_eq!(fs::read(&target).unwrap(), b"theirs", "{what}");
        assert_eq!(names(folder.path()), ["mine.txt", "small.tar.gz.part"], "{what}");
    }
}

#[test]
fn the_part_file_of_another_user_is_not_continued() {
    let (folder, archive) = (folder(), archive(None));
    let part = folder.path().join("small.tar.gz.part");
    fs::write(&part, &archive[..100]).unwrap();
    if chown(&part, Some(12345), None).is_err() {
        return; // only root can give a file away
    }
    let error = provide(&source("http://127.0.0.1:1/", &archive), folder.path()).unwrap_err().to_string();
    assert!(error.contains("small.tar.gz.part: was not left by a download of yours; remove it"), "{error}");
    assert_eq!(fs::read(&part).unwrap(), archive[..100]);
}

#[test]
fn any_length_that_a_server_claims_is_survived() {
    let archive = archive(None);
    for length in [u64::MAX, u64::MAX - 1, 1 << 40] {
        for script in [vec![Reply::Claims(length)], vec![Reply::Cut(100), Reply::Claims(length)]] {
            let error = rejected(archive.clone(), &archive, script, &["mine.txt"]);
            assert!(error.contains("offers more than 200000000 bytes"), "{length}: {error}");
        }
    }
}

/// The client's answer to a redirection from HTTPS to HTTP, over connections that are not encrypted in truth.
#[test]
fn https_stays_https() {
    for (scheme, to, refused) in [
        ("https", "http://user:secret@127.0.0.1:1/elsewhere", true),
        ("https", "https://127.0.0.1:1/elsewhere", false),
        ("http", "http://127.0.0.1:1/elsewhere", false),
    ] {
        let (url, seen) = serve(archive(None), vec![Reply::Redirect(to)]);
        let url = Address::parse(&url.replace("http", scheme)).unwrap();
        let config = fetch::agent(&url).config().clone();
        let agent = Agent::with_parts(config, Unencrypted::default(), DefaultResolver::default());
        let error = agent.get(url.uri()).call().unwrap_err();
        assert_eq!(seen.lock().unwrap().len(), 1, "{scheme} to {to}");
        match fetch::unanswered(&error, &url) {
            Err(error) => {
                let words = "the server redirects to http://127.0.0.1:1/elsewhere, which is not HTTPS";
                assert!(refused && error.to_string().ends_with(words), "{scheme} to {to}: {error}");
            }
            Ok(_) => assert!(!refused, "{scheme} to {to}"), // nobody answers there
        }
    }
}

#[test]
fn a_password_in_an_address_is_in_no_message() {
    let archive = archive(None);
    for script in [vec![Reply::Status(404)], vec![], vec![Reply::Redirect("ftp://a:secret@127.0.0.1/")]] {
        let (folder, (url, _)) = (folder(), serve(archive.clone(), script));
        let url = url.replace("http://", "http://user:secret@") + "?token=secret";
        let error = provide(&source(&url, &archive), folder.path()).unwrap_err().to_string();
        assert!(error.contains("cannot download http://127.0.0.1") && !error.contains("secret"), "{error}");
    }
}

#[test]
fn hostile_entries_are_rejected() {
    use tar::EntryType;
    for (path, kind) in [
        ("../evil", EntryType::Regular),
        ("small/../../evil", EntryType::Regular),
        ("/tmp/evil", EntryType::Regular),
        ("other/evil", EntryType::Regular),
        ("evil", EntryType::Regular),
        ("small/deep/evil", EntryType::Regular),
        ("small/a.bin", EntryType::Regular),
        ("small/link", EntryType::Symlink),
        ("small/link", EntryType::Link),
        ("small/pipe", EntryType::Fifo),
        ("small/deep", EntryType::Directory),
    ] {
        let archive = archive(Some((path, kind)));
        let error = rejected(archive.clone(), &archive, vec![Reply::Good], &["mine.txt", "small.tar.gz"]);
        assert!(error.contains(path.rsplit('/').next().unwrap()), "{path}: {error}");
    }
}

#[test]
fn an_archive_that_unpacks_to_too_much_is_rejected() {
    let mut builder = tar::Builder::new(Vec::new());
    add(&mut builder, "small/a.bin", tar::EntryType::Regular, &[0; 30_000]);
    let archive = compress(&builder.into_inner().unwrap());
    let error = rejected(archive.clone(), &archive, vec![Reply::Good], &["mine.txt", "small.tar.gz"]);
    assert!(error.contains("holds more"), "{error}");

    let mut builder = tar::Builder::new(Vec::new());
    for index in 0..30 {
        let name = format!("small/{index}");
        add(&mut builder, &name, tar::EntryType::Regular, b"");
    }
    let archive = compress(&builder.into_inner().unwrap());
    let error = rejected(archive.clone(), &archive, vec![Reply::Good], &["mine.txt", "small.tar.gz"]);
    assert!(error.contains("more than 20 files"), "{error}");
}
