//! Errors for views that do not fit together.

use patchmix::contrast::{LossConfig, Networks, View, losses};
use patchmix::{Error, MixPlan};

use crate::scene::{EVEN, Learner, Views, generator};

#[test]
fn a_view_that_does_not_fit_is_named() {
    let _generator = generator();
    let (learner, views) = (Learner::new(EVEN, false, 0.0), Views::new(EVEN));
    let networks = Networks { model: &learner.model, momentum: None, ranks: None };
    let (images, plan) = &views.global[0];
    let (crops, crop_plan) = &views.local[0];
    let run = |second: View<'_>, local: &[View<'_>], micro_batch| {
        let config = LossConfig { micro_batch, ..LossConfig::default() };
        losses(&networks, [View { images, plan }, second], local, &config).map(|_| ()).unwrap_err()
    };
    let global = View { images, plan };
    let local = View { images: crops, plan: crop_plan };
    let few = crops.narrow(0, 0, 3);
    let narrow = crops.narrow(3, 0, 4);
    let other_groups = MixPlan::random(4, 3, 1).unwrap();
    let other_stride = MixPlan::random(4, 2, 2).unwrap();
    let shape = |error, wanted| matches!(error, Error::Shape { name, .. } if name == wanted);
    assert!(shape(run(View { images: crops, ..global }, &[], None), "view_2"));
    assert!(shape(run(global, &[View { images: &few, ..local }], None), "local view"));
    assert!(shape(run(global, &[local, View { images: &narrow, ..local }], None), "local view"));
    assert!(shape(run(global, &[View { plan, ..local }], None), "images"));
    let value = |error, wanted| matches!(error, Error::Value { name, .. } if name == wanted);
    assert!(value(run(global, &[View { plan: &other_groups, ..local }], None), "groups of a local plan"));
    assert!(value(run(global, &[View { plan: &other_stride, ..local }], None), "mix_stride of a local plan"));
    assert!(value(run(global, &[local], Some(0)), "micro_batch"));
}
