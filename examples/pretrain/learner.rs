//! The networks of a run and their optimizer.

use patchmix::contrast::{Model, MomentumNetwork};
use patchmix::optim::AdamW;
use patchmix::random::{Purpose, seed_for};
use tch::nn::VarStore;
use tch::{Device, Tensor};

use super::Result;
use super::settings::Settings;

/// What learns: the model, its slowly following copy if there is one, and the optimizer.
pub(crate) struct Learner {
    pub(crate) store: VarStore,
    pub(crate) model: Model,
    pub(crate) momentum: Option<MomentumNetwork>,
    pub(crate) optimizer: AdamW,
}

impl Learner {
    pub(crate) fn new(settings: &Settings, device: Device) -> Result<Learner> {
        let (store, model) = drawn_model(settings, device)?;
        if settings.freeze_patch_embedding {
            model.network.encoder.freeze_patch_embedding()?;
        }
        let momentum = match settings.momentum_encoder {
            0.0 => None,
            _ => Some(MomentumNetwork::new(&store, &settings.vit(), &settings.head(), device)?),
        };
        let optimizer = AdamW::new(&store)?;
        Ok(Learner { store, model, momentum, optimizer })
    }

    /// The batch statistics of all networks, which a forward pass moves.
    pub(crate) fn statistics(&self) -> Vec<Tensor> {
        let stores = std::iter::once(&self.store).chain(self.momentum.as_ref().map(MomentumNetwork::store));
        let variables = stores.flat_map(|store| store.variables());
        variables.filter(|(name, _)| name.contains(".running_")).map(|(_, tensor)| tensor).collect()
    }
}

/// A model with its initial weights. They are drawn on the CPU, so that a seed means the same on every device: a GPU
/// has a generator of its own.
fn drawn_model(settings: &Settings, device: Device) -> Result<(VarStore, Model)> {
    let model_on = |device| -> Result<(VarStore, Model)> {
        let store = VarStore::new(device);
        let model = Model::new(&store.root(), &settings.vit(), &settings.head())?;
        Ok((store, model))
    };
    tch::manual_seed(seed_for(settings.seed, 0, 0, Purpose::Weights));
    let drawn = model_on(Device::Cpu)?;
    if device == Device::Cpu {
        return Ok(drawn);
    }
    let (store, model) = model_on(device)?;
    let drawn = drawn.0.variables();
    let _no_grad = tch::no_grad_guard();
    for (name, mut variable) in store.variables() {
        variable.f_copy_(drawn.get(&name).ok_or("a model has the same variables on every device")?)?;
    }
    Ok((store, model))
}
