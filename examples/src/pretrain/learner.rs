//! The networks of a run, their optimizer, the probe that watches them, and the schedules.

use patchmix::contrast::{Model, MomentumNetwork};
use patchmix::optim::{AdamW, schedule};
use tch::nn::VarStore;
use tch::{Device, Tensor};

use super::probe::Probe;
use crate::Result;
use crate::seeds::{Purpose, seed_for};
use crate::settings::Settings;

/// The model, its momentum copy if there is one, the optimizer, and a probe if the run has one.
pub(super) struct Learner {
    pub(super) store: VarStore,
    pub(super) model: Model,
    pub(super) momentum: Option<MomentumNetwork>,
    pub(super) optimizer: AdamW,
    pub(super) probe: Option<Probe>,
}

/// Batch statistics as they were before a step.
pub(super) struct Statistics(Vec<(Tensor, Tensor)>);

impl Learner {
    /// For images of so many classes.
    pub(super) fn new(settings: &Settings, classes: i64, device: Device) -> Result<Learner> {
        let (store, model) = initial_model(settings, device)?;
        if settings.freeze_patch_embedding {
            model.network.encoder.freeze_patch_embedding()?;
        }
        let momentum = match settings.momentum_encoder {
            0.0 => None,
            _ => Some(MomentumNetwork::new(&store, &settings.vit(), &settings.head(), device)?),
        };
        let optimizer = AdamW::new(&store)?;
        let probe = settings.online_probe.then(|| Probe::new(settings.width, classes, device)).transpose()?;
        Ok(Learner { store, model, momentum, optimizer, probe })
    }

    /// The stores of the model and of its momentum copy.
    pub(super) fn stores(&self) -> impl Iterator<Item = &VarStore> {
        std::iter::once(&self.store).chain(self.momentum.as_ref().map(MomentumNetwork::store))
    }

    /// The batch statistics of all networks, which a forward pass moves.
    pub(super) fn statistics(&self) -> Result<Statistics> {
        let variables = self.stores().flat_map(VarStore::variables);
        let statistics = variables.filter(|(name, _)| name.contains(".running_"));
        let kept = statistics.map(|(_, current)| Ok((current.f_detach_copy()?, current)));
        Ok(Statistics(kept.collect::<Result<_>>()?))
    }
}

impl Statistics {
    /// Puts the statistics back unless `healthy` (a boolean scalar on their device) is true. Nothing waits for a GPU.
    pub(super) fn restore_unless(self, healthy: &Tensor) -> Result<()> {
        for (before, mut current) in self.0 {
            let kept = current.f_where_self(healthy, &before)?;
            current.f_copy_(&kept)?;
        }
        Ok(())
    }
}

/// A model with its initial weights. They are drawn on the CPU, so that a seed means the same on every device: a GPU
/// has a generator of its own.
pub(super) fn initial_model(settings: &Settings, device: Device) -> Result<(VarStore, Model)> {
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

/// The learning rate at the end of the cosine.
const LAST_LEARNING_RATE: f64 = 1e-6;

/// The scheduled values of one step.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rates {
    pub(super) learning: f64,
    pub(super) decay: f64,
    pub(super) momentum: f64,
    pub(super) temperature: f64,
}

impl Rates {
    /// The values of a step, counted from 0 at the start of the run.
    pub(super) fn at(step: u64, steps_per_epoch: u64, settings: &Settings) -> Rates {
        let (steps, warmup_steps) = (settings.epochs * steps_per_epoch, settings.warmup_epochs * steps_per_epoch);
        Rates {
            learning: schedule::warmup_cosine(step, steps, warmup_steps, settings.scaled_lr(), LAST_LEARNING_RATE),
            decay: schedule::cosine(step, steps, settings.weight_decay, settings.weight_decay_end),
            momentum: schedule::cosine(step, steps, settings.momentum_encoder, settings.momentum_end),
            temperature: schedule::temperature(
                step,
                settings.temperature_warmup_epochs * steps_per_epoch,
                settings.temperature_start,
                settings.temperature,
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rates(settings: &Settings) -> Vec<Rates> {
        (0..settings.epochs * 10).map(|step| Rates::at(step, 10, settings)).collect()
    }

    #[test]
    fn the_momentum_rises_to_its_end_or_stays() {
        let settings = Settings { momentum_encoder: 0.9, ..Settings::quick() };
        let to_one = rates(&settings);
        for (step, rates) in (0..).zip(&to_one) {
            assert_eq!(rates.momentum, schedule::momentum(step, 120, 0.9), "the published one");
        }
        let to_less = rates(&Settings { momentum_end: 0.95, ..settings.clone() });
        assert!(to_less.windows(2).all(|pair| pair[0].momentum < pair[1].momentum));
        assert!(to_less[0].momentum == 0.9 && (0.9499..0.95).contains(&to_less[119].momentum));
        let constant = rates(&Settings { momentum_end: 0.9, ..settings });
        assert!(constant.iter().all(|rates| rates.momentum == 0.9));
    }

    #[test]
    fn the_temperature_moves_in_a_line_and_stays() {
        assert!(rates(&Settings::quick()).iter().all(|rates| rates.temperature == 0.2));
        let warmup =
            Settings { temperature: 0.3, temperature_start: 0.1, temperature_warmup_epochs: 2, ..Settings::quick() };
        for (step, rates) in rates(&warmup).iter().enumerate() {
            let expected = if step < 20 { 0.1 + 0.2 * step as f64 / 19.0 } else { 0.3 };
            assert!((rates.temperature - expected).abs() < 1e-15, "{step}: {}", rates.temperature);
        }
    }
}
