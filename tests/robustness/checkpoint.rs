//! Checkpoints from arbitrary bytes and of arbitrary tensors.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use patchmix::Error;
use patchmix::checkpoint::{Checkpoint, write_atomic};
use proptest::prelude::*;
use tch::{Kind, Tensor};

use crate::any::*;
use crate::typed;

const PATH: &str = "run.safetensors";

/// The bytes of a file with this header and data.
fn file(header: &str, data: &[u8]) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), data].concat()
}

/// Reads bytes that must be refused, and returns the problem of the error.
#[track_caller]
fn problem(bytes: &[u8]) -> String {
    match typed("from_bytes", || Checkpoint::from_bytes(bytes, Path::new(PATH))) {
        Err(Error::Checkpoint { path, problem }) => {
            assert_eq!(path, PathBuf::from(PATH));
            problem
        }
        other => panic!("expected a checkpoint error, got {other:?}"),
    }
}

/// Numbers for a header to claim.
fn claims() -> impl Strategy<Value = u64> {
    prop_oneof![3 => 0..20_u64, 1 => unsigned(), 1 => (0..64_u32).prop_map(|bits| 1 << bits)]
}

/// An entry of a header: a shape, two offsets, and a dtype as a position in [`DTYPES`].
#[derive(Debug, Clone)]
struct Entry {
    shape: Vec<u64>,
    offsets: (u64, u64),
    dtype: usize,
}

/// Names and bytes of dtypes, two of which this crate does not read.
const DTYPES: [(&str, u64); 6] = [("F32", 4), ("U8", 1), ("BOOL", 1), ("I64", 8), ("F4", 1), ("C64", 8)];

fn entries() -> impl Strategy<Value = Vec<Entry>> {
    let entry = (prop::collection::vec(claims(), 0..4), (claims(), claims()), 0..DTYPES.len());
    prop::collection::vec(entry.prop_map(|(shape, offsets, dtype)| Entry { shape, offsets, dtype }), 0..4)
}

fn bytes(count: std::ops::Range<usize>) -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(any::<u8>(), count)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1024))]
    /// Headers with wrong shapes and offsets: gigantic, overlapping, backwards, outside the file.
    #[test]
    fn headers_may_claim_anything(
        entries in entries(),
        consistent in any::<bool>(),
        data in bytes(0..64),
        cut in prop::option::of(0..200_usize),
    ) {
        let mut start = 0_u64;
        let entries: Vec<String> = entries.iter().enumerate().map(|(number, Entry { shape, offsets, dtype })| {
            let (name, width) = DTYPES[*dtype];
            // Consistent offsets pass more of the checks.
            let bytes = shape.iter().fold(width, |bytes: u64, size| bytes.wrapping_mul(*size));
            let (from, to) = if consistent { (start, start.wrapping_add(bytes)) } else { *offsets };
            start = to;
            format!(r#""t{number}":{{"dtype":"{name}","shape":{shape:?},"data_offsets":[{from},{to}]}}"#)
        }).collect();
        let mut bytes = file(&format!("{{{}}}", entries.join(",")), &data);
        bytes.truncate(bytes.len() - cut.unwrap_or(0).min(bytes.len()));
        match typed("from_bytes", || Checkpoint::from_bytes(&bytes, Path::new(PATH))) {
            Ok(checkpoint) => {
                // The tensors are no larger than the file.
                let size = |tensor: &Tensor| tensor.numel() * tensor.kind().elt_size_in_bytes();
                prop_assert!(checkpoint.tensors.values().map(size).sum::<usize>() <= bytes.len());
            }
            Err(Error::Checkpoint { .. }) => {}
            Err(other) => prop_assert!(false, "{}", other),
        }
    }

    #[test]
    fn any_bytes_are_a_checkpoint_or_an_error(
        bytes in bytes(0..300),
        length in 0..300_u64,
        plausible_length in any::<bool>(),
    ) {
        let mut bytes = bytes;
        if let (true, Some(head)) = (plausible_length, bytes.get_mut(..8)) {
            head.copy_from_slice(&length.to_le_bytes());
        }
        match typed("from_bytes", || Checkpoint::from_bytes(&bytes, Path::new(PATH))) {
            Ok(_) | Err(Error::Checkpoint { .. }) => {}
            Err(other) => prop_assert!(false, "{}", other),
        }
    }

    #[test]
    fn any_tensors_come_back_as_they_were_or_are_refused(
        tensors in prop::collection::vec((".{0,12}", tensors()), 0..4),
        text in prop::collection::vec((".{0,12}", ".{0,12}"), 0..3),
    ) {
        let mut checkpoint = Checkpoint::default();
        let tensors = tensors.iter().map(|(name, tensor)| (name.clone(), tensor.make()));
        typed("insert_all", || checkpoint.insert_all("part", tensors));
        checkpoint.metadata = text.into_iter().collect();
        if let Ok(bytes) = typed("to_bytes", || checkpoint.to_bytes()) {
            let read = typed("from_bytes", || Checkpoint::from_bytes(&bytes, Path::new(PATH))).unwrap();
            prop_assert_eq!(&read.metadata, &checkpoint.metadata);
            prop_assert_eq!(read.tensors.len(), checkpoint.tensors.len());
            for (name, tensor) in typed("part", || read.part("part")) {
                let saved = &checkpoint.tensors[&format!("part.{name}")];
                prop_assert_eq!((tensor.size(), tensor.kind()), (saved.size(), saved.kind()));
                // Compare bytes, because NaN does not equal itself.
                let bytes = |tensor: &Tensor| with(&name, tensor.shallow_clone()).to_bytes().unwrap();
                prop_assert_eq!(bytes(&tensor), bytes(saved));
            }
        }
    }

    #[test]
    fn restore_takes_any_tensors(saved in mostly(&[2, 3]), own in mostly(&[2, 3])) {
        let (tensor, variable) = (saved.make(), own.make());
        let mut checkpoint = Checkpoint::default();
        checkpoint.insert_all("model", [("a".to_owned(), tensor)]);
        let variables = HashMap::from([("a".to_owned(), variable)]);
        if typed("restore", || checkpoint.restore("model", variables, Path::new(PATH))).is_ok() {
            prop_assert!(saved.is_small() && own.is_small());
        }
    }
}

/// With overflow checks, the sum of these offsets and the header's length once panicked.
#[test]
fn numbers_larger_than_any_file_are_refused() {
    let max_bytes = (u64::MAX >> 3) as usize; // of a tensor whose bits fit a u64
    let entry = |number: usize| {
        let (from, to) = (number * max_bytes, (number + 1) * max_bytes);
        format!(r#""t{number}":{{"dtype":"U8","shape":[{max_bytes}],"data_offsets":[{from},{to}]}}"#)
    };
    let entries: Vec<String> = (0..8).map(entry).collect();
    assert!(problem(&file(&format!("{{{}}}", entries.join(",")), &[])).contains("larger than any file"));
    // With a size of 0, sizes beyond an i64 take no bytes; they are refused all the same.
    for shape in ["[9223372036854775808,0]", "[4611686018427387904,3,0]"] {
        problem(&file(&format!(r#"{{"a":{{"dtype":"F32","shape":{shape},"data_offsets":[0,0]}}}}"#), &[]));
    }
    // Names and text may have any digits.
    let text = r#"{"__metadata__":{"seed\"":"18446744073709551615"}}"#;
    let read = Checkpoint::from_bytes(&file(text, &[]), Path::new(PATH)).unwrap();
    assert_eq!(read.metadata["seed\""], "18446744073709551615");
}

#[test]
fn invalid_booleans_are_refused() {
    let with = |byte| file(r#"{"a":{"dtype":"BOOL","shape":[2],"data_offsets":[0,2]}}"#, &[1, byte]);
    assert!(Checkpoint::from_bytes(&with(0), Path::new(PATH)).is_ok());
    assert!(problem(&with(2)).contains("neither true nor false"));
}

/// A checkpoint of one tensor.
fn with(name: &str, tensor: Tensor) -> Checkpoint {
    Checkpoint { tensors: HashMap::from([(name.to_owned(), tensor)]), ..Default::default() }
}

#[test]
fn what_the_format_does_not_support_is_not_written() {
    let ones = || Tensor::ones([1], (Kind::Float, CPU));
    assert!(matches!(with("__metadata__", ones()).to_bytes(), Err(Error::Checkpoint { .. })));
    assert!(matches!(with("a", Tensor::new()).to_bytes(), Err(Error::Undefined { name: "tensor" })));
    let complex = ones().to_kind(Kind::ComplexFloat);
    assert!(matches!(with("a", complex).to_bytes(), Err(Error::Kind { actual: Kind::ComplexFloat, .. })));
    let folder = tempfile::tempdir().unwrap();
    for path in [Path::new(""), Path::new("/"), Path::new("\0"), folder.path()] {
        assert!(matches!(typed("write_atomic", || write_atomic(path, b"x")), Err(Error::Io { .. })), "{path:?}");
        assert!(typed("save", || with("a", ones()).save(path)).is_err());
        assert!(typed("load", || Checkpoint::load(path)).is_err());
    }
}

/// A device may have no end, and reading a pipe could block forever.
#[cfg(unix)]
#[test]
fn only_regular_files_are_read() {
    for path in ["/dev/zero", "/"] {
        let error = Checkpoint::load(Path::new(path)).unwrap_err();
        assert!(matches!(error, Error::Checkpoint { path: named, .. } if named == Path::new(path)));
    }
}

/// A copy would silently truncate the values.
#[test]
fn floating_point_values_are_not_restored_to_integers() {
    let mut checkpoint = Checkpoint::default();
    checkpoint.insert_all("model", [("a".to_owned(), Tensor::from_slice(&[0.5_f32, 1.5]))]);
    let restore = |variable: &Tensor| {
        checkpoint.restore("model", HashMap::from([("a".to_owned(), variable.shallow_clone())]), Path::new(PATH))
    };
    let integers = Tensor::zeros([2], (Kind::Int64, CPU));
    assert!(matches!(restore(&integers), Err(Error::Checkpoint { .. })));
    assert_eq!(integers.sum(Kind::Int64).int64_value(&[]), 0);
    let double = Tensor::zeros([2], (Kind::Double, CPU));
    restore(&double).unwrap();
    assert_eq!(Vec::<f64>::try_from(double).unwrap(), [0.5, 1.5]);
    assert!(matches!(restore(&Tensor::new()), Err(Error::Undefined { name: "variable" })));
}
