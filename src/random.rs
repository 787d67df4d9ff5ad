//! Randomness as a function of a seed and a place, on every machine and in every thread alike.
//!
//! The random draws of this crate follow [`tch::manual_seed`]. A training loop that seeds before each draw with
//! [`seed_for`] has no generator state to save: what is random at a step depends on the run's seed and the step alone,
//! and a resumed run draws what the uninterrupted one would have drawn.

/// What a draw is for; draws for different purposes are independent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Purpose {
    /// Initial weights.
    Weights,
    /// The first view of a batch.
    FirstView,
    /// The second view of a batch.
    SecondView,
    /// Whether a batch is mixed, and by how many groups.
    Groups,
    /// Which positions belong to which group.
    Mix,
    /// Drop path in the forward passes.
    Model,
    /// The small local views of a batch.
    LocalViews,
    /// What is cut out of the images of an epoch, where that is done ahead of the rest of a view.
    Crops,
}

/// A seed for [`tch::manual_seed`] that depends on the run's seed, the place and the purpose, and looks random in each.
///
/// ```
/// use patchmix::random::{Purpose, seed_for};
/// assert_eq!(seed_for(7, 2, 31, Purpose::Mix), seed_for(7, 2, 31, Purpose::Mix));
/// assert_ne!(seed_for(7, 2, 31, Purpose::Mix), seed_for(7, 2, 32, Purpose::Mix));
/// ```
pub fn seed_for(seed: u64, epoch: u64, step: u64, purpose: Purpose) -> i64 {
    let place = [epoch, step, purpose as u64].into_iter();
    let bits = place.fold(seed, |state, part| Stream::new(state, part).bits());
    seed_of(bits)
}

/// A number in `[0, 1)` that is a function of `seed` and `draw`, for decisions that need no tensor.
pub fn uniform(seed: i64, draw: u64) -> f64 {
    Stream::new(seed as u64, draw).unit()
}

/// A stream of random numbers (SplitMix64) for one position under one seed.
///
/// The generator of tch is one for the whole process; what image or order comes out of it depends on all that was drawn
/// before. Here image 7 is image 7 whether or not images 0 to 6 were ever made.
#[derive(Debug)]
pub(crate) struct Stream {
    state: u64,
}

impl Stream {
    pub(crate) fn new(seed: u64, position: u64) -> Stream {
        // Scrambled twice, so that neighbouring seeds do not share the streams of neighbouring positions.
        Stream { state: scramble(scramble(seed).wrapping_add(position)) }
    }

    /// 64 random bits.
    pub(crate) fn bits(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        scramble(self.state)
    }

    /// A number in `[0, 1)`.
    pub(crate) fn unit(&mut self) -> f64 {
        const DIGITS: u32 = f64::MANTISSA_DIGITS;
        (self.bits() >> (u64::BITS - DIGITS)) as f64 / (1_u64 << DIGITS) as f64
    }

    /// A seed for [`tch::manual_seed`].
    pub(crate) fn seed(&mut self) -> i64 {
        seed_of(self.bits())
    }

    /// A number in `low..high`.
    pub(crate) fn between(&mut self, low: f32, high: f32) -> f32 {
        let unit = (self.bits() >> 40) as f32 / (1_u64 << 24) as f32;
        low + unit * (high - low)
    }

    /// A whole number in `0..limit`, and 0 for a limit of 0.
    ///
    /// Its bias, one part in `2^64 / limit`, is far below anything that could be observed.
    pub(crate) fn below(&mut self, limit: usize) -> usize {
        ((u128::from(self.bits()) * limit as u128) >> 64) as usize
    }
}

/// Random bits as a seed that is not negative.
fn seed_of(bits: u64) -> i64 {
    (bits >> 1) as i64
}

/// The finalizer of SplitMix64: a bijection in which every input bit moves every output bit.
fn scramble(mut bits: u64) -> u64 {
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    bits ^ (bits >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_generator_is_splitmix64() {
        // The published generator started at 0: its first three outputs.
        let mut stream = Stream { state: 0 };
        assert_eq!(stream.bits(), 0xE220_A839_7B1D_CDAF);
        assert_eq!(stream.bits(), 0x6E78_9E6A_A1B9_65F4);
        assert_eq!(stream.bits(), 0x06C4_5D18_8009_454F);
    }

    #[test]
    fn numbers_stay_in_range_and_fill_it() {
        let mut stream = Stream::new(1, 2);
        let mut counts = [0; 7];
        for _ in 0..7_000 {
            assert!((-2.0..3.0).contains(&stream.between(-2.0, 3.0)));
            counts[stream.below(7)] += 1;
        }
        assert!(counts.iter().all(|&count| (850..1150).contains(&count)), "{counts:?}");
        assert_eq!(stream.below(0), 0);
    }

    #[test]
    fn seeds_and_positions_do_not_overlap() {
        let firsts: std::collections::HashSet<u64> =
            (0..50).flat_map(|seed| (0..50).map(move |position| Stream::new(seed, position).bits())).collect();
        assert_eq!(firsts.len(), 2_500);
    }
}
