use std::fs;
use std::path::PathBuf;

use proptest::prelude::*;
use tempfile::TempDir;

use super::*;
use crate::error::Error;

/// CIFAR-10 with 4 records a file, and CIFAR-100 with 6 and 3.
const SMALL10: Format = Format { train_records: 4, test_records: 4, ..CIFAR10 };
const SMALL100: Format = Format { train_records: 6, test_records: 3, ..CIFAR100 };

/// The pixel that record `record` of file `file` has at `place` of its 3,072.
fn pixel(file: usize, record: usize, place: usize) -> u8 {
    (file * 31 + record * 7 + place) as u8
}

/// The bytes of a file of `records` records, with label bytes `record % values`.
fn file_bytes(format: &Format, file: usize, records: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    for record in 0..records {
        bytes.extend(format.labels.iter().map(|(_, values)| (file + record) as u8 % values));
        bytes.extend((0..PIXELS).map(|place| pixel(file, record, place)));
    }
    bytes
}

/// A folder with all files of a small data set.
fn small_set(format: &Format) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (file, name) in format.train_files.iter().enumerate() {
        fs::write(folder.path().join(name), file_bytes(format, file, format.train_records as usize)).unwrap();
    }
    fs::write(folder.path().join(format.test_file), file_bytes(format, 9, format.test_records as usize)).unwrap();
    folder
}

/// The path and the problem of the error that reading the training images ends with.
fn failure(format: &Format, folder: &Path) -> (PathBuf, String) {
    match read(format, folder, Split::Train, None) {
        Err(Error::Data { path, problem }) => {
            assert!(!problem.contains('\n'));
            (path, problem)
        }
        other => panic!("expected a data error, got {other:?}"),
    }
}

#[test]
fn every_pixel_and_label_is_where_it_belongs() {
    let folder = small_set(&SMALL10);
    for (split, files) in [(Split::Train, vec![0, 1, 2, 3, 4]), (Split::Test, vec![9])] {
        let data = read(&SMALL10, folder.path(), split, None).unwrap();
        assert_eq!(data.images.size(), [4 * files.len() as i64, 3, 32, 32]);
        assert_eq!((data.images.kind(), data.labels.kind()), (Kind::Uint8, Kind::Int64));
        let mut pixels = Vec::new();
        let mut labels = Vec::new();
        for file in files {
            for record in 0..4 {
                pixels.extend((0..PIXELS).map(|place| pixel(file, record, place)));
                labels.push((file + record) as i64 % 10);
            }
        }
        assert_eq!(Vec::<u8>::try_from(data.images.flatten(0, -1)).unwrap(), pixels);
        assert_eq!(Vec::<i64>::try_from(&data.labels).unwrap(), labels);
    }
}

#[test]
fn cifar100_takes_the_fine_label() {
    let folder = small_set(&SMALL100);
    let data = read(&SMALL100, folder.path(), Split::Train, None).unwrap();
    assert_eq!((data.len(), data.classes()), (6, 100));
    assert_eq!(Vec::<i64>::try_from(&data.labels).unwrap(), [0, 1, 2, 3, 4, 5]);
    assert_eq!(data.images.int64_value(&[5, 2, 31, 30]), i64::from(pixel(0, 5, PIXELS - 2)));
    assert_eq!((data.class_names[0].as_str(), data.class_names[42].as_str()), ("apple", "leopard"));
    fs::write(
        folder.path().join("fine_label_names.txt"),
        (0..100).map(|n| format!("kind {n}\r\n")).collect::<String>(),
    )
    .unwrap();
    let data = read(&SMALL100, folder.path(), Split::Test, None).unwrap();
    assert_eq!((data.len(), data.class_names[42].as_str()), (3, "kind 42"));
}

#[test]
fn the_folder_of_the_archive_is_found() {
    let outer = tempfile::tempdir().unwrap();
    let inner = small_set(&SMALL10);
    fs::rename(inner.path(), outer.path().join("cifar-10-batches-bin")).unwrap();
    assert_eq!(read(&SMALL10, outer.path(), Split::Train, None).unwrap().len(), 20);
}

#[test]
fn a_limit_reads_only_the_files_it_needs() {
    let folder = small_set(&SMALL10);
    for name in &SMALL10.train_files[2..] {
        fs::remove_file(folder.path().join(name)).unwrap();
    }
    for limit in [1, 4, 5, 8] {
        let data = read(&SMALL10, folder.path(), Split::Train, Some(limit)).unwrap();
        assert_eq!((data.len(), data.labels.size1().unwrap()), (limit, limit));
    }
    let error = read(&SMALL10, folder.path(), Split::Train, Some(9)).unwrap_err();
    assert!(matches!(&error, Error::Data { path, .. } if path.ends_with("data_batch_3.bin")), "{error}");
    for limit in [-1, 0, 21] {
        let error = read(&SMALL10, folder.path(), Split::Train, Some(limit)).unwrap_err();
        assert!(matches!(error, Error::Value { name: "limit", actual, .. } if actual == limit as f64));
    }
}

#[test]
fn class_names_are_read_or_built_in() {
    let folder = small_set(&SMALL10);
    let names = |folder: &TempDir| read(&SMALL10, folder.path(), Split::Test, None).map(|data| data.class_names);
    assert_eq!(names(&folder).unwrap()[9], "truck");
    let path = folder.path().join("batches.meta.txt");
    fs::write(&path, "a\nb\nc\nd\ne\nf\ng\nh\ni\nj\n\n").unwrap();
    assert_eq!(names(&folder).unwrap()[9], "j");
    for bad in [&b"a\nb\n"[..], b"", &[0xFF; 20]] {
        fs::write(&path, bad).unwrap();
        assert!(matches!(names(&folder), Err(Error::Data { path: named, .. }) if named == path));
    }
}

#[test]
fn a_file_of_the_wrong_length_is_named() {
    let whole = file_bytes(&SMALL10, 1, 4);
    let longer = [&whole[..], &[0]].concat();
    for (bytes, words) in [
        (&whole[..0], "is empty"),
        (&whole[..1], "is truncated"),
        (&whole[..3 * 3073], "is truncated: 9219 bytes of 12292"),
        (&whole[..whole.len() - 1], "is truncated"),
        (&longer, "is too long: 12293 bytes where CIFAR-10 has 12292"),
    ] {
        let folder = small_set(&SMALL10);
        fs::write(folder.path().join("data_batch_2.bin"), bytes).unwrap();
        let (path, problem) = failure(&SMALL10, folder.path());
        assert!(path.ends_with("data_batch_2.bin") && problem.starts_with(words), "{problem}");
    }
}

#[test]
fn a_missing_file_is_named() {
    let folder = small_set(&SMALL10);
    let path = folder.path().join("data_batch_4.bin");
    fs::remove_file(&path).unwrap();
    let (named, problem) = failure(&SMALL10, folder.path());
    assert!(named == path && problem.starts_with("is missing"), "{problem}");
    fs::write(folder.path().join("data_batch_4.bin.xz"), "x").unwrap();
    assert!(failure(&SMALL10, folder.path()).1.contains("xz -dk"));
    fs::create_dir(&path).unwrap();
    let (named, problem) = failure(&SMALL10, folder.path());
    assert!(named == path && problem.starts_with("is not a file"), "{problem}");
}

#[test]
fn a_label_out_of_range_is_named_with_its_record() {
    for (format, file, place, words) in [
        (&SMALL10, "data_batch_1.bin", 2 * 3073, "label 200 in record 2 "),
        (&SMALL100, "train.bin", 3074, "coarse label 200 in record 1 "),
        (&SMALL100, "train.bin", 3075, "fine label 200 in record 1 "),
    ] {
        let folder = small_set(format);
        let path = folder.path().join(file);
        let mut bytes = fs::read(&path).unwrap();
        bytes[place] = 200;
        fs::write(&path, bytes).unwrap();
        let (named, problem) = failure(format, folder.path());
        assert!(named == path && problem.starts_with(words), "{problem}");
    }
}

#[test]
fn a_wrong_folder_is_told_apart() {
    for (entry, words) in [
        ("data_batch_1.bin.xz", "xz -dk"),
        ("cifar-10-batches-bin/test_batch.bin.xz", "xz -dk"),
        ("data_batch_3.bin.gz", "gunzip -k"),
        ("cifar-10-binary.tar.gz", "tar -xzf cifar-10-binary.tar.gz"),
        ("data_batch_1", "for Python"),
        ("cifar-10-batches-py/data_batch_1", "for Python"),
        ("cifar-10-python.tar.gz", "for Python"),
        ("train.bin", "contains none of the files of CIFAR-10"),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(entry);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, "x").unwrap();
        let (named, problem) = failure(&CIFAR10, folder.path());
        assert!(named == folder.path() && problem.contains(words), "{entry}: {problem}");
    }
    let folder = tempfile::tempdir().unwrap();
    let (named, problem) = failure(&CIFAR100, &folder.path().join("nowhere"));
    assert!(named.ends_with("nowhere") && problem.starts_with("there is no such folder"), "{problem}");
    let archive = folder.path().join("cifar-100-binary.tar.gz");
    fs::write(&archive, "x").unwrap();
    let (named, problem) = failure(&CIFAR100, &archive);
    assert!(named == archive && problem.starts_with("is a file"), "{problem}");
}

/// Bytes of which label bytes are mostly in range: a short pattern repeated, or zeros.
fn plausible_bytes() -> impl Strategy<Value = Vec<u8>> {
    let pattern = prop::collection::vec(prop_oneof![1 => any::<u8>(), 3 => 0..10_u8], 0..40);
    (pattern, 0..9300_usize).prop_map(|(pattern, length)| match pattern.is_empty() {
        true => vec![0; length],
        false => pattern.into_iter().cycle().take(length).collect(),
    })
}

proptest! {
    #[test]
    fn any_bytes_give_records_or_an_error(
        bytes in prop::collection::vec(any::<u8>(), 0..10_000),
        small_labels in any::<bool>(),
        count in 0_i64..4,
    ) {
        let mut bytes = bytes;
        for format in [&CIFAR10, &CIFAR100] {
            let length = format.record_length();
            if small_labels {
                bytes.iter_mut().step_by(length).for_each(|byte| *byte %= 10);
                bytes.iter_mut().skip(1).step_by(length).for_each(|byte| *byte %= 100);
            }
            let mut labels = Vec::new();
            let result = read_records(format, &mut &bytes[..], Path::new("a file"), count, &mut labels);
            let enough = bytes.len() >= count as usize * length;
            match result {
                Ok(pixels) => {
                    prop_assert!(enough);
                    prop_assert_eq!(pixels.len(), count as usize * PIXELS);
                    prop_assert_eq!(labels.len() as i64, count);
                }
                Err(Error::Data { problem, .. }) => {
                    prop_assert_eq!(problem.starts_with("ended early"), !enough);
                    prop_assert!(!(enough && small_labels));
                }
                Err(other) => prop_assert!(false, "{other}"),
            }
        }
    }

    /// Truncated anywhere, with any bytes: images and labels in range, or an error that names the file.
    #[test]
    fn any_bytes_are_a_dataset_or_an_error(bytes in plausible_bytes(), two_labels in any::<bool>()) {
        let path = Path::new("data_batch_1.bin");
        match cifar_records(&bytes, two_labels, path) {
            Ok(data) => {
                prop_assert_eq!(data.len() as usize, bytes.len() / (3073 + usize::from(two_labels)));
                let classes = if two_labels { 100 } else { 10 };
                prop_assert!(data.is_empty() || data.labels.max().int64_value(&[]) < classes);
            }
            Err(Error::Data { path: named, .. }) => prop_assert_eq!(named, path),
            Err(other) => prop_assert!(false, "{}", other),
        }
    }
}
