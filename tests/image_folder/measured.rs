//! Measurements of shards beside the folder that holds the same images, printed by
//! `cargo test --release --test image_folder measured -- --ignored --nocapture --test-threads=1`.

use std::fs::{self, File};
use std::io::BufWriter;
use std::sync::Arc;
use std::time::Instant;

use image::RgbImage;
use patchmix::data::{Batches, CropStream, Cut, EncodedImages, ImageFolder, ImageShards, StreamConfig};
use tar::{Builder, Header};

use crate::random_cut;
use crate::shards::pack;

/// Fewer images where the code is not optimized.
const FRACTION: usize = if cfg!(debug_assertions) { 10 } else { 1 };

/// Resident memory of this process in bytes.
fn resident() -> u64 {
    let pages = fs::read_to_string("/proc/self/statm").unwrap();
    pages.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4096
}

/// Images per second of an epoch in random order, with one crop each.
fn speed<I: EncodedImages + 'static>(images: &Arc<I>, epoch: u64) -> f64 {
    let batches = Batches::new(images.len(), 32, 0, epoch).unwrap();
    let batches: Vec<Vec<i64>> = batches.iter().map(<[i64]>::to_vec).collect();
    let count = batches.len() * 32;
    let begun = Instant::now();
    let stream = CropStream::start(Arc::clone(images), batches, vec![random_cut(96)], &StreamConfig::default());
    stream.unwrap().for_each(|batch| assert_eq!(batch.unwrap().broken, []));
    count as f64 / begun.elapsed().as_secs_f64()
}

/// Small images, as the share of reading is largest there.
#[test]
#[ignore = "a measurement"]
fn shards_are_read_as_fast_as_the_folder() {
    let source = tempfile::tempdir().unwrap();
    for number in 0..5000 / FRACTION as u32 {
        let class = source.path().join(format!("class-{}", number % 10));
        fs::create_dir_all(&class).unwrap();
        let picture = RgbImage::from_fn(128, 128, |x, y| image::Rgb([x, y, x * y + number].map(|value| value as u8)));
        picture.save(class.join(format!("{number:05}.jpg"))).unwrap();
    }
    let place = tempfile::tempdir().unwrap();
    let folder = Arc::new(ImageFolder::open(source.path()).unwrap());
    let shards = Arc::new(ImageShards::open(&pack(&folder, place.path(), "train", 8)).unwrap());
    let mut speeds = [Vec::new(), Vec::new()];
    // The first epochs fill the caches.
    let _ = (speed(&folder, 0), speed(&shards, 0));
    for epoch in 0..5 {
        speeds[0].push(speed(&folder, epoch));
        speeds[1].push(speed(&shards, epoch));
    }
    speeds.iter_mut().for_each(|speeds| speeds.sort_by(f64::total_cmp));
    println!("images per second: folder {:.0}, shards {:.0} (medians of 5 epochs)", speeds[0][2], speeds[1][2]);
}

#[test]
#[ignore = "a measurement"]
fn the_index_of_a_million_images_is_small_and_an_epoch_adds_nothing() {
    const SHARDS: usize = 100;
    const IMAGES: usize = 13_000 / FRACTION;
    let place = tempfile::tempdir().unwrap();
    let picture = {
        let mut bytes = std::io::Cursor::new(Vec::new());
        RgbImage::new(16, 16).write_to(&mut bytes, image::ImageFormat::Jpeg).unwrap();
        bytes.into_inner()
    };
    let paths: Vec<_> = (0..SHARDS).map(|shard| place.path().join(format!("train-{shard:06}.tar"))).collect();
    for (shard, path) in paths.iter().enumerate() {
        let mut builder = Builder::new(BufWriter::new(File::create(path).unwrap()));
        for number in 0..IMAGES {
            let key = format!("n01440764/n01440764_{}", shard * IMAGES + number);
            for (extension, content) in [("JPEG", &picture[..]), ("cls", b"7")] {
                let mut header = Header::new_gnu();
                header.set_size(content.len() as u64);
                builder.append_data(&mut header, format!("{key}.{extension}"), content).unwrap();
            }
        }
        builder.finish().unwrap();
    }
    let (before, begun) = (resident(), Instant::now());
    let shards = Arc::new(ImageShards::open(&paths).unwrap());
    let (seconds, index) = (begun.elapsed().as_secs_f64(), resident() - before);
    let count = shards.len();
    println!("index of {count} images: {} MiB, read in {seconds:.1} s", index >> 20);
    let batches: Vec<Vec<i64>> = Batches::new(count, 512, 0, 0).unwrap().iter().map(<[i64]>::to_vec).collect();
    let cuts = vec![Cut::Center { resize: 16, size: 16 }];
    let stream = CropStream::start(shards, batches, cuts, &StreamConfig::default()).unwrap();
    for (number, batch) in stream.enumerate() {
        assert_eq!(batch.unwrap().broken, []);
        if number % (500 / FRACTION) == 0 {
            println!("after {} images: {} MiB", (number + 1) * 512, (resident() - before) >> 20);
        }
    }
}
