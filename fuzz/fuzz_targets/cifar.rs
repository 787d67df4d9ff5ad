//! Any bytes are CIFAR records or a data error.
#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use patchmix::Error;
use patchmix::data::cifar_records;

fuzz_target!(|bytes: &[u8]| {
    for two_labels in [false, true] {
        match cifar_records(bytes, two_labels, Path::new("fuzz")) {
            Ok(data) => assert_eq!(data.len() as usize, bytes.len() / (3073 + usize::from(two_labels))),
            Err(Error::Data { .. }) => {}
            Err(other) => panic!("{other}"),
        }
    }
});
