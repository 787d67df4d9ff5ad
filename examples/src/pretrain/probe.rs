//! The online probe: a linear classifier that learns from the features of each step, and teaches the encoder nothing.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use patchmix::eval::accuracy;
use patchmix::optim::AdamW;
use tch::nn::VarStore;
use tch::{Device, Kind, Reduction, Tensor};

use super::world::World;
use crate::Result;

/// Its learning rate times the width of the features. A step of Adam moves every weight by about the rate, and so a
/// score by about the rate times the width. It is constant, because the encoder keeps changing.
const LEARNING_RATE: f64 = 0.3;

/// A linear classifier of the encoder's features, trained by cross-entropy with Adam.
///
/// It draws no random numbers and the features carry no gradient, so training is the same to the bit without it.
pub(super) struct Probe {
    /// `[classes, width]` and `[classes]`.
    weight: Tensor,
    bias: Tensor,
    store: VarStore,
    optimizer: AdamW,
    learning_rate: f64,
    spent: Duration,
}

impl Probe {
    /// A probe of features of `width` numbers. Weights start at zero, because the loss is convex.
    pub(super) fn new(width: i64, classes: i64, device: Device) -> Result<Probe> {
        if classes < 1 {
            return Err(
                "--online-probe: needs classes of the training images and of validation images; restore these, or leave it \
 out of a new run".into()
            );
        }
        let store = VarStore::new(device);
        let weight = store.root().f_zeros("weight", &[classes, width])?;
        let bias = store.root().f_zeros("bias", &[classes])?;
        let optimizer = AdamW::new(&store)?;
        let learning_rate = LEARNING_RATE / width as f64;
        Ok(Probe { weight, bias, store, optimizer, learning_rate, spent: Duration::ZERO })
    }

    /// Learns from features `[B, width]` without gradient and their classes `[B]`, unless `healthy` (a scalar on the
    /// device) is 0: then the features may not be finite. Nothing waits for a GPU.
    pub(super) fn step(&mut self, features: &Tensor, labels: &Tensor, healthy: &Tensor, world: &World) -> Result<()> {
        let started = Instant::now();
        let loss = self.scores(features)?.f_cross_entropy_loss::<Tensor>(labels, None, Reduction::Mean, -100, 0.0)?;
        self.optimizer.zero_grad()?;
        loss.f_backward()?;
        world.average(&self.optimizer.gradients())?;
        self.optimizer.step_if(healthy, self.learning_rate, 0.0)?;
        self.spent += started.elapsed();
        Ok(())
    }

    /// Top-1 accuracy, a share, on features `[N, width]` of images of the classes `labels` `[N]`.
    pub(super) fn accuracy(&self, features: &Tensor, labels: &Tensor) -> Result<f64> {
        let _no_grad = tch::no_grad_guard();
        Ok(accuracy(&self.scores(features)?, labels)?.top1)
    }

    /// The time that its steps have taken. On a GPU, only that of issuing them.
    pub(super) fn spent(&self) -> Duration {
        self.spent
    }

    fn scores(&self, features: &Tensor) -> Result<Tensor> {
        Ok(features.f_to_kind(Kind::Float)?.f_linear(&self.weight, Some(&self.bias))?)
    }

    /// Weights and the optimizer's state, sharing memory with the probe. The number of steps is that of the training.
    pub(super) fn state(&self) -> HashMap<String, Tensor> {
        self.store.variables().into_iter().chain(self.optimizer.state()).collect()
    }

    /// Sets the number of steps, after the state has been overwritten.
    pub(super) fn set_steps(&mut self, steps: u64) -> Result<()> {
        let state = self.optimizer.state().into_iter().collect();
        Ok(self.optimizer.load_state(&state, steps)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::Settings;

    /// Features that point into the direction of their class, and noise.
    #[test]
    fn it_learns_what_the_features_say() {
        let (world, _) = World::alone(&Settings { device: "cpu".to_owned(), ..Settings::quick() }).unwrap();
        tch::manual_seed(1);
        let labels = Tensor::arange(64, (Kind::Int64, Device::Cpu)).remainder(4);
        let features = Tensor::eye(16, (Kind::Float, Device::Cpu)).index_select(0, &labels) * 2.0;
        let features = &features + features.randn_like() * 0.2;
        let mut probe = Probe::new(16, 4, Device::Cpu).unwrap();
        let step = |probe: &mut Probe, features: &Tensor, healthy: f32| {
            probe.step(features, &labels, &Tensor::from(healthy), &world).unwrap();
        };
        assert!(probe.accuracy(&features, &labels).unwrap() < 0.5, "its weights are 0");
        step(&mut probe, &(&features * f64::NAN), 0.0);
        for _ in 0..50 {
            step(&mut probe, &features, 1.0);
        }
        assert_eq!(probe.accuracy(&features, &labels).unwrap(), 1.0);
        assert!(probe.spent() > Duration::ZERO);
    }

    #[test]
    fn images_without_classes_are_refused() {
        let error = Probe::new(4, 0, Device::Cpu).err().unwrap().to_string();
        assert!(error.contains("--online-probe"), "{error}");
    }
}
