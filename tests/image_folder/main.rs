//! The public interface of image folders.
#![allow(clippy::unwrap_used, clippy::expect_used)] // a test may panic, helpers included

mod broken;
mod folder;
mod kinds;
mod measured;
mod packed;
#[path = "../common/python.rs"]
mod python;
mod rare;
mod shards;
mod stream;
mod unlabeled;

use std::fs;
use std::path::Path;
use std::sync::Arc;

use image::{DynamicImage, Rgb, RgbImage};
use patchmix::data::{CropStream, CroppedBatch, Cut, EncodedImages, ImageFolder, StreamConfig};

/// An image in which all pixels differ; another `number` gives another image.
fn picture(width: u32, height: u32, number: u32) -> RgbImage {
    RgbImage::from_fn(width, height, |x, y| {
        let [x, y] = [x * 255 / width, y * 255 / height];
        Rgb([x as u8, y as u8, (40 * number + (x + y) / 4) as u8])
    })
}

/// Writes `image` in the format of the extension of `path`; creates the folder.
fn save(path: &Path, image: impl Into<DynamicImage>) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    image.into().save(path).unwrap();
}

/// A folder of `count` images of various sizes in three classes.
fn folder_of(count: u32) -> (tempfile::TempDir, Arc<ImageFolder>) {
    let place = tempfile::tempdir().unwrap();
    for number in 0..count {
        let class = ["ant", "bee", "cat"][number as usize % 3];
        let extension = ["jpg", "png", "webp"][number as usize % 2];
        let path = place.path().join(class).join(format!("{number:03}.{extension}"));
        save(&path, picture(40 + 7 * (number % 5), 30 + 9 * (number % 4), number));
    }
    let folder = Arc::new(ImageFolder::open(place.path()).unwrap());
    (place, folder)
}

fn random_cut(size: i64) -> Cut {
    Cut::Random { size, scale: (0.1, 1.0), ratio: (3.0 / 4.0, 4.0 / 3.0), seed: 5 }
}

fn stream<I: EncodedImages + 'static>(
    images: &Arc<I>,
    batches: &[Vec<i64>],
    cuts: &[Cut],
    workers: usize,
    ahead: usize,
) -> CropStream {
    let config = StreamConfig { workers, images_ahead: ahead, pinned: false };
    CropStream::start(Arc::clone(images), batches.to_vec(), cuts.to_vec(), &config).unwrap()
}

/// All batches, read by `workers` threads.
fn read<I: EncodedImages + 'static>(
    images: &Arc<I>,
    batches: &[Vec<i64>],
    cuts: &[Cut],
    workers: usize,
) -> Vec<CroppedBatch> {
    stream(images, batches, cuts, workers, 4).map(Result::unwrap).collect()
}
