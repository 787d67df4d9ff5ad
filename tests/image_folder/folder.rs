//! Listing a folder: which files, in which order, with which labels.

use std::fs;
use std::path::Path;

use patchmix::Error;
use patchmix::data::ImageFolder;

use crate::folder_of;

/// Creates empty files; listing looks at names only.
pub(crate) fn touch(root: &Path, names: &[&str]) {
    for name in names {
        let path = root.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, "").unwrap();
    }
}

pub(crate) fn listed(folder: &ImageFolder) -> Vec<String> {
    (0..folder.len()).map(|position| folder.path(position).unwrap().display().to_string()).collect()
}

pub(crate) fn labels(folder: &ImageFolder) -> Vec<i64> {
    (0..folder.len()).map(|position| folder.label(position).unwrap()).collect()
}

pub(crate) fn problem(result: Result<ImageFolder, Error>) -> String {
    match result.unwrap_err() {
        Error::Data { path, problem } => format!("{}: {problem}", path.file_name().unwrap().to_string_lossy()),
        error => panic!("{error}"),
    }
}

#[test]
fn images_are_sorted_by_class_and_name_whatever_the_case_of_their_extension() {
    let place = tempfile::tempdir().unwrap();
    let names = ["b/z.jpg", "b/A.JPEG", "b/deep/er/m.WebP", "a/2.png", "a/10.Jpg", "c.d/only.x.PNG"];
    touch(place.path(), &names);
    touch(place.path(), &["README.md", "a/notes.txt", "a/._2.png", ".hidden/x.jpg", "b/Thumbs.db", "b/.cache/y.jpg"]);
    let folder = ImageFolder::open(place.path()).unwrap();
    let sorted = ["a/10.Jpg", "a/2.png", "b/A.JPEG", "b/deep/er/m.WebP", "b/z.jpg", "c.d/only.x.PNG"];
    assert_eq!(listed(&folder), sorted.map(|name| place.path().join(name).display().to_string()));
    assert_eq!(labels(&folder), [0, 0, 1, 1, 1, 2]);
    assert_eq!(folder.class_names(), ["a", "b", "c.d"]);
    assert_eq!((folder.len(), folder.classes(), folder.is_empty()), (6, 3, false));
}

#[test]
fn what_is_passed_over_is_counted() {
    let place = tempfile::tempdir().unwrap();
    touch(
        place.path(),
        &["a/1.jpg", "a/2.JFIF", "a/3.jpe", "a/b/4.GIF", "a/5.gif", "a/6.txt", "a/LICENSE", "loose.jpg"],
    );
    touch(place.path(), &["a/.DS_Store", "a/._1.jpg", "README.md"]);
    let folder = ImageFolder::open(place.path()).unwrap();
    assert_eq!(folder.len(), 3);
    let counts: Vec<_> = folder.passed_over().iter().map(|(what, count)| (what.as_str(), *count)).collect();
    assert_eq!(counts, [(".gif", 2), (".txt", 1), ("images in no class folder", 1), ("others", 1)]);
    // As many kinds as there are files: the counts stay few.
    (0..100).for_each(|number| touch(place.path(), &[&format!("a/file.{number}")]));
    let folder = ImageFolder::open(place.path()).unwrap();
    assert!(folder.passed_over().len() <= 33);
    assert_eq!(folder.passed_over().values().sum::<u64>(), 105);
}

#[test]
fn a_folder_named_like_an_image_is_a_folder() {
    let place = tempfile::tempdir().unwrap();
    touch(place.path(), &["a/x.jpg/1.png", "a/2.png", "b.jpg/3.png"]);
    let folder = ImageFolder::open(place.path()).unwrap();
    let expected = ["a/2.png", "a/x.jpg/1.png", "b.jpg/3.png"];
    assert_eq!(listed(&folder), expected.map(|name| place.path().join(name).display().to_string()));
}

#[cfg(unix)]
#[test]
fn links_that_lead_back_or_in_a_circle_end() {
    use std::os::unix::fs::symlink;
    let place = tempfile::tempdir().unwrap();
    let root = place.path().join("train");
    touch(&root, &["a/1.jpg", "a/deep/2.jpg", "b/3.jpg"]);
    for (target, link) in [(".", "a/self"), ("..", "a/up"), ("../../..", "a/deep/above"), ("/", "b/everything")] {
        symlink(target, root.join(link)).unwrap();
    }
    // Folders of other places that link to each other: every path through them would be another one.
    for one in 0..12 {
        let folder = place.path().join(format!("other/{one}"));
        fs::create_dir_all(&folder).unwrap();
        (0..12).for_each(|other| symlink(format!("../{other}"), folder.join(format!("to{other}"))).unwrap());
        touch(&folder, &["x.jpg"]);
    }
    symlink("../../other/0", root.join("a/other")).unwrap();
    symlink("..", root.join("no_class")).unwrap();
    let folder = ImageFolder::open(&root).unwrap();
    assert_eq!((folder.len(), labels(&folder).iter().filter(|&&label| label == 0).count()), (15, 14));
    assert!(folder.passed_over()["links to a folder that is listed already"] > 4);
}

#[cfg(unix)]
#[test]
fn a_file_or_folder_may_be_linked_into_several_classes() {
    use std::os::unix::fs::symlink;
    let place = tempfile::tempdir().unwrap();
    touch(place.path(), &["files/1.jpg", "files/2.jpg"]);
    let root = place.path().join("train");
    for class in ["a", "b"] {
        fs::create_dir_all(root.join(class)).unwrap();
        symlink(place.path().join("files"), root.join(class).join("all")).unwrap();
        symlink(place.path().join("files/1.jpg"), root.join(class).join("one.jpg")).unwrap();
    }
    symlink(place.path().join("files"), root.join("c")).unwrap();
    assert_eq!(labels(&ImageFolder::open(&root).unwrap()), [0, 0, 0, 1, 1, 1, 2, 2]);
}

#[cfg(unix)]
#[test]
fn odd_names_do_no_harm() {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;
    let place = tempfile::tempdir().unwrap();
    touch(place.path(), &["a/1.jpg", "a/line\nfeed.jpg", "a/\u{1b}[2J.png", "a/犬.webp"]);
    fs::write(place.path().join("a").join(OsStr::from_bytes(b"caf\xE9.jpg")), "").unwrap();
    let folder = ImageFolder::open(place.path()).unwrap();
    assert_eq!((folder.len(), folder.passed_over()["names that are not Unicode"]), (4, 1));
    // Without one of its classes the labels would be others.
    fs::create_dir(place.path().join(OsStr::from_bytes(b"\xE9"))).unwrap();
    let error = ImageFolder::open(place.path()).unwrap_err().to_string();
    assert!(error.ends_with("has a name that is not Unicode; rename it"), "{error}");
}

#[test]
fn validation_images_have_the_labels_of_the_training_images() {
    let place = tempfile::tempdir().unwrap();
    let [train, val] = ["train", "val"].map(|name| place.path().join(name));
    touch(&train, &["ant/1.jpg", "bee/1.jpg", "cat/1.jpg"]);
    touch(&val, &["cat/1.jpg", "ant/1.jpg"]);
    let train = ImageFolder::open(&train).unwrap();
    let measured = ImageFolder::with_classes(&val, train.class_names()).unwrap();
    assert_eq!(labels(&measured), [0, 2]);
    assert_eq!(measured.class_names(), train.class_names());
    // Labels follow the given order of the classes.
    let turned: Vec<String> = train.class_names().iter().rev().cloned().collect();
    let measured = ImageFolder::with_classes(&val, &turned).unwrap();
    assert_eq!(labels(&measured), [0, 2]);
    assert!(listed(&measured)[0].ends_with("cat/1.jpg"));

    touch(&val, &["dog/1.jpg"]);
    let problem = problem(ImageFolder::with_classes(&val, train.class_names()));
    assert_eq!(problem, "dog: is not one of the 3 classes of the training images");
}

#[test]
fn a_subset_keeps_the_shares_of_the_classes() {
    let place = tempfile::tempdir().unwrap();
    for (class, count) in [("a", 50), ("b", 7), ("c", 1), ("d", 42)] {
        (0..count).for_each(|number| touch(place.path(), &[&format!("{class}/{number:02}.png")]));
    }
    let folder = ImageFolder::open(place.path()).unwrap();
    let count_of = |folder: &ImageFolder, class| labels(folder).iter().filter(|&&label| label == class).count();
    for count in 1..=100 {
        let part = folder.take(count).unwrap();
        assert_eq!(part.len(), count);
        for class in 0..4 {
            let share = count_of(&folder, class) as f64 * count as f64 / 100.0;
            assert!((count_of(&part, class) as f64 - share).abs() < 1.0, "{count} of 100, class {class}");
        }
        let (all, some) = (listed(&folder), listed(&part));
        let labeled = |folder: &ImageFolder| listed(folder).into_iter().zip(labels(folder)).collect::<Vec<_>>();
        assert!(labeled(&part).iter().all(|image| labeled(&folder).contains(image)));
        assert!(some.windows(2).all(|pair| pair[0] < pair[1]) && all.len() == 100);
    }
    for count in [-1, 0, 101] {
        assert!(matches!(folder.take(count), Err(Error::Value { name: "count", .. })));
    }
}

#[test]
fn a_folder_without_images_is_an_error_that_names_it() {
    let place = tempfile::tempdir().unwrap();
    let open = |name: &str| problem(ImageFolder::open(&place.path().join(name)));
    assert_eq!(open("gone"), "gone: there is no such folder");
    touch(place.path(), &["file", "flat/1.jpg", "train/ant/1.jpg", "train/bee/notes.txt"]);
    assert!(open("file").starts_with("file: is a file"));
    assert!(open("flat").starts_with("flat: contains no folders"));
    assert_eq!(open("train"), "bee: contains no jpeg, png or webp file; remove it, or add images");
}

#[test]
fn positions_beyond_the_folder_are_refused() {
    let (_place, folder) = folder_of(3);
    for position in [-1, 3, i64::MIN, i64::MAX] {
        assert!(matches!(folder.path(position), Err(Error::Value { name: "position", .. })));
        assert!(matches!(folder.label(position), Err(Error::Value { name: "position", .. })));
    }
}
