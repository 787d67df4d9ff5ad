//! Any bytes are an archive whose images lie within it, or a problem in words.
#![no_main]

use libfuzzer_sys::fuzz_target;
use patchmix::data::shard_samples;

fuzz_target!(|bytes: &[u8]| match shard_samples(bytes) {
    Ok(samples) => {
        assert!(!samples.is_empty());
        let mut last = None;
        for (offset, length, label, name) in samples {
            assert!(offset % 512 == 0 && offset + length <= bytes.len() as u64, "{name}");
            assert!(label < 1 << 20 && !name.is_empty());
            assert!(last < Some(offset), "in the order of the archive");
            last = Some(offset);
        }
    }
    Err(problem) => assert!(!problem.is_empty()),
});
