//! Reading an image folder, and shards of the same images, as in training, against torchvision's `ImageFolder` and
//! PyTorch's `DataLoader`.

use std::path::Path;
use std::sync::Arc;

use image::imageops::{FilterType, resize};
use image::{RgbImage, codecs::jpeg::JpegEncoder};
use patchmix::augment::ViewRecipe;
use patchmix::data::{CropStream, Cut, EncodedImages, ImageFolder, ImageShards, StreamConfig, epoch_order, procedural};
use tar::Header;
use tch::Tensor;

use crate::peer::Peer;
use crate::{budget, heading, medians, row, timed, times};

const BATCH: usize = 32;

pub(crate) fn run(peer: &mut Peer) {
    let workers = tch::get_num_threads() as usize;
    heading(
        &format!("An image folder: images per second with {workers} threads (PyTorch: processes)"),
        &["files", "crops", "decoding only", "patchmix", "share", "shards", "torchvision", "patchmix / torchvision"],
    );
    for (name, count, min, max) in [("64 to 500 pixels", 384, 64, 500), ("1500 to 4000 pixels", 32, 1500, 4000)] {
        let place = tempfile::tempdir().unwrap();
        write_images(place.path(), count, min, max);
        let folder = Arc::new(ImageFolder::open(place.path()).unwrap());
        let archive = tempfile::NamedTempFile::new().unwrap();
        pack(&folder, archive.path());
        let shards = Arc::new(ImageShards::open(&[archive.path().to_owned()]).unwrap());
        for locals in [0, 8] {
            let case = format!("folder {} {workers} {BATCH} {locals}", place.path().display());
            let cuts = cuts(locals);
            let [decoded, streamed, sharded, pytorch] = medians(
                budget(20),
                [
                    &mut || timed(|| decode(&folder, &cuts, workers)),
                    &mut || timed(|| read(&folder, &cuts, workers)),
                    &mut || timed(|| read(&shards, &cuts, workers)),
                    &mut || peer.seconds(&case),
                ],
            );
            let rate = |seconds: f64| format!("{:.0}", count as f64 / seconds);
            row(&[
                name.to_owned(),
                if locals == 0 { "2 of 224".to_owned() } else { format!("2 of 224, {locals} of 96") },
                rate(decoded),
                rate(streamed),
                format!("{:.0} %", 100.0 * decoded / streamed),
                rate(sharded),
                rate(pytorch),
                times(pytorch / streamed),
            ]);
        }
    }
}

/// The published crops: two large ones, with or without small ones.
fn cuts(locals: u64) -> Vec<Cut> {
    let min_scale = if locals == 0 { 0.05 } else { 0.35 };
    let large = (0..2).map(|seed| Cut::random(&ViewRecipe::first(224, min_scale), seed));
    let small = (0..locals).map(|seed| Cut::random(&ViewRecipe::local(96, (0.05, 0.35)), 2 + seed));
    large.chain(small).collect()
}

/// Reads an epoch as training does, and drops the batches.
fn read<I: EncodedImages + 'static>(images: &Arc<I>, cuts: &[Cut], workers: usize) {
    let order = epoch_order(images.len(), 0, 0).unwrap();
    stream(images, cuts, workers, order.chunks(BATCH));
}

/// Decodes the same files in independent threads: every thread takes each `workers`-th image, in no common order.
fn decode(folder: &Arc<ImageFolder>, cuts: &[Cut], workers: usize) {
    let order = epoch_order(folder.len(), 0, 0).unwrap();
    std::thread::scope(|scope| {
        for worker in 0..workers {
            let own: Vec<i64> = order.iter().copied().skip(worker).step_by(workers).collect();
            scope.spawn(move || stream(folder, cuts, 1, own.chunks(1)));
        }
    });
}

fn stream<'a, I: EncodedImages + 'static>(
    images: &Arc<I>,
    cuts: &[Cut],
    workers: usize,
    batches: impl Iterator<Item = &'a [i64]>,
) {
    let batches = batches.map(<[i64]>::to_vec).collect();
    let config = StreamConfig { workers, images_ahead: 4 * BATCH, pinned: false };
    for batch in CropStream::start(Arc::clone(images), batches, cuts.to_vec(), &config).unwrap() {
        assert_eq!(batch.unwrap().broken, []);
    }
}

/// Packs the images of a folder into a shard.
fn pack(folder: &ImageFolder, path: &Path) {
    let mut builder = tar::Builder::new(std::fs::File::create(path).unwrap());
    for position in 0..folder.len() {
        let image = std::fs::read(folder.path(position).unwrap()).unwrap();
        let label = folder.label(position).unwrap().to_string();
        for (extension, content) in [("jpg", &image[..]), ("cls", label.as_bytes())] {
            let mut header = Header::new_gnu();
            header.set_size(content.len() as u64);
            builder.append_data(&mut header, format!("{position}.{extension}"), content).unwrap();
        }
    }
    builder.finish().unwrap();
}

/// Writes built-in images of ten classes, enlarged to sides between `min` and `max` pixels.
fn write_images(place: &Path, count: i64, min: u32, max: u32) {
    let data = procedural(count, 96, 0).unwrap();
    for position in 0..count {
        let pixels = Vec::try_from(data.images.get(position).permute([1, 2, 0]).contiguous().flatten(0, -1)).unwrap();
        let image = RgbImage::from_raw(96, 96, pixels).unwrap();
        let side = |turn: i64| min + (position * turn % 101) as u32 * (max - min) / 100;
        let image = resize(&image, side(37), side(53), FilterType::CatmullRom);
        let label = i64::try_from(Tensor::get(&data.labels, position)).unwrap() as usize;
        let folder = place.join(&data.class_names[label]);
        std::fs::create_dir_all(&folder).unwrap();
        let file = std::fs::File::create(folder.join(format!("{position}.jpg"))).unwrap();
        JpegEncoder::new_with_quality(file, 90).encode_image(&image).unwrap();
    }
}
