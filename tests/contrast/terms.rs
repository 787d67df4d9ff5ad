//! The terms of the total loss.

use patchmix::contrast::{LossConfig, Losses, Term};
use tch::Tensor;

use crate::common::assert_close;
use crate::scene::{EVEN, Learner, Sizes, Views, generator};

/// `total = oo + mo/2 + mm/2 + lo + lmo`, where the local terms are left out if there are no local views.
#[test]
fn the_total_is_the_weighted_sum_of_the_terms() {
    let _generator = generator();
    for sizes in [EVEN, Sizes { views: 0, ..EVEN }] {
        let (learner, views) = (Learner::new(sizes, false, 0.0), Views::new(sizes));
        let losses = learner.losses(&views, None, &LossConfig::default());
        let terms: Vec<(Term, &Tensor)> = losses.terms().collect();
        let expected = [
            ("origin_to_origin", 1.0, losses.origin_to_origin.as_ref()),
            ("mix_to_origin", 0.5, losses.mix_to_origin.as_ref()),
            ("mix_to_mix", 0.5, losses.mix_to_mix.as_ref()),
            ("local_to_origin", 1.0, losses.local_to_origin.as_ref()),
            ("local_mix_to_origin", 1.0, losses.local_mix_to_origin.as_ref()),
        ];
        let expected: Vec<_> =
            expected.into_iter().filter_map(|(name, weight, loss)| Some((name, weight, loss?))).collect();
        assert_eq!(terms.len(), if sizes.views > 0 { 5 } else { 3 });
        assert_eq!(terms.len(), expected.len());
        for ((term, loss), (name, weight, field)) in terms.iter().zip(&expected) {
            assert_eq!(*term, Term { name, weight: *weight, local: name.starts_with("local") });
            assert_eq!(loss, field);
        }
        let sum = expected.iter().map(|(_, weight, loss)| *loss * *weight).sum::<Tensor>();
        let total = losses.total().unwrap();
        assert_eq!(total.kind(), expected[0].2.kind());
        assert_close("total", &total, &sum, 1e-12);
    }
    assert_eq!(Losses::TERMS.map(|term| term.weight), [1.0, 0.5, 0.5, 1.0, 1.0]);
}
