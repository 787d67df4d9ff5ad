//! Seeds and random numbers for any arguments.

use patchmix::random::{seed_for, uniform};
use proptest::prelude::*;

use crate::any::unsigned;
use crate::typed;

proptest! {
    #[test]
    fn seeds_and_numbers_stay_in_range(
        seed in unsigned(),
        place in prop::collection::vec(unsigned(), 0..5),
        signed in any::<i64>(),
        draw in unsigned(),
    ) {
        prop_assert!(typed("seed_for", || seed_for(seed, &place)) >= 0);
        prop_assert!((0.0..1.0).contains(&typed("uniform", || uniform(signed, draw))));
    }
}
