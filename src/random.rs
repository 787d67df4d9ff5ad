//! Seeds and random numbers that are pure functions of a seed and a place, on every machine and in every thread.
//!
//! The random draws of this crate follow [`tch::manual_seed`]. A training loop that seeds before each draw with
//! [`seed_for`] has no generator state to save: what is random at a step depends on the run's seed and the step alone,
//! so a resumed run draws the same numbers as an uninterrupted one.

/// A seed for [`tch::manual_seed`] that is a hash of the run's seed and of a place, such as the epoch, the step and a
/// number for what is drawn. It is not negative.
///
/// ```
/// use patchmix::random::seed_for;
/// let (epoch, step, purpose) = (2, 31, 4);
/// assert_eq!(seed_for(7, &[epoch, step, purpose]), seed_for(7, &[epoch, step, purpose]));
/// assert_ne!(seed_for(7, &[epoch, step, purpose]), seed_for(7, &[epoch, step + 1, purpose]));
/// ```
///
/// `place` must not be empty. A place of one number and [`uniform`] with that draw share their random bits.
pub fn seed_for(seed: u64, place: &[u64]) -> i64 {
    seed_of(place.iter().fold(seed, |state, &part| Stream::new(state, part).bits()))
}

/// A number in `[0, 1)` that is a function of `seed` and `draw`, for decisions that need no tensor.
pub fn uniform(seed: i64, draw: u64) -> f64 {
    Stream::new(seed as u64, draw).unit()
}

/// A stream of random numbers (SplitMix64) for one position under one seed.
///
/// tch has one generator for the whole process, so what it draws depends on everything drawn before. With a stream per
/// position, image 7 is the same whether or not images 0 to 6 were ever made.
#[derive(Debug)]
pub(crate) struct Stream {
    state: u64,
}

impl Stream {
    pub(crate) fn new(seed: u64, position: u64) -> Stream {
        // Scrambled twice, so that neighboring seeds do not share the streams of neighboring positions.
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

    /// A number in `low..high`.
    pub(crate) fn between(&mut self, low: f32, high: f32) -> f32 {
        let unit = (self.bits() >> 40) as f32 / (1_u64 << 24) as f32;
        low + unit * (high - low)
    }

    /// An integer in `0..limit`, or 0 if `limit` is 0. The bias, one part in `2^64 / limit`, is too small to observe.
    pub(crate) fn below(&mut self, limit: usize) -> usize {
        ((u128::from(self.bits()) * limit as u128) >> 64) as usize
    }
}

/// Random bits as a nonnegative seed.
fn seed_of(bits: u64) -> i64 {
    (bits >> 1) as i64
}

/// The finalizer of SplitMix64: a bijection in which every input bit affects every output bit.
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
        // The first three outputs of the published generator with state 0.
        let mut stream = Stream { state: 0 };
        assert_eq!(stream.bits(), 0xE220_A839_7B1D_CDAF);
        assert_eq!(stream.bits(), 0x6E78_9E6A_A1B9_65F4);
        assert_eq!(stream.bits(), 0x06C4_5D18_8009_454F);
    }

    /// Computed independently in Python. A run resumed with another version of the crate relies on them.
    #[test]
    fn seeds_are_the_same_in_every_version() {
        assert_eq!(seed_for(7, &[2, 31, 4]), 1713402489759733269);
        assert_eq!(seed_for(u64::MAX, &[0, 0, 0]), 8069605913965586849);
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
