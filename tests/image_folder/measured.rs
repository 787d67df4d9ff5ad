//! The memory of a million images in shards. It takes long:
//! `cargo test --release --test image_folder measured -- --ignored --nocapture`. How fast they are read,
//! `cargo bench --bench against_pytorch -- folder` measures.

use std::fs::{self, File};
use std::io::BufWriter;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use image::RgbImage;
use patchmix::data::{Batches, CropStream, Cut, ImageShards, StreamConfig, shard_paths};
use tar::Builder;

use crate::shards::append;

/// Fewer images where the code is not optimized.
const FRACTION: usize = if cfg!(debug_assertions) { 10 } else { 1 };

/// Resident memory of this process in bytes.
fn resident() -> u64 {
    let pages = fs::read_to_string("/proc/self/statm").unwrap();
    pages.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4096
}

/// Writes shards of small pictures of one class, with names as in ImageNet.
fn write_shards(place: &Path, shards: usize, images: usize) {
    let mut picture = std::io::Cursor::new(Vec::new());
    RgbImage::new(16, 16).write_to(&mut picture, image::ImageFormat::Jpeg).unwrap();
    for shard in 0..shards {
        let file = File::create(place.join(format!("train-{shard:06}.tar"))).unwrap();
        let mut builder = Builder::new(BufWriter::new(file));
        for number in 0..images {
            let key = format!("n01440764/n01440764_{}", shard * images + number);
            append(&mut builder, &format!("{key}.JPEG"), picture.get_ref());
            append(&mut builder, &format!("{key}.cls"), b"7");
        }
        builder.finish().unwrap();
    }
}

#[test]
#[ignore = "a million images"]
fn the_index_of_a_million_images_is_small_and_an_epoch_adds_nothing() {
    let place = tempfile::tempdir().unwrap();
    write_shards(place.path(), 100, 13_000 / FRACTION);
    let (before, begun) = (resident(), Instant::now());
    let shards = Arc::new(ImageShards::open(&shard_paths(place.path(), "train").unwrap()).unwrap());
    let (seconds, index) = (begun.elapsed().as_secs_f64(), resident().saturating_sub(before));
    let count = shards.len();
    println!("index of {count} images: {} MiB, read in {seconds:.1} s", index >> 20);
    // 16 bytes and a name of 32; the rest is what the allocator keeps of the reading.
    assert!(index < 80 * count as u64 + (16 << 20), "{index} bytes");

    let batches: Vec<Vec<i64>> = Batches::new(count, 512, 0, 0).unwrap().iter().map(<[i64]>::to_vec).collect();
    let (half, cuts) = (batches.len() / 2, vec![Cut::Center { resize: 16, size: 16 }]);
    let mut stream = CropStream::start(shards, batches, cuts, &StreamConfig::default()).unwrap();
    let mut read = |batches: usize| {
        stream.by_ref().take(batches).for_each(|batch| assert_eq!(batch.unwrap().broken, []));
        resident()
    };
    let (first, second) = (read(half), read(half));
    println!("after half an epoch and after all of it: {} and {} MiB", first >> 20, second >> 20);
    assert!(second < first + (16 << 20), "{first} to {second} bytes");
}
