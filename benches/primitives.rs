//! Times mixing, the losses and the views. `cargo bench --bench primitives -- mix` runs one part.
#![allow(missing_docs, clippy::unwrap_used)] // criterion's macros are undocumented; a benchmark may panic

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use patchmix::augment::ViewRecipe;
use patchmix::{MixPlan, loss};
use tch::{Device, Kind, Tensor};

/// Mixing whole images, compared with a copy of the batch.
fn mix(criterion: &mut Criterion) {
    for (shape, patch_size) in [([512, 3, 32, 32], 2), ([256, 3, 224, 224], 16)] {
        let images = Tensor::rand(shape, (Kind::Float, Device::Cpu));
        let patches = (shape[2] / patch_size) * (shape[3] / patch_size);
        let mut group = criterion.benchmark_group(format!("mix {shape:?}"));
        group.sample_size(20);
        group.bench_function("copy", |bencher| bencher.iter(|| images.copy()));
        for groups in [2, 4, 8] {
            let plan = MixPlan::random(patches, groups, 1).unwrap();
            group.bench_function(BenchmarkId::new("groups", groups), |bencher| {
                bencher.iter(|| plan.mix_images(black_box(&images), patch_size).unwrap());
            });
        }
        group.finish();
    }
}

/// The three losses, forward and backward, with width 256.
fn losses(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("three losses");
    group.sample_size(10);
    for rows in [512, 2048, 8192] {
        let random = || Tensor::randn([rows, 256], (Kind::Float, Device::Cpu));
        let queries = [random(), random()].map(|query| query.set_requires_grad(true));
        let keys = [random(), random(), random()];
        let targets = MixPlan::random(256, 2, 1).unwrap().targets(rows).unwrap();
        group.bench_function(BenchmarkId::from_parameter(rows), |bencher| {
            bencher.iter(|| {
                let origin = loss::origin_to_origin(&queries[0], &keys[1], 0.2).unwrap();
                let mix_to_origin = loss::mix_to_origin(&queries[1], &keys[0], &targets.mix_to_origin, 0.2).unwrap();
                let mix_to_mix = loss::mix_to_mix(&queries[1], &keys[2], &targets.mix_to_mix, 0.2).unwrap();
                let total = origin + (mix_to_origin + mix_to_mix) / 2.0;
                Tensor::run_backward(&[total], &queries, false, false)
            });
        });
    }
    group.finish();
}

/// Both views of a batch of byte images.
fn views(criterion: &mut Criterion) {
    let images = Tensor::randint(256, [256, 3, 32, 32], (Kind::Uint8, Device::Cpu));
    let mut group = criterion.benchmark_group("views of 256 images of 32 pixels");
    group.throughput(Throughput::Elements(256));
    for (name, recipe) in [("first", ViewRecipe::first(32, 0.1)), ("second", ViewRecipe::second(32, 0.1))] {
        group.bench_function(name, |bencher| bencher.iter(|| recipe.view(black_box(&images)).unwrap()));
    }
    group.finish();
}

criterion_group!(benches, mix, losses, views);
criterion_main!(benches);
