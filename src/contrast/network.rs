//! The networks that make queries and keys, and their momentum copy.

use tch::nn::{Path, VarStore};
use tch::{Device, Tensor, no_grad_guard};

use super::head::{Head, HeadConfig};
use crate::error::{Error, Result};
use crate::vit::{Vit, VitConfig};

/// Encoder and projector: what makes keys.
#[derive(Debug)]
pub struct KeyNetwork {
    /// The Vision Transformer, under `encoder` in the `VarStore`.
    pub encoder: Vit,
    /// Three layers, under `projector`.
    pub projector: Head,
}

impl KeyNetwork {
    fn new(path: &Path<'_>, vit: &VitConfig, heads: &HeadConfig) -> Result<KeyNetwork> {
        for (name, value) in [("hidden", heads.hidden), ("output", heads.output)] {
            if !(1..=1 << 20).contains(&value) {
                return Err(Error::Value { name, expected: "between 1 and 1048576".into(), actual: value as f64 });
            }
        }
        let encoder = Vit::new(&(path / "encoder"), vit)?;
        let widths = [vit.width, heads.hidden, heads.hidden, heads.output];
        Ok(KeyNetwork { encoder, projector: Head::new(&(path / "projector"), &widths, vit.precision)? })
    }

    /// Projections `[B, output]` of images `[B, 3, H, W]`.
    ///
    /// # Errors
    ///
    /// Those of [`Vit::forward`] and [`Head::forward`].
    pub fn forward(&self, images: &Tensor, train: bool) -> Result<Tensor> {
        self.projector.forward(&self.encoder.forward(images, train)?, train)
    }
}

/// The model that is trained.
#[derive(Debug)]
pub struct Model {
    /// Encoder and projector.
    pub network: KeyNetwork,
    /// Two layers on the projections, for queries only, under `predictor` in the `VarStore`.
    pub predictor: Head,
}

impl Model {
    /// Makes the variables below `path`, initialised at random (following [`tch::manual_seed`]).
    ///
    /// # Errors
    ///
    /// Those of [`VitConfig::check`]; [`Error::Value`] if a width of the heads is below 1.
    pub fn new(path: &Path<'_>, vit: &VitConfig, heads: &HeadConfig) -> Result<Model> {
        let network = KeyNetwork::new(path, vit, heads)?;
        let widths = [heads.output, heads.hidden, heads.output];
        Ok(Model { network, predictor: Head::new(&(path / "predictor"), &widths, vit.precision)? })
    }
}

/// A copy of encoder and projector that follows the trained ones slowly and makes the keys.
#[derive(Debug)]
pub struct MomentumNetwork {
    store: VarStore,
    pub(super) network: KeyNetwork,
}

impl MomentumNetwork {
    /// A copy of what `model_store` holds for a [`Model`] of this shape made at its root, statistics included.
    ///
    /// # Errors
    ///
    /// [`Error::Torch`] if `model_store` holds another model.
    pub fn new(model_store: &VarStore, vit: &VitConfig, heads: &HeadConfig, device: Device) -> Result<MomentumNetwork> {
        let mut store = VarStore::new(device);
        let network = KeyNetwork::new(&store.root(), vit, heads)?;
        // The kind of the weights themselves: `VarStore::kind` does not follow `VarStore::double`.
        if let Some(weight) = model_store.trainable_variables().first() {
            store.set_kind(weight.f_kind()?);
        }
        store.copy(model_store)?;
        store.freeze();
        Ok(MomentumNetwork { store, network })
    }

    /// The variables, for checkpoints.
    pub fn store(&self) -> &VarStore {
        &self.store
    }

    /// `copy = momentum * copy + (1 - momentum) * model`, for the weights; batch statistics are each network's own.
    ///
    /// # Errors
    ///
    /// [`Error::Shape`] if `model_store` lacks a variable, [`Error::Torch`] if one has another shape.
    pub fn update(&mut self, model_store: &VarStore, momentum: f64) -> Result<()> {
        let _no_grad = no_grad_guard();
        let source = model_store.variables();
        for (name, mut copy) in self.store.variables() {
            let weight = source.get(&name).ok_or_else(|| {
                let expected = format!("{:?} for {name}", copy.size());
                Error::Shape { name: "model_store", expected, actual: Vec::new() }
            })?;
            // The running statistics do not require gradient.
            if weight.requires_grad() {
                let _ = copy.f_lerp_(weight, 1.0 - momentum)?;
            }
        }
        Ok(())
    }
}
