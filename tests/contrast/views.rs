//! Which view makes which queries and keys.

use patchmix::MixPlan;
use patchmix::contrast::{LossConfig, Losses};

use crate::scene::{EVEN, Learner, Sizes, Views, generator, values};

const GLOBAL: Sizes = Sizes { views: 0, ..EVEN };

fn contrastive(losses: &Losses<'_>) -> [f64; 3] {
    let values = values(losses);
    ["origin_to_origin", "mix_to_origin", "mix_to_mix"].map(|name| values[name].double_value(&[]))
}

/// Keys carry no gradient, so a gradient reaches the images that the query is made of.
#[test]
fn the_first_view_makes_the_plain_query_and_the_second_the_mixed_one() {
    let _generator = generator();
    for with_momentum in [false, true] {
        let (learner, views) = (Learner::new(GLOBAL, with_momentum, 0.0), Views::new(GLOBAL));
        let reached_by = |name: &str| {
            let global = views.global.each_ref();
            let global = global.map(|(images, plan)| (images.copy().set_requires_grad(true), plan.clone()));
            let views = Views { global, local: Vec::new() };
            values(&learner.losses(&views, None, &LossConfig::default()))[name].backward();
            views.global.map(|(images, _)| images.grad().defined())
        };
        assert_eq!(reached_by("origin_to_origin"), [true, false]);
        assert_eq!(reached_by("mix_to_origin"), [false, true]);
        assert_eq!(reached_by("mix_to_mix"), [false, true]);
    }
}

/// Origin-to-origin contrast knows no mix: its key is the plain second view. The key of the mixed query is the plain
/// first view, then the mixed first view: the first plan changes mix-to-mix contrast only.
#[test]
fn the_keys_are_the_plain_second_view_the_plain_first_and_the_mixed_first() {
    let _generator = generator();
    for with_momentum in [false, true] {
        let (learner, mut views) = (Learner::new(GLOBAL, with_momentum, 0.0), Views::new(GLOBAL));
        let losses = |views: &Views| contrastive(&learner.losses(views, None, &LossConfig::default()));
        let before = losses(&views);
        let mut changed_by = |change: &dyn Fn(&mut Views)| {
            let kept = views.global.each_ref().map(|(images, plan)| (images.shallow_clone(), plan.clone()));
            change(&mut views);
            let after = losses(&views);
            views.global = kept;
            [0, 1, 2].map(|term| before[term] != after[term])
        };
        let other_plan = MixPlan::random(16, 2, 1).unwrap();
        assert_eq!(changed_by(&|views| views.global[0].1 = other_plan.clone()), [false, false, true]);
        assert_eq!(changed_by(&|views| views.global[1].1 = other_plan.clone()), [false, true, true]);
        assert_eq!(changed_by(&|views| views.global[0].0 = views.global[0].0.randn_like()), [true; 3]);
        assert_eq!(changed_by(&|views| views.global[1].0 = views.global[1].0.randn_like()), [true; 3]);
    }
}
