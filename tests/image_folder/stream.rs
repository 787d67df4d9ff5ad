//! Streams: the order and the contents of batches, and the end of the threads.

use std::sync::Arc;

use patchmix::Result;
use patchmix::data::{Batches, Contents, Cut, EncodedImages};
use tch::Tensor;

use crate::{folder_of, picture, random_cut, read, stream};

fn epoch(count: i64, batch_size: i64) -> Vec<Vec<i64>> {
    Batches::new(count, batch_size, 3, 0).unwrap().iter().map(<[i64]>::to_vec).collect()
}

#[test]
fn every_image_is_read_once_an_epoch_in_the_order_of_the_batches() {
    let (_place, folder) = folder_of(24);
    let batches = epoch(24, 4);
    let read = read(&folder, &batches, &[random_cut(16)], 3);
    let positions: Vec<Vec<i64>> = read.iter().map(|batch| batch.positions.clone()).collect();
    assert_eq!(positions, batches);
    let mut all: Vec<i64> = positions.into_iter().flatten().collect();
    all.sort_unstable();
    assert_eq!(all, (0..24).collect::<Vec<_>>());
    for batch in &read {
        let labels: Vec<i64> = batch.positions.iter().map(|&position| folder.label(position).unwrap()).collect();
        assert_eq!(batch.labels, Some(Tensor::from_slice(&labels)));
        assert_eq!(batch.crops[0].size(), [4, 3, 16, 16]);
    }
}

#[test]
fn threads_change_neither_order_nor_pixels() {
    let (_place, folder) = folder_of(30);
    let cuts = [random_cut(24), random_cut(8), Cut::Center { resize: 20, size: 16 }];
    let batches = epoch(30, 7);
    let alone = read(&folder, &batches, &cuts, 1);
    let together = read(&folder, &batches, &cuts, 4);
    assert_eq!(alone.len(), 4);
    for (alone, together) in alone.iter().zip(&together) {
        assert_eq!(alone.positions, together.positions);
        assert_eq!(alone.labels, together.labels);
        assert_eq!(alone.crops, together.crops);
    }
}

#[test]
fn crops_do_not_depend_on_the_batch() {
    let (_place, folder) = folder_of(6);
    let alone = read(&folder, &[vec![4]], &[random_cut(16)], 1);
    let among = read(&folder, &[vec![0, 1], vec![5, 4, 2]], &[random_cut(16)], 2);
    assert_eq!(alone[0].crops[0].get(0), among[1].crops[0].get(1));
    assert_ne!(among[1].crops[0].get(0), among[1].crops[0].get(1));
}

#[test]
fn dropping_a_stream_ends_its_threads() {
    let (_place, folder) = folder_of(40);
    for taken in [0, 1, 3, 10] {
        let mut stream = stream(&folder, &epoch(40, 4), &[random_cut(16)], 3, 8);
        for _ in 0..taken {
            stream.next().unwrap().unwrap();
        }
        assert!(Arc::strong_count(&folder) > 1);
        drop(stream);
        // Every thread held the folder.
        assert_eq!(Arc::strong_count(&folder), 1);
    }
}

#[test]
fn another_seed_cuts_other_parts() {
    let (_place, folder) = folder_of(6);
    let cut = |seed| Cut::Random { size: 16, scale: (0.1, 0.5), ratio: (3.0 / 4.0, 4.0 / 3.0), seed };
    let batch = read(&folder, &[(0..6).collect()], &[cut(1), cut(2), cut(1)], 1).remove(0);
    assert_eq!(batch.crops[0], batch.crops[2]);
    for image in 0..6 {
        assert_ne!(batch.crops[0].get(image), batch.crops[1].get(image));
    }
}

/// Images of a source that panics: in reading the one, in naming the class of another.
struct Panics {
    reading: i64,
    naming: i64,
}

impl EncodedImages for Panics {
    fn len(&self) -> i64 {
        4
    }

    fn is_labeled(&self) -> bool {
        true
    }

    fn label(&self, position: i64) -> Result<i64> {
        assert_ne!(position, self.naming);
        Ok(0)
    }

    fn path(&self, position: i64) -> Result<std::path::PathBuf> {
        Ok(position.to_string().into())
    }

    fn read(&self, position: i64) -> Result<Contents> {
        assert_ne!(position, self.reading);
        let mut bytes = std::io::Cursor::new(Vec::new());
        picture(20, 16, 0).write_to(&mut bytes, image::ImageFormat::Png).unwrap();
        Ok(Ok(bytes.into_inner()))
    }
}

#[test]
fn a_source_that_panics_leaves_one_image_out_or_ends_the_stream() {
    let batches = [vec![0, 1], vec![2, 3]];
    let one = read(&Arc::new(Panics { reading: 2, naming: -1 }), &batches, &[random_cut(8)], 2);
    assert_eq!([&one[0], &one[1]].map(|batch| batch.positions.clone()), [vec![0, 1], vec![3]]);
    assert_eq!((one[1].broken[0].position, one[1].broken[0].problem.as_str()), (2, "reading it panicked"));
    let found: Vec<bool> = stream(&Arc::new(Panics { reading: -1, naming: 2 }), &batches, &[random_cut(8)], 2, 4)
        .map(|batch| batch.is_ok())
        .collect();
    assert_eq!(found, [true, false]);
}
