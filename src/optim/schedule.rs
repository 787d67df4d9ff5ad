//! The published schedules, as pure functions of the step.

use std::f64::consts::PI;

/// The value at `step`: linear warm-up from 0 to `base` over `warmup_steps` (`base` included), then half a cosine from
/// `base` that reaches `last` at `steps`.
///
/// Used for the learning rate, and without warm-up for the weight decay, which rises.
///
/// ```
/// use patchmix::optim::schedule::warmup_cosine;
/// assert_eq!(warmup_cosine(0, 100, 11, 1e-3, 1e-6), 0.0);
/// assert_eq!(warmup_cosine(10, 100, 11, 1e-3, 1e-6), 1e-3);
/// assert_eq!(warmup_cosine(11, 100, 11, 1e-3, 1e-6), 1e-3);
/// ```
pub fn warmup_cosine(step: u64, steps: u64, warmup_steps: u64, base: f64, last: f64) -> f64 {
    if step < warmup_steps {
        return base * step as f64 / warmup_steps.saturating_sub(1).max(1) as f64;
    }
    let length = steps.saturating_sub(warmup_steps).max(1);
    let progress = (step - warmup_steps).min(length) as f64 / length as f64;
    last + (base - last) * 0.5 * (1.0 + (PI * progress).cos())
}

/// Half a cosine from `first` to `last` over `steps`, without warm-up.
pub fn cosine(step: u64, steps: u64, first: f64, last: f64) -> f64 {
    warmup_cosine(step, steps, 0, first, last)
}

/// The learning rate of an epoch of the published fine-tuning, counted from 0: linear from `first` to `base` over
/// `warmup_epochs`, then half a cosine that reaches `last` at `epochs`.
///
/// The cosine spans all epochs and warm-up covers its beginning, so the rate never quite reaches `base`.
///
/// ```
/// use patchmix::optim::schedule::warmup_over_cosine;
/// let rate = |epoch| warmup_over_cosine(epoch, 100, 10, 1e-3, 1e-6, 1e-5);
/// assert_eq!(rate(0), 1e-6);
/// assert!(rate(9) < rate(10) && rate(10) > rate(11) && rate(10) < 1e-3);
/// ```
pub fn warmup_over_cosine(epoch: u64, epochs: u64, warmup_epochs: u64, base: f64, first: f64, last: f64) -> f64 {
    if epoch < warmup_epochs {
        return first + (base - first) * epoch as f64 / warmup_epochs as f64;
    }
    cosine(epoch, epochs, base, last)
}

/// The momentum of the momentum encoder: half a cosine from `first` up to 1, updated every step.
pub fn momentum(step: u64, steps: u64, first: f64) -> f64 {
    cosine(step, steps, first, 1.0)
}

/// The decay of averaged weights after `steps` steps: at most `max_decay`, and lower early on, so that the average
/// spans about the last ninth of the steps and soon forgets the initial weights.
pub fn average_decay(steps: u64, max_decay: f64) -> f64 {
    let steps = steps as f64;
    max_decay.min((1.0 + steps) / (10.0 + steps))
}

/// The temperature at `step`: linear from `first` to `last` over `warmup_steps` (`last` included), then constant.
///
/// The published code counts in epochs, and so holds a temperature for an epoch.
///
/// ```
/// use patchmix::optim::schedule::temperature;
/// assert_eq!([0, 1, 2, 3].map(|step| temperature(step, 3, 0.5, 0.25)), [0.5, 0.375, 0.25, 0.25]);
/// ```
pub fn temperature(step: u64, warmup_steps: u64, first: f64, last: f64) -> f64 {
    if step >= warmup_steps.saturating_sub(1) {
        return last;
    }
    first + (last - first) * step as f64 / (warmup_steps - 1) as f64
}
