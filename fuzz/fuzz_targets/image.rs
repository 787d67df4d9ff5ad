//! Any bytes are an image whose crops have their size, or a problem in words, which does not depend on the crop.
#![no_main]

use libfuzzer_sys::fuzz_target;
use patchmix::data::{Cut, crops_of_bytes};

fuzz_target!(|bytes: &[u8]| {
    let cut = |size, scale, seed| Cut::Random { size, scale, ratio: (3.0 / 4.0, 4.0 / 3.0), seed };
    let cuts = [cut(16, (0.05, 1.0), 0), cut(3, (0.9, 1.0), 1), Cut::Center { resize: 9, size: 8 }];
    let together = crops_of_bytes(bytes, &cuts);
    for cut in &cuts {
        match (crops_of_bytes(bytes, std::slice::from_ref(cut)), &together) {
            (Ok(crops), Ok(_)) => assert_eq!(crops[0].len() as i64, 3 * cut.size() * cut.size()),
            (Err(problem), Err(_)) => assert!(!problem.is_empty()),
            (one, all) => panic!("{:?} alone, {:?} among others", one.map(drop), all.as_ref().map(drop)),
        }
    }
});
