use std::fs;
use std::path::PathBuf;

use proptest::prelude::*;
use tempfile::TempDir;

use super::*;
use crate::error::Error;

/// Images in the files of a small set: training, test, unlabeled.
const COUNTS: [i64; 3] = [3, 2, 4];

/// The value of a pixel of an image of file `file`; `row` and `column` are not interchangeable.
fn pixel(file: i64, image: i64, channel: i64, row: i64, column: i64) -> u8 {
    (101 * file + 37 * image + 67 * channel + 3 * row + 5 * column) as u8
}

/// The bytes of a file: image by image, channel by channel, column by column.
fn image_bytes(file: i64, images: i64) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (image, channel) in (0..images).flat_map(|image| (0..3).map(move |channel| (image, channel))) {
        for (column, row) in (0..SIZE).flat_map(|column| (0..SIZE).map(move |row| (column, row))) {
            bytes.push(pixel(file, image, channel, row, column));
        }
    }
    bytes
}

fn label_bytes(images: i64) -> Vec<u8> {
    (0..images).map(|image| (10 - 4 * image) as u8).collect()
}

/// A folder with all files of a small data set.
fn small_set() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (file, name) in [TRAIN[0], TEST[0], UNLABELED].into_iter().enumerate() {
        fs::write(folder.path().join(name), image_bytes(file as i64, COUNTS[file])).unwrap();
    }
    fs::write(folder.path().join(TRAIN[1]), label_bytes(COUNTS[0])).unwrap();
    fs::write(folder.path().join(TEST[1]), label_bytes(COUNTS[1])).unwrap();
    folder
}

/// Expects image `image` of file `file` as rows of pixels.
fn assert_image(images: &Tensor, place: i64, file: i64, image: i64) {
    let pixels = Vec::<u8>::try_from(images.get(place).flatten(0, -1)).unwrap();
    let rows = (0..3).flat_map(|channel| (0..SIZE).map(move |row| (channel, row)));
    let expected: Vec<u8> =
        rows.flat_map(|(channel, row)| (0..SIZE).map(move |column| pixel(file, image, channel, row, column))).collect();
    assert!(pixels == expected, "image {image} of file {file}");
}

fn failure<T: std::fmt::Debug>(result: Result<T>) -> (PathBuf, String) {
    match result {
        Err(Error::Data { path, problem }) => {
            assert!(!problem.contains('\n'));
            (path, problem)
        }
        other => panic!("expected a data error, got {other:?}"),
    }
}

#[test]
fn images_stored_by_column_are_read_by_row() {
    let folder = small_set();
    for (split, file, labels) in [(Split::Train, 0, vec![9, 5, 1]), (Split::Test, 1, vec![9, 5])] {
        let data = stl10(folder.path(), split, None).unwrap();
        assert_eq!(data.images.size(), [labels.len() as i64, 3, 96, 96]);
        (0..data.len()).for_each(|image| assert_image(&data.images, image, file, image));
        assert_eq!(Vec::<i64>::try_from(&data.labels).unwrap(), labels);
        assert_eq!((data.classes(), data.class_names[7].as_str()), (10, "monkey"));
    }
}

/// Every chunk of a file in its place: more images than are read at once.
#[test]
fn files_longer_than_a_chunk_are_read_in_order() {
    let folder = small_set();
    let count = CHUNK + 3;
    let bytes: Vec<u8> = (0..count).flat_map(|image| vec![(image % 251) as u8; PIXELS as usize]).collect();
    fs::write(folder.path().join(UNLABELED), bytes).unwrap();
    let images = stl10_unlabeled(folder.path(), None).unwrap();
    assert_eq!(images.size()[0], COUNTS[0] + count);
    for image in [0, 1, CHUNK - 1, CHUNK, CHUNK + 2] {
        let image_read = images.get(COUNTS[0] + image);
        let value = image % 251;
        assert_eq!((image_read.min().int64_value(&[]), image_read.max().int64_value(&[])), (value, value));
    }
}

#[test]
fn training_images_come_before_the_unlabeled_ones() {
    let folder = small_set();
    let all = stl10_unlabeled(folder.path(), None).unwrap();
    assert_eq!(all.size(), [7, 3, 96, 96]);
    (0..3).for_each(|image| assert_image(&all, image, 0, image));
    (0..4).for_each(|image| assert_image(&all, 3 + image, 2, image));
    for limit in 1..=7 {
        assert_eq!(stl10_unlabeled(folder.path(), Some(limit)).unwrap(), all.narrow(0, 0, limit));
    }
    let some = stl10(folder.path(), Split::Train, Some(2)).unwrap();
    assert_eq!((some.images, some.labels), (all.narrow(0, 0, 2), Tensor::from_slice(&[9_i64, 5])));
    for limit in [-1, 0, 8] {
        let error = stl10_unlabeled(folder.path(), Some(limit)).unwrap_err();
        assert!(matches!(error, Error::Value { name: "limit", actual, .. } if actual == limit as f64));
    }
    assert!(matches!(stl10(folder.path(), Split::Test, Some(3)), Err(Error::Value { name: "limit", .. })));
}

#[test]
fn the_folder_of_the_archive_is_found_and_others_are_told_apart() {
    let (outer, inner) = (tempfile::tempdir().unwrap(), small_set());
    fs::rename(inner.path(), outer.path().join("stl10_binary")).unwrap();
    assert_eq!(stl10(outer.path(), Split::Train, None).unwrap().len(), 3);
    for (entry, words) in [
        ("train_X.bin.gz", "gunzip -k"),
        ("stl10_binary.tar.gz", "tar -xzf stl10_binary.tar.gz"),
        ("train.mat", "STL-10 for Matlab"),
        ("stl10_matlab.tar.gz", "STL-10 for Matlab"),
        ("data_batch_1.bin", "none of the files of STL-10"),
    ] {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join(entry), "x").unwrap();
        let (named, problem) = failure(stl10_unlabeled(folder.path(), None));
        assert!(named == folder.path() && problem.contains(words), "{entry}: {problem}");
    }
}

#[test]
fn files_that_do_not_fit_are_named() {
    let whole = image_bytes(0, 3);
    for (name, bytes, words) in [
        (TRAIN[0], &whole[..0], "is empty"),
        (TRAIN[0], &whole[..whole.len() - 1], "does not end with a whole image: 82943 bytes"),
        (TRAIN[0], &whole[..2 * PIXELS as usize], "has 3 labels for the 2 images of train_X.bin"),
        (TRAIN[1], &[1, 2], "has 2 labels for the 3 images"),
        (TRAIN[1], &[1, 11, 2], "label 11 of image 1 (counted from 0) is not in 1..=10"),
        (TRAIN[1], &[0, 1, 2], "label 0 of image 0"),
    ] {
        let folder = small_set();
        fs::write(folder.path().join(name), bytes).unwrap();
        let (path, problem) = failure(stl10(folder.path(), Split::Train, None));
        let named = if words.contains("labels for") { TRAIN[1] } else { name };
        assert!(path.ends_with(named) && problem.starts_with(words), "{problem}");
    }
    let folder = small_set();
    fs::remove_file(folder.path().join(UNLABELED)).unwrap();
    let (path, problem) = failure(stl10_unlabeled(folder.path(), None));
    assert!(path.ends_with(UNLABELED) && problem.starts_with("is missing"), "{problem}");
    fs::create_dir(&path).unwrap();
    assert!(failure(stl10_unlabeled(folder.path(), None)).1.starts_with("is not a file"));
    fs::write(folder.path().join("class_names.txt"), "one\ntwo\n").unwrap();
    assert!(failure(stl10(folder.path(), Split::Test, None)).1.starts_with("contains 2 class names instead of 10"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Files of any lengths and labels: images with a label in range each, or an error that names a file.
    #[test]
    fn any_files_are_a_data_set_or_an_error(
        length in prop_oneof![3 => (0..4_usize).prop_map(|images| images * PIXELS as usize), 1 => 0..90_000_usize],
        labels in prop::collection::vec(prop_oneof![1 => any::<u8>(), 6 => 1..=10_u8], 0..4),
        limit in prop::option::of(1..4_i64),
    ) {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join(TRAIN[0]), vec![7; length]).unwrap();
        fs::write(folder.path().join(TRAIN[1]), &labels).unwrap();
        let images = length / PIXELS as usize;
        let fits = images > 0 && length == images * PIXELS as usize && images == labels.len();
        match stl10(folder.path(), Split::Train, limit) {
            Ok(data) => {
                prop_assert!(fits);
                prop_assert_eq!(data.len(), limit.unwrap_or(images as i64));
                let read = labels.iter().take(data.len() as usize).map(|label| i64::from(*label) - 1);
                prop_assert_eq!(Vec::<i64>::try_from(&data.labels).unwrap(), read.collect::<Vec<_>>());
                prop_assert!(data.labels.min().int64_value(&[]) >= 0 && data.labels.max().int64_value(&[]) < 10);
            }
            Err(Error::Data { path, .. }) => {
                let in_range = labels.iter().all(|label| (1..=10).contains(label));
                prop_assert!(!(fits && in_range) && path.starts_with(folder.path()));
            }
            Err(Error::Value { name: "limit", .. }) => prop_assert!(fits && limit > Some(images as i64)),
            Err(other) => prop_assert!(false, "{other}"),
        }
    }
}
