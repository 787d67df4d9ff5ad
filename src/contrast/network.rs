//! The networks that make queries and keys, and their momentum copy.

use tch::nn::{Path, VarStore};
use tch::{Device, Tensor};

use super::head::{Head, HeadConfig};
use crate::error::{Error, Result, check_float_kind, check_index, check_value};
use crate::optim::{average_weights, counterpart};
use crate::vit::{Vit, VitConfig, check_parameters};

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
    /// Those of [`VitConfig::check`]; [`Error::Value`] if a width of the heads is below 1 or beyond 2^20, or if the heads
    /// have more than 2^32 parameters; [`Error::Torch`] if there is no memory for them.
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
    /// [`Error::Torch`] if `model_store` holds another model, [`Error::Shape`] if one of another shape, [`Error::Kind`]
    /// unless its kind is a floating-point kind, [`Error::Value`] for the index of a GPU that there cannot be; those of
    /// [`Model::new`].
    pub fn new(model_store: &VarStore, vit: &VitConfig, heads: &HeadConfig, device: Device) -> Result<MomentumNetwork> {
        check_index(device)?;
        // The kind of the weights themselves: `VarStore::kind` does not follow `VarStore::double`.
        let kind = model_store.trainable_variables().first().map_or(Ok(model_store.kind()), Tensor::f_kind)?;
        check_float_kind("model_store", kind)?;
        let mut store = VarStore::new(device);
        let network = KeyNetwork::new(&store.root(), vit, heads)?;
        let model = model_store.variables();
        for (name, copy) in store.variables() {
            counterpart(&model, &name, &copy)?;
        }
        store.set_kind(kind);
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
    /// [`Error::Value`] unless `0 <= momentum <= 1`; [`Error::Torch`] if `model_store` holds another model,
    /// [`Error::Shape`] if one of another shape. Nothing is changed then.
    pub fn update(&mut self, model_store: &VarStore, momentum: f64) -> Result<()> {
        check_value("momentum", momentum, "between 0 and 1", (0.0..=1.0).contains(&momentum))?;
        average_weights(&self.store, model_store, momentum)
    }
}
