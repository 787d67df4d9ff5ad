//! Mixes and their targets, against brute force and against the published implementation.
#![allow(clippy::unwrap_used, clippy::expect_used)] // a test may panic, helpers included

#[path = "../common/mod.rs"]
mod common;

mod plans;
mod properties;
mod published;
mod variants;

use patchmix::MixPlan;
use tch::{Device, Tensor};

const CPU: Device = Device::Cpu;

/// A permutation that depends only on the seed.
pub(crate) fn shuffled(length: i64, seed: u64) -> Vec<i64> {
    let mut state = seed;
    let mut permutation: Vec<i64> = (0..length).collect();
    for last in (1..permutation.len()).rev() {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        permutation.swap(last, (state >> 33) as usize % (last + 1));
    }
    permutation
}

/// The definition, patch by patch: `sources[i][t]` is the image that patch `t` of mixed image `i` is read from.
pub(crate) fn sources(plan: &MixPlan, batch_size: i64) -> Vec<Vec<i64>> {
    let groups = plan.group_of_position();
    let patches = plan.patches() as usize;
    (0..batch_size)
        .map(|image| {
            // A plan per image has the groups of one image behind those of another.
            let first = if groups.len() > patches { image as usize * patches } else { 0 };
            let read_from = |group: &i64| (image + group * plan.mix_stride()).rem_euclid(batch_size);
            groups[first..][..patches].iter().map(read_from).collect()
        })
        .collect()
}

/// Both targets by counting patches: the share of mixed image `i` that comes from image `j`, and the products of the
/// shares that mixed images `i` and `j` have of each image, summed over the images.
pub(crate) fn counted_targets(sources: &[Vec<i64>]) -> (Tensor, Tensor) {
    let size = sources.len();
    let patches = sources[0].len() as f64;
    let mut share = vec![vec![0.0; size]; size];
    for (image, sources) in sources.iter().enumerate() {
        for &source in sources {
            share[image][source as usize] += 1.0 / patches;
        }
    }
    let mut common = vec![vec![0.0; size]; size];
    for i in 0..size {
        for j in 0..size {
            common[i][j] = (0..size).map(|image| share[i][image] * share[j][image]).sum();
        }
    }
    (Tensor::from_slice2(&share), Tensor::from_slice2(&common))
}
