//! Files of rare kinds decode as in Pillow, or are refused with a word that helps; never with other colors.
//!
//! `scripts/make_jpeg_fixtures.py` wrote them and Pillow's pixels.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use patchmix::data::{Cut, ImageFolder};
use tch::{Kind, Tensor};

use crate::read;

fn kinds(outcome: &str) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/images/kinds").join(outcome);
    let paths = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut paths: Vec<_> = paths.filter(|path| !path.to_string_lossy().ends_with(".expected.png")).collect();
    paths.sort_unstable();
    paths
}

/// The central squares of 48 pixels of the files, or what is wrong with them, by their names.
fn squares(files: &[PathBuf]) -> BTreeMap<String, Result<Tensor, String>> {
    let place = tempfile::tempdir().unwrap();
    fs::create_dir(place.path().join("class")).unwrap();
    for path in files {
        fs::copy(path, place.path().join("class").join(path.file_name().unwrap())).unwrap();
    }
    let folder = Arc::new(ImageFolder::open(place.path()).unwrap());
    assert_eq!(folder.len(), files.len() as i64, "{:?}", folder.passed_over());
    let positions = (0..folder.len()).collect();
    let batch = read(&folder, &[positions], &[Cut::Center { resize: 48, size: 48 }], 2).remove(0);
    let name = |path: &Path| path.file_name().unwrap().to_string_lossy().into_owned();
    let whole = batch.positions.iter().enumerate();
    let whole =
        whole.map(|(row, position)| (name(&folder.path(*position).unwrap()), Ok(batch.crops[0].get(row as i64))));
    let broken = batch.broken.iter().map(|image| (name(&image.path), Err(image.problem.clone())));
    whole.chain(broken).collect()
}

#[test]
fn rare_kinds_decode_as_in_pillow() {
    let files = kinds("read");
    let expected = files.iter().map(|path| PathBuf::from(format!("{}.expected.png", path.display())));
    let expected = squares(&expected.collect::<Vec<_>>());
    for (name, square) in squares(&files) {
        let square = square.unwrap_or_else(|problem| panic!("{name}: {problem}"));
        let expected = expected[&format!("{name}.expected.png")].as_ref().unwrap();
        let difference = (square.to_kind(Kind::Int64) - expected.to_kind(Kind::Int64)).abs().max().int64_value(&[]);
        // In 4:2:0, zune-jpeg rounds the colors after each of the two directions.
        let tolerance = if name == "samples_2x2_1x1.jpg" { 4 } else { 3 };
        assert!(difference <= tolerance, "{name} differs by {difference}");
    }
}

#[test]
fn kinds_that_are_not_read_are_refused_with_a_word_that_helps() {
    let words = BTreeMap::from([
        ("arithmetic.jpg", "uses arithmetic coding; convert it without loss: jpegtran OLD > NEW"),
        ("cmyk_odd.jpg", "has four colors of unusual sampling; re-encode it"),
        ("gif.png", "The image format Gif is not supported"),
        ("gray_16bit.png", "claims 10001 x 10000 pixels, more than 100000000; scale it down"),
        ("gray_1bit.png", "claims 23000 x 23000 pixels, more than 100000000; scale it down"),
        ("gray_1bit_64kB.png", "claims 23000 x 23000 pixels, more than 100000000; scale it down"),
        ("gray_529_megapixels.jpg", "claims 23000 x 23000 pixels, more than 100000000; scale it down"),
        ("gray_529_megapixels_146_bytes.jpg", "claims 23000 x 23000 pixels, more than 100000000; scale it down"),
        ("gray_8bit.png", "claims 10001 x 10000 pixels, more than 100000000; scale it down"),
        ("lossless.jpg", "is of a lossless or hierarchical kind of JPEG; re-encode it"),
        ("no_height.jpg", "has no pixels"),
        (
            "rgba_16bit_80_megapixels.png",
            "claims 10000 x 8000 pixels of 8 bytes, more than 400000000 bytes; scale it down",
        ),
        ("rgba_16bit.png", "claims 20000 x 20000 pixels, more than 100000000; scale it down"),
        ("twelve_bits.jpg", "has values of 12 bits, where 8 are read; re-encode it"),
        ("two_components.jpg", "has 2 color components, where 1, 3 or 4 are read; re-encode it"),
    ]);
    let found = squares(&kinds("refused"));
    assert_eq!(found.len(), words.len());
    for (name, square) in found {
        assert_eq!(square.map(|_| "was read".to_owned()).unwrap_err(), words[&*name], "{name}");
    }
}

/// The path that scales down reads the colors of a large file by the same rules.
#[test]
fn large_files_have_the_colors_of_small_ones() {
    let large = |adobe: &[u8]| {
        let image = crate::picture(1700, 1300, 1);
        let mut bytes = Vec::new();
        image::codecs::jpeg::JpegEncoder::new_with_quality(&mut bytes, 95).encode_image(&image).unwrap();
        // In place of the JFIF segment, which would say that the colors are YCbCr.
        let rest = &bytes[4 + usize::from(u16::from_be_bytes([bytes[4], bytes[5]]))..];
        [&bytes[..2], adobe, rest].concat()
    };
    let adobe = |transform| [&b"\xFF\xEE\0\x0EAdobe\0\x64\0\0\0\0"[..], &[transform]].concat();
    let square = |name: &str, bytes: &[u8], resize| {
        let place = tempfile::tempdir().unwrap();
        fs::create_dir(place.path().join("class")).unwrap();
        fs::write(place.path().join("class").join(name), bytes).unwrap();
        let folder = Arc::new(ImageFolder::open(place.path()).unwrap());
        let batch = read(&folder, &[vec![0]], &[Cut::Center { resize, size: 64 }], 1).remove(0);
        assert_eq!(batch.broken, []);
        batch.crops[0].to_kind(Kind::Double).mean_dim(&[2_i64, 3][..], false, None).view(3)
    };
    for transform in [0, 1] {
        let bytes = large(&adobe(transform));
        // A resize to 1,300 reads all pixels; to 650, one of four. The center is of one color, more or less.
        let [whole, scaled] = [1300, 650].map(|resize| square("file.jpg", &bytes, resize));
        let difference = (whole - scaled).abs().max().double_value(&[]);
        assert!(difference < 8.0, "transform {transform}: {difference}");
    }
}
