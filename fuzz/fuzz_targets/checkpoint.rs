//! Any bytes are a checkpoint or a checkpoint error. A checkpoint is no larger than its file and can be written again.
#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use patchmix::Error;
use patchmix::checkpoint::Checkpoint;

fuzz_target!(|bytes: &[u8]| {
    match Checkpoint::from_bytes(bytes, Path::new("fuzz")) {
        Ok(checkpoint) => {
            let tensors = checkpoint.tensors.values().filter(|tensor| !tensor.size().contains(&0));
            let size: usize = tensors.map(|tensor| tensor.numel() * tensor.kind().elt_size_in_bytes()).sum();
            assert!(size <= bytes.len());
            assert!(checkpoint.to_bytes().is_ok());
        }
        Err(Error::Checkpoint { .. }) => {}
        Err(other) => panic!("{other}"),
    }
});
