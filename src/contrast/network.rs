//! The networks that make queries and keys: the trained model and its momentum copy.

use tch::nn::{Path, VarStore};
use tch::{Device, Tensor};

use super::head::{Head, HeadConfig};
#[cfg(doc)]
use crate::Error;
use crate::error::{Result, check_float_kind, check_in, check_index};
use crate::optim::{average_weights, counterpart};
use crate::vit::{Vit, VitConfig, check_parameters};

/// Encoder and projector, which together make keys.
#[derive(Debug)]
pub struct KeyNetwork {
    /// The Vision Transformer, at `encoder` in the `VarStore`.
    pub encoder: Vit,
    /// Three layers, at `projector`.
    pub projector: Head,
}

impl KeyNetwork {
    fn new(path: &Path<'_>, vit: &VitConfig, heads: &HeadConfig) -> Result<KeyNetwork> {
        for (name, value) in [("hidden", heads.hidden), ("output", heads.output)] {
            check_in(name, value, 1..=1 << 20)?;
        }
        vit.check()?;
        let [width, hidden, output] = [vit.width, heads.hidden, heads.output].map(i128::from);
        check_parameters(width * hidden + hidden * hidden + 3 * hidden * output)?;
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

/// The trained model.
#[derive(Debug)]
pub struct Model {
    /// Encoder and projector.
    pub network: KeyNetwork,
    /// Two layers on top of the projector, for queries only, at `predictor` in the `VarStore`.
    pub predictor: Head,
}

impl Model {
    /// Creates the variables below `path`, initialized at random (following [`tch::manual_seed`]).
    ///
    /// # Errors
    ///
    /// Those of [`VitConfig::check`]; [`Error::Value`] unless the widths of the heads are between 1 and 2^20 and the
    /// heads have at most 2^32 parameters; [`Error::Torch`] if memory runs out.
    pub fn new(path: &Path<'_>, vit: &VitConfig, heads: &HeadConfig) -> Result<Model> {
        let network = KeyNetwork::new(path, vit, heads)?;
        let widths = [heads.output, heads.hidden, heads.output];
        Ok(Model { network, predictor: Head::new(&(path / "predictor"), &widths, vit.precision)? })
    }
}

/// The momentum encoder and projector: an exponential moving average of the trained ones that makes the keys. It drops
/// no paths, so the keys are the same whatever the seed.
#[derive(Debug)]
pub struct MomentumNetwork {
    store: VarStore,
    pub(super) network: KeyNetwork,
}

impl MomentumNetwork {
    /// A copy of the [`Model`] of this shape at the root of `model_store`, batch statistics included. The drop path of
    /// `vit` is for the model alone: as published, and as in DINO's teacher, the copy drops no paths.
    ///
    /// # Errors
    ///
    /// [`Error::Torch`] or [`Error::Shape`] if `model_store` holds another model, [`Error::Kind`] unless it has a
    /// floating-point kind, [`Error::Value`] if a CUDA index is out of range; those of [`Model::new`].
    pub fn new(model_store: &VarStore, vit: &VitConfig, heads: &HeadConfig, device: Device) -> Result<MomentumNetwork> {
        check_index(device)?;
        // The kind of the weights themselves, because `VarStore::kind` does not change with `VarStore::double`.
        let kind = model_store.trainable_variables().first().map_or(Ok(model_store.kind()), Tensor::f_kind)?;
        check_float_kind("model_store", kind)?;
        let mut store = VarStore::new(device);
        let network = KeyNetwork::new(&store.root(), &VitConfig { drop_path: 0.0, ..vit.clone() }, heads)?;
        let model = model_store.variables();
        for (name, copy) in store.variables() {
            counterpart(&model, &name, &copy)?;
        }
        store.set_kind(kind);
        store.copy(model_store)?;
        store.freeze();
        Ok(MomentumNetwork { store, network })
    }

    /// The encoder that makes the keys, for evaluation. It drops no paths.
    pub fn encoder(&self) -> &Vit {
        &self.network.encoder
    }

    /// The variables, for checkpoints.
    pub fn store(&self) -> &VarStore {
        &self.store
    }

    /// `copy = momentum * copy + (1 - momentum) * model` for every weight. Batch statistics are not averaged.
    ///
    /// # Errors
    ///
    /// [`Error::Value`] unless `0 <= momentum <= 1`; [`Error::Torch`] or [`Error::Shape`] if `model_store` holds
    /// another model. Nothing is changed then.
    pub fn update(&mut self, model_store: &VarStore, momentum: f64) -> Result<()> {
        check_in("momentum", momentum, 0.0..=1.0)?;
        average_weights(&self.store, model_store, momentum)
    }
}
