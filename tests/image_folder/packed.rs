//! Shards as they lie in folders, their classes, and the script that packs them.

use std::fs::{self, File};
use std::path::Path;

use patchmix::data::{EncodedImages, ImageFolder, ImageShards, shard_paths};
use tar::Builder;

use crate::folder::touch;
use crate::python::{python, run_script};
use crate::shards::{append, problem};

/// Writes a shard with an image for each of the classes.
fn shard(path: &Path, classes: &[u32]) {
    let mut builder = Builder::new(File::create(path).unwrap());
    for (number, class) in classes.iter().enumerate() {
        append(&mut builder, &format!("{number}.jpg"), b"x");
        append(&mut builder, &format!("{number}.cls"), class.to_string().as_bytes());
    }
    builder.finish().unwrap();
}

#[test]
fn a_folder_without_shards_is_named() {
    let place = tempfile::tempdir().unwrap();
    let found = |name: &str| problem(shard_paths(&place.path().join(name), "train"));
    assert!(found("gone").starts_with("gone: there is no such folder"));
    fs::write(place.path().join("file"), "").unwrap();
    assert!(found("file").starts_with("file: is a file"));
    fs::create_dir(place.path().join("a")).unwrap();
    for name in ["val-0.tar", "training-0.tar", "train.tar", "train-0.txt"] {
        fs::write(place.path().join("a").join(name), "").unwrap();
    }
    assert_eq!(found("a"), "a: contains no train-*.tar");
    fs::write(place.path().join("a/train-0.tar.gz"), "").unwrap();
    assert_eq!(found("a"), "a: contains no train-*.tar, but train-0.tar.gz; unpack it to a .tar");
    fs::write(place.path().join("a/train-1.tar"), "").unwrap();
    // Downloads that were packed or interrupted.
    for (name, plain) in
        [("train-0.tar.gz", "train-0.tar"), ("train-2.tgz", "train-2.tar"), ("train-3.tar.partial", "train-3.tar")]
    {
        fs::write(place.path().join("a").join(name), "").unwrap();
        assert!(
            found("a").starts_with(&format!("a: contains {name} without {plain}; unpack or complete it")),
            "{}",
            found("a")
        );
        fs::write(place.path().join("a").join(plain), "").unwrap();
    }
    assert_eq!(shard_paths(&place.path().join("a"), "train").unwrap().len(), 4, "a packed one may stay beside them");
    let empty = place.path().join("a/train-1.tar");
    fs::write(&empty, "").unwrap();
    assert!(problem(ImageShards::open(&[empty])).starts_with("train-1.tar: is empty"));
    assert!(ImageShards::open(&[]).is_err());
}

/// Some classes of a large set, or a slip of the pen, are as many classes as there are numbers.
#[test]
fn classes_are_the_numbers_that_occur() {
    let place = tempfile::tempdir().unwrap();
    let path = |name: &str| place.path().join(name);
    shard(&path("train-0.tar"), &[7, 1_000_000, 7]);
    shard(&path("train-1.tar"), &[12, 3]);
    let labels = |shards: &ImageShards| (0..shards.len()).map(|at| shards.label(at).unwrap()).collect::<Vec<_>>();
    let train = ImageShards::open(&shard_paths(place.path(), "train").unwrap()).unwrap();
    assert_eq!(train.class_names(), ["3", "7", "12", "1000000"]);
    assert_eq!(labels(&train), [1, 3, 1, 2, 0]);
    assert_eq!(labels(&train.take(4).unwrap()).len(), 4);
    shard(&path("val-0.tar"), &[12, 7, 12]);
    let val = |name: &str| ImageShards::with_classes(&[path(name)], train.class_names());
    assert_eq!(labels(&val("val-0.tar").unwrap()), [2, 1, 2]);
    shard(&path("val-1.tar"), &[7, 4]);
    assert_eq!(
        problem(val("val-1.tar")),
        "val-1.tar: has an image of class 4, not one of the 4 of the training images"
    );
}

#[cfg(unix)]
#[test]
fn a_shard_may_have_a_name_of_any_bytes() {
    use std::os::unix::ffi::OsStrExt;
    let place = tempfile::tempdir().unwrap();
    shard(&place.path().join(std::ffi::OsStr::from_bytes(b"train-\xFF.tar")), &[0]);
    let shards = ImageShards::open(&shard_paths(place.path(), "train").unwrap()).unwrap();
    assert_eq!(shards.read(0).unwrap().unwrap(), b"x");
}

/// Packs folders by the script, one after the other. Returns whether it succeeded, and what it said.
fn packed(lines: &[String]) -> Option<Vec<(bool, String)>> {
    Some(run_script(&mut python("tarfile")?, "scripts/make_shards.py", lines))
}

#[cfg(unix)]
#[test]
fn the_script_packs_what_the_folder_lists() {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::fs::symlink;
    let place = tempfile::tempdir().unwrap();
    let root = place.path().join("set");
    touch(
        &root,
        &["train/a/1.jpg", "train/a/deep/v1.0.PNG", "train/b/2.v.jpg", "train/b/2_v.jpg", "train/b/notes.txt"],
    );
    touch(place.path(), &["elsewhere/far.jpg", "photos/x.jpg", "photos/y/x.jpg", "photos/y/.hidden.jpg"]);
    for (target, link) in [(".", "a/self"), ("../..", "b/above"), ("../../../elsewhere", "b/linked")] {
        symlink(target, root.join("train").join(link)).unwrap();
    }
    symlink("nowhere", root.join("train/a/dangling.jpg")).unwrap();
    assert!(std::process::Command::new("mkfifo").arg(root.join("train/a/pipe.jpg")).status().unwrap().success());
    fs::write(root.join("train/a").join(OsStr::from_bytes(b"caf\xE9.jpg")), "").unwrap();
    let at = |name: &str| place.path().join(name).display().to_string();
    let lines = [format!("{} {}", at("set"), at("labeled")), format!("{} {}", at("photos"), at("plain"))];
    let Some(said) = packed(&[&lines[..], &lines[..1], &[format!("{} {}", at("none"), at("new"))]].concat()) else {
        return;
    };
    assert!(said[0].0 && said[0].1.contains("train: 6 images in 1 shards, 2 left out"), "{said:?}");
    assert!(!said[2].0 && said[2].1.contains("labeled exists"), "{said:?}");
    assert!(!said[3].0 && said[3].1.contains("none: there is no such folder"), "{said:?}");

    let open = |name: &str| ImageShards::open(&shard_paths(&place.path().join(name), "train").unwrap()).unwrap();
    let (labeled, plain) = (open("labeled"), open("plain"));
    let mut found: Vec<(String, i64)> = (0..labeled.len())
        .map(|position| (labeled.member(position).unwrap().name.to_owned(), labeled.label(position).unwrap()))
        .collect();
    found.sort_unstable();
    let expected = [
        ("a/1.jpg", 0),
        ("a/caf\\udce9.jpg", 0),
        ("a/deep/v1_0.png", 0),
        ("b/2_v.jpg", 1),
        ("b/2_v_2.jpg", 1),
        ("b/linked/far.jpg", 1),
    ];
    assert_eq!(found, expected.map(|(name, label)| (name.to_owned(), label)));
    assert_eq!(fs::read_to_string(place.path().join("labeled/classes.txt")).unwrap(), "a\nb\n");
    assert_eq!((plain.len(), plain.is_labeled()), (2, false));
    assert!(!place.path().join("plain/classes.txt").exists());
    assert_eq!(
        ImageFolder::open(&root.join("train")).unwrap().len(),
        7,
        "a dangling link and a pipe, but no caf\u{e9}"
    );
    let left: Vec<_> = fs::read_dir(place.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left.len(), 5, "{left:?}");
}
