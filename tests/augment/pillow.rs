//! The blur against Pillow's.

use patchmix::augment::ViewParameters;
use tch::Kind;

use crate::common::Golden;
use crate::{plain, unchanged};

/// A box blur, three times in each direction. Pillow rounds to bytes after each of the six; that is half a level at
/// most, and no box blur enlarges a difference. The large views of the file are every fifth row and column.
#[test]
fn blur_is_pillows_but_for_rounding() {
    let golden = Golden::read("protocol/blur_pillow.safetensors");
    let cases: Vec<(&str, &str)> = golden.keys().filter_map(|key| key.split_once("/blurred_")).collect();
    assert!(!cases.is_empty());
    for (image, radius) in cases {
        let bytes = golden.tensor(&format!("{image}/image")).unsqueeze(0);
        let expected = golden.tensor(&format!("{image}/blurred_{radius}")).to_kind(Kind::Float);
        let size = bytes.size()[3];
        let parameters = ViewParameters { blur_sigma: Some(radius.parse().unwrap()), ..unchanged(size, size) };
        let blurred = plain(size).apply(&bytes, &[parameters]).unwrap().get(0) * 255.0;
        let every = (size - 1) / expected.size()[2] + 1;
        let difference = (blurred.slice(1, 0, None, every).slice(2, 0, None, every) - expected).abs();
        let (mean, largest) = (difference.mean(Kind::Float).double_value(&[]), difference.max().double_value(&[]));
        assert!(largest <= 3.001 && mean < 0.85, "{image}, radius {radius}: up to {largest} levels, {mean} on average");
    }
}
