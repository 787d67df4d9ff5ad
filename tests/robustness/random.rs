//! Seeds: functions of any numbers.

use patchmix::random::{Purpose, seed_for, uniform};
use proptest::prelude::*;

use crate::any::unsigned;
use crate::typed;

proptest! {
    #[test]
    fn seeds_and_numbers_stay_in_range(seed in unsigned(), epoch in unsigned(), step in unsigned(), signed in any::<i64>()) {
        for purpose in [Purpose::Weights, Purpose::FirstView, Purpose::SecondView, Purpose::Groups, Purpose::Mix, Purpose::Model] {
            prop_assert!(typed("seed_for", || seed_for(seed, epoch, step, purpose)) >= 0);
        }
        prop_assert!((0.0..1.0).contains(&typed("uniform", || uniform(signed, step))));
    }
}
