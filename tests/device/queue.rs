//! Uploads to a busy GPU arrive intact, although their CPU memory is freed before the GPU reads it.

use std::sync::Arc;

use patchmix::MixPlan;
use patchmix::data::{Batches, CropStream, Cut, ImageFolder, StreamConfig};
use tch::{Device, Kind, Tensor};

use crate::png_folder::{SIDE, png_folder};
use crate::turn::{Turn, assert_near};

/// Queues work for at least a tenth of a second on a GPU. Does nothing on the CPU, which has no queue.
fn keep_busy(device: Device) {
    if device.is_cuda() {
        let matrix = Tensor::ones([4096, 4096], (Kind::Float, device));
        (0..50).for_each(|_| drop(matrix.mm(&matrix)));
    }
}

#[test]
fn queued_mixes_use_the_right_plans() {
    let turn = Turn::take();
    let images = Tensor::rand([8, 3, 16, 16], (Kind::Float, Device::Cpu));
    let there = turn.put(&images, Kind::Float);
    keep_busy(turn.device);
    let mix = |_| {
        let plan = MixPlan::random(64, 4, 1).unwrap();
        (plan.mix_images(&there, 2).unwrap(), plan)
    };
    let mixed: Vec<(Tensor, MixPlan)> = (0..200).map(mix).collect();
    for (mixed, plan) in mixed {
        assert_near("mixed", &mixed, &plan.mix_images(&images, 2).unwrap(), 0.0);
    }
}

#[test]
fn queued_batches_of_a_folder_hold_the_right_images() {
    let turn = Turn::take();
    let place = tempfile::tempdir().unwrap();
    let [files, _] = png_folder(place.path(), [96, 1]);
    let folder = Arc::new(ImageFolder::open(&place.path().join("train")).unwrap());
    let cuts = vec![Cut::Center { resize: SIDE, size: SIDE }; 2];
    for pinned in [false, turn.device.is_cuda()] {
        let batches: Vec<Vec<i64>> = (0..4)
            .flat_map(|epoch| Batches::new(96, 16, 3, epoch).unwrap().iter().map(<[i64]>::to_vec).collect::<Vec<_>>())
            .collect();
        let config = StreamConfig { workers: 2, images_ahead: 32, pinned };
        let stream = CropStream::start(Arc::clone(&folder), batches, cuts.clone(), &config).unwrap();
        keep_busy(turn.device);
        let send = |batch: patchmix::Result<patchmix::data::CroppedBatch>| {
            let batch = batch.unwrap();
            (batch.crops_on(turn.device).unwrap(), batch.positions)
        };
        let sent: Vec<(Vec<Tensor>, Vec<i64>)> = stream.map(send).collect();
        assert_eq!(sent.len(), 24);
        for (crops, positions) in sent {
            let (expected, _) = files.select(&positions).unwrap();
            for crop in crops {
                assert_eq!((crop.device(), crop.kind()), (turn.device, Kind::Uint8));
                assert_near("crops", &crop, &expected, 0.0);
            }
        }
    }
}
