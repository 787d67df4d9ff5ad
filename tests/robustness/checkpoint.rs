//! Checkpoints: any bytes in, any tensors out.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use patchmix::Error;
use patchmix::checkpoint::{Checkpoint, write_whole};
use proptest::prelude::*;
use tch::{Kind, Tensor};

use crate::any::*;
use crate::typed;

const PATH: &str = "run.safetensors";

/// A file of a header and some data.
fn file(header: &str, data: &[u8]) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), data].concat()
}

/// One that is refused as damaged or foreign, and what the error says.
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

/// Numbers that a header may claim.
fn claims() -> impl Strategy<Value = u64> {
    prop_oneof![3 => 0..20_u64, 1 => unsigned(), 1 => (0..64_u32).prop_map(|bits| 1 << bits)]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1024))]
    /// Headers that lie about shapes and offsets: gigantic, overlapping, backwards, out of the file.
    #[test]
    fn headers_may_claim_anything(
        tensors in prop::collection::vec((prop::collection::vec(claims(), 0..4), claims(), claims(), 0..6_usize), 0..4),
        consistent in any::<bool>(), data in prop::collection::vec(any::<u8>(), 0..64), cut in prop::option::of(0..200_usize),
    ) {
        let mut start = 0_u64;
        let entries: Vec<String> = tensors.iter().enumerate().map(|(number, (shape, from, to, dtype))| {
            let (name, width) = [("F32", 4), ("U8", 1), ("BOOL", 1), ("I64", 8), ("F4", 1), ("C64", 8)][*dtype];
            // Offsets that fit the shape get further.
            let bytes = shape.iter().fold(width, |bytes: u64, size| bytes.wrapping_mul(*size));
            let (from, to) = if consistent { (start, start.wrapping_add(bytes)) } else { (*from, *to) };
            start = to;
            format!(r#""t{number}":{{"dtype":"{name}","shape":{shape:?},"data_offsets":[{from},{to}]}}"#)
        }).collect();
        let mut bytes = file(&format!("{{{}}}", entries.join(",")), &data);
        bytes.truncate(bytes.len() - cut.unwrap_or(0).min(bytes.len()));
        match typed("from_bytes", || Checkpoint::from_bytes(&bytes, Path::new(PATH))) {
            Ok(checkpoint) => {
                // All that was made is in the file.
                let held: usize = checkpoint.tensors.values().map(|tensor| tensor.numel() * tensor.kind().elt_size_in_bytes()).sum();
                prop_assert!(held <= bytes.len());
            }
            Err(Error::Checkpoint { .. }) => {}
            Err(other) => prop_assert!(false, "{}", other),
        }
    }

    #[test]
    fn any_bytes_are_a_checkpoint_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..300), length in 0..300_u64, honest in any::<bool>()) {
        let mut bytes = bytes;
        if let (true, Some(head)) = (honest, bytes.get_mut(..8)) {
            head.copy_from_slice(&length.to_le_bytes());
        }
        match typed("from_bytes", || Checkpoint::from_bytes(&bytes, Path::new(PATH))) {
            Ok(_) | Err(Error::Checkpoint { .. }) => {}
            Err(other) => prop_assert!(false, "{}", other),
        }
    }

    #[test]
    fn any_tensors_come_back_as_they_were_or_are_refused(
        tensors in prop::collection::vec((".{0,12}", tensors()), 0..4), text in prop::collection::vec((".{0,12}", ".{0,12}"), 0..3),
    ) {
        let mut checkpoint = Checkpoint::default();
        typed("insert_all", || checkpoint.insert_all("part", tensors.iter().map(|(name, tensor)| (name.clone(), tensor.make()))));
        checkpoint.metadata = text.into_iter().collect();
        if let Ok(bytes) = typed("to_bytes", || checkpoint.to_bytes()) {
            let read = typed("from_bytes", || Checkpoint::from_bytes(&bytes, Path::new(PATH))).unwrap();
            prop_assert_eq!(&read.metadata, &checkpoint.metadata);
            prop_assert_eq!(read.tensors.len(), checkpoint.tensors.len());
            for (name, tensor) in typed("part", || read.part("part")) {
                let saved = &checkpoint.tensors[&format!("part.{name}")];
                prop_assert_eq!((tensor.size(), tensor.kind()), (saved.size(), saved.kind()));
                // Not a number is not itself: the bytes are compared.
                let again = Checkpoint { tensors: HashMap::from([(name.clone(), tensor)]), ..Default::default() };
                let first = Checkpoint { tensors: HashMap::from([(name, saved.shallow_clone())]), ..Default::default() };
                prop_assert_eq!(again.to_bytes().unwrap(), first.to_bytes().unwrap());
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

/// In a build that checks for overflow, the sum of these offsets and the header's length was a panic.
#[test]
fn numbers_larger_than_any_file_are_refused() {
    let most = (u64::MAX >> 3) as usize; // bytes of the largest tensor whose bits can be counted
    let entry = |number: usize| {
        let (from, to) = (number * most, (number + 1) * most);
        format!(r#""t{number}":{{"dtype":"U8","shape":[{most}],"data_offsets":[{from},{to}]}}"#)
    };
    let entries: Vec<String> = (0..8).map(entry).collect();
    assert!(problem(&file(&format!("{{{}}}", entries.join(",")), &[])).contains("larger than any file"));
    // Sizes beyond an i64 beside a size of 0 make no bytes, and no tensor either.
    for shape in ["[9223372036854775808,0]", "[4611686018427387904,3,0]"] {
        problem(&file(&format!(r#"{{"a":{{"dtype":"F32","shape":{shape},"data_offsets":[0,0]}}}}"#), &[]));
    }
    // In text and in names, digits are free.
    let text = r#"{"__metadata__":{"seed\"":"18446744073709551615"}}"#;
    let read = Checkpoint::from_bytes(&file(text, &[]), Path::new(PATH)).unwrap();
    assert_eq!(read.metadata["seed\""], "18446744073709551615");
}

#[test]
fn truth_values_that_are_neither_are_refused() {
    let with = |byte| file(r#"{"a":{"dtype":"BOOL","shape":[2],"data_offsets":[0,2]}}"#, &[1, byte]);
    assert!(Checkpoint::from_bytes(&with(0), Path::new(PATH)).is_ok());
    assert!(problem(&with(2)).contains("neither true nor false"));
}

#[test]
fn what_the_format_cannot_hold_is_not_written() {
    let with =
        |name: &str, tensor| Checkpoint { tensors: HashMap::from([(name.to_owned(), tensor)]), ..Default::default() };
    let ones = || Tensor::ones([1], (Kind::Float, CPU));
    assert!(matches!(with("__metadata__", ones()).to_bytes(), Err(Error::Checkpoint { .. })));
    assert!(matches!(with("a", Tensor::new()).to_bytes(), Err(Error::Undefined { name: "tensor" })));
    let complex = ones().to_kind(Kind::ComplexFloat);
    assert!(matches!(with("a", complex).to_bytes(), Err(Error::Kind { actual: Kind::ComplexFloat, .. })));
    let folder = tempfile::tempdir().unwrap();
    for path in [Path::new(""), Path::new("/"), Path::new("\0"), folder.path()] {
        assert!(matches!(typed("write_whole", || write_whole(path, b"x")), Err(Error::Io { .. })), "{path:?}");
        assert!(typed("save", || with("a", ones()).save(path)).is_err());
        assert!(typed("load", || Checkpoint::load(path)).is_err());
    }
}

/// A device may have no end, and reading a pipe would wait for ever.
#[cfg(unix)]
#[test]
fn only_a_file_is_read() {
    for path in ["/dev/zero", "/"] {
        let error = Checkpoint::load(Path::new(path)).unwrap_err();
        assert!(matches!(error, Error::Checkpoint { path: named, .. } if named == Path::new(path)));
    }
}

/// Copying would have cut them off without a word.
#[test]
fn numbers_of_another_sort_are_not_restored() {
    let mut checkpoint = Checkpoint::default();
    checkpoint.insert_all("model", [("a".to_owned(), Tensor::from_slice(&[0.5_f32, 1.5]))]);
    let restore = |variable: &Tensor| {
        checkpoint.restore("model", HashMap::from([("a".to_owned(), variable.shallow_clone())]), Path::new(PATH))
    };
    let whole = Tensor::zeros([2], (Kind::Int64, CPU));
    assert!(matches!(restore(&whole), Err(Error::Checkpoint { .. })));
    assert_eq!(whole.sum(Kind::Int64).int64_value(&[]), 0);
    let double = Tensor::zeros([2], (Kind::Double, CPU));
    restore(&double).unwrap();
    assert_eq!(Vec::<f64>::try_from(double).unwrap(), [0.5, 1.5]);
    assert!(matches!(restore(&Tensor::new()), Err(Error::Undefined { name: "variable" })));
}
