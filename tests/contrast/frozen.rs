//! A frozen patch embedding.

use std::collections::BTreeMap;

use patchmix::contrast::LossConfig;
use patchmix::optim::AdamW;
use tch::Tensor;
use tch::nn::VarStore;

use crate::scene::{EVEN, Learner, Views, generator};

/// Random and not trained, as in MoCo v3: it has no gradient and no optimizer state, and the momentum network keeps it.
#[test]
fn a_frozen_patch_embedding_does_not_change() {
    let _generator = generator();
    let (mut learner, views) = (Learner::new(EVEN, true, 0.0), Views::new(EVEN));
    let is_frozen = |name: &str| name.starts_with("encoder.patch_embed.");
    let weights = |store: &VarStore| -> BTreeMap<String, Tensor> {
        store.variables().into_iter().map(|(name, weight)| (name, weight.detach().copy())).collect()
    };
    learner.model.network.encoder.freeze_patch_embedding().unwrap();
    let mut optimizer = AdamW::new(&learner.store).unwrap();
    assert!(optimizer.state().iter().all(|(name, _)| !is_frozen(name)));
    // The momentum network starts with the same weights.
    learner.momentum.as_mut().unwrap().update(&learner.store, 0.0).unwrap();
    let (before, before_copy) = (weights(&learner.store), weights(learner.momentum.as_ref().unwrap().store()));
    for micro_batch in [Some(2), None] {
        let config = LossConfig { micro_batch, ..LossConfig::default() };
        let gradients = learner.gradients(|| learner.losses(&views, None, &config).backward().unwrap());
        assert!(gradients.keys().all(|name| !is_frozen(name)));
        assert!(gradients.keys().any(|name| name == "encoder.pos_embed"));
    }
    let _ = optimizer.gradient_norm().unwrap();
    optimizer.step(1e-2, 0.1).unwrap();
    learner.momentum.as_mut().unwrap().update(&learner.store, 0.5).unwrap();
    let (after, after_copy) = (weights(&learner.store), weights(learner.momentum.as_ref().unwrap().store()));
    for name in before_copy.keys().filter(|name| !name.contains(".running_")) {
        assert_eq!(after[name] == before[name], is_frozen(name), "{name}");
        assert_eq!(after_copy[name] == before_copy[name], is_frozen(name), "copy of {name}");
    }
}
