//! The networks and views of the tests.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use patchmix::contrast::{HeadConfig, LossConfig, Losses, Model, MomentumNetwork, Networks, View, losses};
use patchmix::optim::AdamW;
use patchmix::vit::{Precision, VitConfig};
use patchmix::{MixPlan, Ranks};
use tch::nn::VarStore;
use tch::{Device, Kind, Tensor};

use crate::common::assert_close;

pub(crate) const DOUBLE: (Kind, Device) = (Kind::Double, Device::Cpu);
pub(crate) const BATCH: i64 = 5;
pub(crate) const HEADS: HeadConfig = HeadConfig { hidden: 10, output: 6 };

pub(crate) type Tensors = BTreeMap<String, Tensor>;

/// Locks and seeds the generator, which all tests share. Small tensors gain nothing from more threads, which slow each
/// other down on a busy machine.
pub(crate) fn generator() -> MutexGuard<'static, ()> {
    static GENERATOR: Mutex<()> = Mutex::new(());
    let guard = GENERATOR.lock().unwrap_or_else(PoisonError::into_inner);
    tch::set_num_threads(1);
    tch::manual_seed(1);
    guard
}

/// Sides of an image, of a local view, of a patch and of a block that is mixed, in pixels; numbers of local views and
/// of groups; the mix stride; whether groups are bands, and whether every image has a plan of its own.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sizes {
    pub(crate) image: i64,
    pub(crate) local: i64,
    pub(crate) patch: i64,
    pub(crate) block: i64,
    pub(crate) views: usize,
    pub(crate) groups: i64,
    pub(crate) stride: i64,
    pub(crate) bands: bool,
    pub(crate) per_image: bool,
}

pub(crate) const EVEN: Sizes =
    Sizes { image: 16, local: 8, patch: 4, block: 4, views: 2, groups: 2, stride: 1, bands: false, per_image: false };
/// Local views of 49 patches.
pub(crate) const UNEVEN: Sizes = Sizes { local: 14, patch: 2, block: 2, stride: 2, ..EVEN };

/// Images and their mix.
pub(crate) type Crop = (Tensor, MixPlan);

/// The views of one rank.
pub(crate) struct Views {
    pub(crate) global: [Crop; 2],
    pub(crate) local: Vec<Crop>,
}

impl Views {
    pub(crate) fn new(sizes: Sizes) -> Views {
        let one_plan = |blocks: i64| match sizes.bands {
            true => MixPlan::bands(blocks, blocks, sizes.groups, sizes.stride).unwrap(),
            false => MixPlan::random(blocks * blocks, sizes.groups, sizes.stride).unwrap(),
        };
        let plan = |blocks: i64| match sizes.per_image {
            true => MixPlan::per_image(&(0..BATCH).map(|_| one_plan(blocks)).collect::<Vec<_>>()).unwrap(),
            false => one_plan(blocks),
        };
        let crop = |side: i64| {
            let plan = plan(side / sizes.block);
            (Tensor::randn([BATCH, 3, side, side], DOUBLE), plan)
        };
        let local = (0..sizes.views).map(|_| crop(sizes.local)).collect();
        Views { global: [crop(sizes.image), crop(sizes.image)], local }
    }
}

/// A model in double precision, and its momentum copy if there is one.
pub(crate) struct Learner {
    pub(crate) store: VarStore,
    pub(crate) model: Model,
    pub(crate) momentum: Option<MomentumNetwork>,
}

impl Learner {
    pub(crate) fn new(sizes: Sizes, with_momentum: bool, drop_path: f64) -> Learner {
        let vit = VitConfig {
            image_size: sizes.image,
            patch_size: sizes.patch,
            width: 12,
            depth: 3,
            heads: 2,
            mlp_ratio: 2,
            drop_path,
            precision: Precision::Full,
        };
        let mut store = VarStore::new(Device::Cpu);
        let model = Model::new(&store.root(), &vit, &HEADS).unwrap();
        store.double();
        // Far from initialization, where the class token hardly depends on the image.
        let shift = |weight: &mut Tensor| *weight += weight.randn_like() * 0.2;
        tch::no_grad(|| store.trainable_variables().iter_mut().for_each(shift));
        let momentum = with_momentum.then(|| {
            let copy = MomentumNetwork::new(&store, &vit, &HEADS, Device::Cpu).unwrap();
            tch::no_grad(|| copy.store().variables().values_mut().for_each(|weight| *weight *= 1.1));
            copy
        });
        Learner { store, model, momentum }
    }

    /// A copy with the same weights.
    pub(crate) fn copy(&self) -> Learner {
        let vit = self.model.network.encoder.config();
        let mut store = VarStore::new(Device::Cpu);
        let model = Model::new(&store.root(), vit, &HEADS).unwrap();
        store.double();
        store.copy(&self.store).unwrap();
        let momentum = self.momentum.as_ref().map(|momentum| {
            let copy = MomentumNetwork::new(&store, vit, &HEADS, Device::Cpu).unwrap();
            set(&copy.store().variables().into_iter().collect(), &momentum.store().variables().into_iter().collect());
            copy
        });
        Learner { store, model, momentum }
    }

    pub(crate) fn losses<'a>(&'a self, views: &Views, ranks: Option<&'a dyn Ranks>, config: &LossConfig) -> Losses<'a> {
        let networks = Networks { model: &self.model, momentum: self.momentum.as_ref(), ranks };
        let global = views.global.each_ref().map(|(images, plan)| View { images, plan });
        let local: Vec<View<'_>> = views.local.iter().map(|(images, plan)| View { images, plan }).collect();
        losses(&networks, global, &local, config).unwrap()
    }

    /// The gradients that `backward` computes, by name.
    pub(crate) fn gradients(&self, backward: impl FnOnce()) -> Tensors {
        AdamW::new(&self.store).unwrap().zero_grad().unwrap();
        backward();
        let with_gradient = self.store.variables().into_iter().filter(|(_, weight)| weight.grad().defined());
        with_gradient.map(|(name, weight)| (name, weight.grad().copy())).collect()
    }

    /// The running statistics of all networks, sharing memory with them.
    pub(crate) fn live_statistics(&self) -> Tensors {
        let copy = self.momentum.iter().flat_map(|momentum| running_statistics(momentum.store()));
        let copy = copy.map(|(name, tensor)| (format!("momentum {name}"), tensor));
        running_statistics(&self.store).into_iter().chain(copy).collect()
    }

    pub(crate) fn statistics(&self) -> Tensors {
        self.live_statistics().into_iter().map(|(name, tensor)| (name, tensor.copy())).collect()
    }
}

/// The running statistics in a store, sharing memory with them.
pub(crate) fn running_statistics(store: &VarStore) -> Tensors {
    store.variables().into_iter().filter(|(name, _)| name.contains(".running_")).collect()
}

/// Copies `values` into the variables with the same names.
pub(crate) fn set(variables: &Tensors, values: &Tensors) {
    tch::no_grad(|| {
        for (name, variable) in variables {
            variable.shallow_clone().copy_(&values[name]);
        }
    });
}

/// The total and its terms, by name.
pub(crate) fn values(losses: &Losses<'_>) -> Tensors {
    let mut values: Tensors = losses.terms().map(|(term, loss)| (term.name.to_owned(), loss.shallow_clone())).collect();
    values.insert("total".to_owned(), losses.total().unwrap());
    values
}

#[track_caller]
pub(crate) fn assert_all_close(actual: &Tensors, expected: &Tensors, tolerance: f64) {
    assert_eq!(actual.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>());
    for (name, tensor) in actual {
        assert_close(name, tensor, &expected[name], tolerance);
    }
}
