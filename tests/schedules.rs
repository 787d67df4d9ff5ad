//! Schedules, against the published implementation.
#![allow(clippy::unwrap_used)] // a test may panic, helpers included

mod common;

use approx::abs_diff_eq;
use common::Golden;
use patchmix::optim::schedule;

/// Learning rate, weight decay (0.02 to 0.2) and momentum (from 0.9) per step of 20 epochs with 7 steps, 3 of them for
/// warm-up; temperature per epoch, from 0.1 to 0.2 over 5 epochs.
#[test]
fn schedules_equal_the_published_ones() {
    let golden = Golden::read("schedules.safetensors");
    let compare = |key: &str, ours: &dyn Fn(u64) -> f64| {
        let published = golden.numbers(key);
        for (step, expected) in published.into_iter().enumerate() {
            let actual = ours(step as u64);
            assert!(abs_diff_eq!(actual, expected, epsilon = 1e-12), "{key} at {step}: {actual}, published {expected}");
        }
    };
    compare("lr", &|step| schedule::warmup_cosine(step, 140, 21, 0.004, 1e-6));
    compare("lr_no_warmup", &|step| schedule::warmup_cosine(step, 140, 0, 0.004, 1e-6));
    compare("lr_epochs2_niter1_warm1", &|step| schedule::warmup_cosine(step, 2, 1, 0.004, 1e-6));
    compare("wd", &|step| schedule::cosine(step, 140, 0.02, 0.2));
    compare("moco_m_per_iteration", &|step| schedule::momentum(step, 140, 0.9));
    compare("temperature", &|epoch| schedule::temperature(epoch, 5, 0.1, 0.2));
}
