//! Passes of images through the encoder: whole batches, or micro-batches that are computed again for the gradient.

use tch::{Device, Kind, Tensor, no_grad_guard};

use crate::error::{Result, check_in};
use crate::native::layers::CastsOnce;
use crate::random::seed_for;
use crate::vit::Vit;

/// The passes of one step through the encoder.
#[derive(Debug)]
pub(super) struct Passes<'a> {
    encoder: &'a Vit,
    /// `None` for whole batches, which keep the graph of the computation.
    micro_batches: Option<MicroBatches>,
}

/// Batches that go through the encoder in parts and without a graph. The backward pass computes each part again.
#[derive(Debug)]
struct MicroBatches {
    size: i64,
    /// Drawn once per step. The parts have the places 1, 2, ... under it, and what follows the step has 0.
    seed: u64,
    parts: Vec<Part>,
}

/// A micro-batch that the backward pass computes again.
#[derive(Debug)]
struct Part {
    images: Tensor,
    /// With the same seed, drop path drops the same paths.
    seed: i64,
    /// A leaf of the losses' graph, where the gradient arrives.
    features: Tensor,
}

impl<'a> Passes<'a> {
    pub(super) fn new(encoder: &'a Vit, micro_batch: Option<i64>) -> Result<Passes<'a>> {
        let micro_batches = micro_batch.map(MicroBatches::new).transpose()?;
        Ok(Passes { encoder, micro_batches })
    }

    /// Features `[B, width]` with gradient, for each of several batches of the same shape.
    pub(super) fn features(&mut self, batches: &[&Tensor]) -> Result<Vec<Tensor>> {
        match &mut self.micro_batches {
            None => whole_batches(self.encoder, batches),
            Some(micro_batches) => batches.iter().map(|images| micro_batches.features(self.encoder, images)).collect(),
        }
    }

    /// Features without gradient. `encoder` may be another one, such as the momentum encoder.
    pub(super) fn key_features(&self, encoder: &Vit, batches: &[&Tensor]) -> Result<Vec<Tensor>> {
        let _no_grad = no_grad_guard();
        let Some(micro_batches) = &self.micro_batches else { return whole_batches(encoder, batches) };
        let features = batches.iter().map(|images| {
            let parts = micro_batches.split(images)?;
            let parts = parts.iter().map(|images| encoder.forward(images, true)).collect::<Result<Vec<_>>>()?;
            Ok(Tensor::f_cat(&parts, 0)?)
        });
        features.collect()
    }

    /// Carries the gradient of the features through the encoder. Whole batches have a graph that has done so already.
    pub(super) fn backward(&self) -> Result<()> {
        match &self.micro_batches {
            Some(micro_batches) => micro_batches.backward(self.encoder),
            None => Ok(()),
        }
    }
}

impl MicroBatches {
    fn new(size: i64) -> Result<MicroBatches> {
        check_in("micro_batch", size, 1..)?;
        let seed = i64::try_from(Tensor::f_randint(i64::MAX, [], (Kind::Int64, Device::Cpu))?)?;
        Ok(MicroBatches { size, seed: seed as u64, parts: Vec::new() })
    }

    fn split(&self, images: &Tensor) -> Result<Vec<Tensor>> {
        Ok(images.f_split(self.size.min(images.size()[0]).max(1), 0)?)
    }

    fn features(&mut self, encoder: &Vit, images: &Tensor) -> Result<Tensor> {
        let mut all = Vec::new();
        for images in self.split(images)? {
            let seed = seed_for(self.seed, &[1 + self.parts.len() as u64]);
            tch::manual_seed(seed);
            let features = {
                let _no_grad = no_grad_guard();
                encoder.forward(&images, true)?
            };
            let features = features.f_set_requires_grad(true)?;
            all.push(features.shallow_clone());
            self.parts.push(Part { images, seed, features });
        }
        Ok(Tensor::f_cat(&all, 0)?)
    }

    fn backward(&self, encoder: &Vit) -> Result<()> {
        let _casts = CastsOnce::begin();
        for Part { images, seed, features } in &self.parts {
            tch::manual_seed(*seed);
            let again = encoder.forward(images, true)?;
            let gradient = features.f_grad()?;
            if gradient.defined() && again.requires_grad() {
                // A scalar whose gradient with respect to the features is `gradient`.
                again.f_mul(&gradient)?.f_sum(None)?.f_backward()?;
            }
        }
        // Otherwise later draws would repeat those of the last part.
        tch::manual_seed(seed_for(self.seed, &[0]));
        Ok(())
    }
}

/// Features of several batches of the same shape. A GPU takes them in one pass, which fills it better. A CPU is busy
/// with one batch, and is faster with less memory in use.
fn whole_batches(encoder: &Vit, batches: &[&Tensor]) -> Result<Vec<Tensor>> {
    if batches.is_empty() || encoder.device() == Device::Cpu {
        return batches.iter().map(|images| encoder.forward(images, true)).collect();
    }
    let together = encoder.forward(&Tensor::f_cat(batches, 0)?, true)?;
    Ok(together.f_split(batches[0].size()[0], 0)?)
}
