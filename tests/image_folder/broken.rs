//! Broken files: listed, left out, and without effect on the other images.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use patchmix::Error;
use patchmix::data::{CropStream, Cut, ImageFolder, StreamConfig};

use crate::{folder_of, picture, random_cut, read, save};

/// A PNG file that claims `side` x `side` pixels and has none.
fn claims(side: u32) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::new(&mut bytes, side, side);
    encoder.set_color(png::ColorType::Rgba);
    let mut writer = encoder.write_header().unwrap();
    writer.write_chunk(png::chunk::IDAT, &[0x78, 0x9C]).unwrap();
    drop(writer);
    bytes
}

/// Breaks a file in several ways and returns the reported problems.
fn problems(path: &Path) -> Vec<(&'static str, String)> {
    let read_alone = || {
        let folder = ImageFolder::open(path.parent().unwrap().parent().unwrap()).unwrap();
        let mut batch = read(&Arc::new(folder), &[vec![0]], &[random_cut(16)], 1).remove(0);
        assert_eq!((batch.positions.len(), batch.crops[0].size()), (0, vec![0, 3, 16, 16]));
        let broken = batch.broken.pop().unwrap();
        assert_eq!((broken.position, broken.path.as_path()), (0, path));
        broken.problem
    };
    let whole = fs::read(path).unwrap();
    let mut found = Vec::new();
    for (name, bytes) in [
        ("truncated", whole[..whole.len() * 2 / 3].to_vec()),
        ("without its end", whole[..whole.len() - 40].to_vec()),
        ("a header", whole[..20].to_vec()),
        ("empty", Vec::new()),
        ("text", b"<html>404</html>".to_vec()),
        ("a bomb", claims(1_000_000)),
    ] {
        fs::write(path, bytes).unwrap();
        found.push((name, read_alone()));
    }
    found
}

#[test]
fn a_broken_image_is_reported_with_its_problem() {
    for extension in ["jpg", "png", "webp"] {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("class").join(format!("x.{extension}"));
        save(&path, picture(60, 50, 1));
        for (name, problem) in problems(&path) {
            assert!(!problem.is_empty() && !problem.contains("panicked"), "{extension}, {name}: {problem}");
            if name == "a bomb" {
                assert!(problem.contains("1000000 x 1000000"), "{problem}");
            }
        }
    }
}

#[test]
fn broken_images_are_left_out_and_do_not_affect_the_others() {
    let (place, folder) = folder_of(12);
    let batches = [vec![0, 1, 2, 3, 4, 5], vec![6, 7], vec![8, 9, 10, 11]];
    let whole = read(&folder, &batches, &[random_cut(16), random_cut(8)], 2);
    let path = |position| folder.path(position).unwrap();
    let half = fs::read(path(1)).unwrap();
    fs::write(path(1), &half[..half.len() / 2]).unwrap();
    fs::remove_file(path(4)).unwrap();
    fs::write(path(6), "no image").unwrap();
    fs::write(path(7), "").unwrap();

    let rest = read(&folder, &batches, &[random_cut(16), random_cut(8)], 2);
    let positions: Vec<&[i64]> = rest.iter().map(|batch| batch.positions.as_slice()).collect();
    assert_eq!(positions, [&[0, 2, 3, 5][..], &[], &[8, 9, 10, 11]]);
    let broken: Vec<_> =
        rest.iter().flat_map(|batch| &batch.broken).map(|image| (image.position, image.path.clone())).collect();
    assert_eq!(broken, [1, 4, 6, 7].map(|position| (position, path(position))));
    for (whole, rest) in whole.iter().zip(&rest) {
        for (row, position) in rest.positions.iter().enumerate() {
            let before = whole.positions.iter().position(|other| other == position).unwrap();
            let [label, label_before] = [rest, whole].map(|batch| batch.labels.as_ref().unwrap());
            assert_eq!(label.get(row as i64), label_before.get(before as i64));
            for (whole, rest) in whole.crops.iter().zip(&rest.crops) {
                assert_eq!(rest.get(row as i64), whole.get(before as i64));
            }
        }
    }
    drop(place);
}

#[test]
fn settings_out_of_range_are_refused() {
    let (_place, folder) = folder_of(3);
    let start = |batches: Vec<Vec<i64>>, cuts: Vec<Cut>, workers, images_ahead| {
        let config = StreamConfig { workers, images_ahead, pinned: false };
        CropStream::start(Arc::clone(&folder), batches, cuts, &config).map(|stream| stream.count())
    };
    assert_eq!(start(vec![vec![0, 1], vec![2]], vec![random_cut(8)], 1, 1).unwrap(), 2);
    assert_eq!(start(vec![], vec![random_cut(8)], 1, 1).unwrap(), 0);
    assert_eq!(start(vec![vec![], vec![1], vec![]], vec![random_cut(8)], 2, 1).unwrap(), 3);
    let cut = |size, scale, ratio| vec![Cut::Random { size, scale, ratio, seed: 0 }];
    for (name, result) in [
        ("position", start(vec![vec![0, 3]], vec![random_cut(8)], 1, 1)),
        ("position", start(vec![vec![-1]], vec![random_cut(8)], 1, 1)),
        ("cuts", start(vec![], vec![], 1, 1)),
        ("workers", start(vec![], vec![random_cut(8)], 0, 1)),
        ("images_ahead", start(vec![], vec![random_cut(8)], 1, 0)),
        ("size", start(vec![], cut(0, (0.1, 1.0), (1.0, 1.0)), 1, 1)),
        ("size", start(vec![], cut(1 << 14, (0.1, 1.0), (1.0, 1.0)), 1, 1)),
        ("scale", start(vec![], cut(8, (0.0, 1.0), (1.0, 1.0)), 1, 1)),
        ("scale", start(vec![], cut(8, (0.1, 1.1), (1.0, 1.0)), 1, 1)),
        ("ratio", start(vec![], cut(8, (0.1, 1.0), (2.0, 1.0)), 1, 1)),
        ("resize", start(vec![], vec![Cut::Center { resize: 7, size: 8 }], 1, 1)),
    ] {
        let error = result.unwrap_err();
        assert!(matches!(&error, Error::Value { name: actual, .. } if *actual == name), "{name}: {error}");
    }
}
