//! Any bytes are a JPEG file with a size, or a problem in words.
#![no_main]

use libfuzzer_sys::fuzz_target;
use patchmix::data::jpeg_dimensions;

fuzz_target!(|bytes: &[u8]| {
    match jpeg_dimensions(bytes) {
        Ok(_) => {}
        Err(problem) => assert!(!problem.is_empty()),
    }
});
