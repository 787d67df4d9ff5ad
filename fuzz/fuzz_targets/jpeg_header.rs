//! Any bytes are a JPEG file of a size within the limits, or a problem in words.
#![no_main]

use libfuzzer_sys::fuzz_target;
use patchmix::data::jpeg_dimensions;

fuzz_target!(|bytes: &[u8]| {
    match jpeg_dimensions(bytes) {
        Ok((width, height)) => assert!(width <= 65_535 && height <= 65_535),
        Err(problem) => assert!(!problem.is_empty()),
    }
});
