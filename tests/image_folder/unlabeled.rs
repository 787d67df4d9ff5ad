//! Images without classes, and images whose classes a text file names.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use patchmix::Error;
use patchmix::data::{Cut, ImageFolder};

use crate::folder::{labels, listed, problem, touch};
use crate::{picture, read, save};

#[test]
fn all_images_below_a_folder_are_listed_by_path() {
    let place = tempfile::tempdir().unwrap();
    let names = ["b.jpg", "a/z.PNG", "a/deep/er/1.webp", "a-b/2.jpeg", "A.jpg", "c.jpg/3.jpg"];
    touch(place.path(), &names);
    touch(place.path(), &[".thumbnails/x.jpg", "._b.jpg", ".git/objects/y.png", "notes.txt", "a/4.gif"]);
    let folder = ImageFolder::unlabeled(place.path()).unwrap();
    let sorted = ["A.jpg", "a-b/2.jpeg", "a/deep/er/1.webp", "a/z.PNG", "b.jpg", "c.jpg/3.jpg"];
    assert_eq!(listed(&folder), sorted.map(|name| place.path().join(name).display().to_string()));
    let passed_over: Vec<_> = folder.passed_over().iter().map(|(what, count)| (what.as_str(), *count)).collect();
    assert_eq!(passed_over, [(".gif", 1), (".txt", 1)]);
    assert_eq!((folder.len(), folder.is_labeled(), folder.classes(), folder.folder()), (6, false, 0, place.path()));
    for position in 0..6 {
        let error = folder.label(position).unwrap_err().to_string();
        assert!(error.ends_with("its images have no classes"), "{error}");
    }
    assert!(matches!(folder.path(6), Err(Error::Value { name: "position", .. })));
    let some = folder.take(3).unwrap();
    assert_eq!(listed(&some), [0, 2, 4].map(|place| listed(&folder)[place].clone()));
}

#[cfg(unix)]
#[test]
fn links_circles_pipes_and_names_of_any_bytes_do_no_harm() {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::fs::symlink;
    let place = tempfile::tempdir().unwrap();
    let root = place.path().join("photos");
    touch(place.path(), &["elsewhere/far.jpg"]);
    touch(&root, &["1.jpg", "a/2.jpg", "a/line\nfeed.jpg", "a/\u{1b}[2J.png"]);
    for (target, link) in [(".", "self"), ("..", "a/up"), ("../..", "a/above"), ("/", "everything"), ("a", "again")] {
        symlink(target, root.join(link)).unwrap();
    }
    symlink("../elsewhere", root.join("linked")).unwrap();
    symlink("../elsewhere", root.join("linked_again")).unwrap();
    symlink("../elsewhere/far.jpg", root.join("a/file.jpg")).unwrap();
    symlink("nowhere", root.join("dangling.jpg")).unwrap();
    assert!(std::process::Command::new("mkfifo").arg(root.join("pipe.jpg")).status().unwrap().success());
    fs::write(root.join(OsStr::from_bytes(b"caf\xE9.jpg")), "").unwrap();
    fs::write(root.join(OsStr::from_bytes(b".caf\xE9.jpg")), "").unwrap();
    fs::create_dir(root.join(OsStr::from_bytes(b"\xE9"))).unwrap();
    fs::write(root.join(OsStr::from_bytes(b"\xE9/4.jpg")), "").unwrap();
    let folder = ImageFolder::unlabeled(&root).unwrap();
    let names = ["1.jpg", "a/\u{1b}[2J.png", "a/2.jpg", "a/file.jpg", "a/line\nfeed.jpg", "dangling.jpg"];
    let names =
        names.into_iter().chain(["linked/far.jpg", "pipe.jpg"]).map(|name| root.join(name).display().to_string());
    assert_eq!(listed(&folder), names.collect::<Vec<_>>());
    assert_eq!(folder.passed_over()["names that are not Unicode"], 1, "one that is hidden is not counted");
    assert_eq!(folder.passed_over()["folders whose names are not Unicode, with all that is in them"], 1);
    assert!(folder.passed_over()["links to a folder that is listed already"] >= 5);
    // A link to nothing and a pipe that nobody writes to are broken images, and not the end.
    let batch = read(&Arc::new(folder), &[vec![5, 7]], &[Cut::Center { resize: 8, size: 8 }], 1);
    assert_eq!(batch[0].broken.len(), 2);
}

#[test]
fn images_without_classes_are_read_without_labels() {
    let place = tempfile::tempdir().unwrap();
    for number in 0..3 {
        save(&place.path().join(format!("{number}.png")), picture(20, 16, number));
    }
    let folder = Arc::new(ImageFolder::unlabeled(place.path()).unwrap());
    let batch = &read(&folder, &[vec![2, 0]], &[Cut::Center { resize: 8, size: 8 }], 2)[0];
    assert_eq!((batch.crops[0].size(), batch.positions.as_slice()), (vec![2, 3, 8, 8], &[2, 0][..]));
    assert!(batch.labels.is_none() && batch.labels_on(tch::Device::Cpu).unwrap().is_none());
}

#[test]
fn a_folder_without_any_image_is_an_error_that_names_it() {
    let place = tempfile::tempdir().unwrap();
    touch(place.path(), &["file", "empty/notes.txt", "empty/.hidden.jpg"]);
    let open = |name: &str| problem(ImageFolder::unlabeled(&place.path().join(name)));
    assert_eq!(open("gone"), "gone: there is no such folder");
    assert!(open("file").starts_with("file: is a file"));
    assert_eq!(open("empty"), "empty: contains no jpeg, png or webp file, nor do its subfolders");
}

/// The classes of the training images, here not in the order of their names.
const CLASSES: [&str; 3] = ["n03", "n01", "n02"];

fn annotated(place: &Path, text: &[u8]) -> Result<ImageFolder, Error> {
    let annotations = place.join("val_annotations.txt");
    fs::write(&annotations, text).unwrap();
    ImageFolder::annotated(&place.join("images"), &annotations, &CLASSES.map(str::to_owned))
}

#[test]
fn classes_come_from_the_text_beside_the_images() {
    let place = tempfile::tempdir().unwrap();
    touch(place.path(), &["images/val_0.JPEG", "images/val_1.JPEG", "images/val_2.JPEG", "images/val_10.JPEG"]);
    let text = b"val_1.JPEG\tn02\t0\t32\t44\t62\nval_0.JPEG\tn03\t1\t2\t3\t4\r\nval_10.JPEG\tn02\n\nval_2.JPEG\tn03\t";
    let folder = annotated(place.path(), text).unwrap();
    assert_eq!(labels(&folder), [0, 0, 2, 2]);
    let names = ["val_0.JPEG", "val_2.JPEG", "val_1.JPEG", "val_10.JPEG"];
    assert_eq!(listed(&folder), names.map(|name| place.path().join("images").join(name).display().to_string()));
    assert_eq!(labels(&folder.take(2).unwrap()), [0, 2]);
    assert_eq!(folder.class_names(), CLASSES);
}

#[test]
fn a_text_that_does_not_fit_the_images_is_refused_by_name() {
    let place = tempfile::tempdir().unwrap();
    touch(place.path(), &["images/a.jpg", "images/b.jpg"]);
    let refused = |text: &[u8]| problem(annotated(place.path(), text));
    assert_eq!(refused(b"a.jpg\tn01\n"), "val_annotations.txt: gives the image b.jpg no class");
    assert_eq!(refused(b""), "val_annotations.txt: gives the image a.jpg no class");
    let both = "a.jpg\tn01\nb.jpg\tn01\n";
    let missing = refused(format!("{both}../c.jpg\tn02\n").as_bytes());
    assert_eq!(missing, "c.jpg: is missing; unpack the data set again");
    for (line, fault) in [
        ("c.jpg", "line 3 has no tab between the name of a file and a class"),
        ("c.jpg\tn99", "line 3: n99 is not one of the 3 classes of the training images"),
        ("c.jpg\t", "line 3:  is not one of the 3 classes of the training images"),
        ("a.jpg\tn02", "line 3 names a.jpg again"),
    ] {
        assert_eq!(refused(format!("{both}{line}\n").as_bytes()), format!("val_annotations.txt: {fault}"));
    }
    let long = "x".repeat(100_000);
    for line in [format!("{long}\tn01"), format!("c.jpg\t{long}"), format!("{long}\tn01\n{long}\tn01")] {
        let fault = refused(format!("{both}{line}\n").as_bytes());
        assert!(fault.contains("xxx...") && fault.len() < 300, "{} bytes", fault.len());
    }
    assert!(refused(b"a.jpg\tn01\n\xFF").contains("is not text"));
    let gone = ImageFolder::annotated(&place.path().join("images"), &place.path().join("gone.txt"), &[]);
    assert!(matches!(gone, Err(Error::Io { .. })));
}
