//! Passes of images through the encoder: whole batches, or so many images at a time.

use tch::{Device, Kind, Tensor, no_grad_guard};

use crate::error::{Result, check_value};
use crate::random::Stream;
use crate::vit::Vit;

/// The passes of one step through the encoder.
#[derive(Debug)]
pub(super) struct Passes<'a> {
    encoder: &'a Vit,
    /// `None` for whole batches, with a graph of all that was computed.
    division: Option<Division>,
}

/// Batches that go through the encoder in parts, without a graph: the backward pass computes the parts again.
#[derive(Debug)]
struct Division {
    images_at_a_time: i64,
    seeds: Stream,
    seed_afterwards: i64,
    to_repeat: Vec<Part>,
}

#[derive(Debug)]
struct Part {
    images: Tensor,
    /// So that drop path leaves out the same when the part is computed again.
    seed: i64,
    /// What the losses read, and give a gradient to.
    features: Tensor,
}

impl<'a> Passes<'a> {
    pub(super) fn new(encoder: &'a Vit, images_at_a_time: Option<i64>) -> Result<Passes<'a>> {
        let division = images_at_a_time.map(Division::new).transpose()?;
        Ok(Passes { encoder, division })
    }

    /// Features `[B, width]` with gradient, of several batches of images of one size.
    pub(super) fn features<const N: usize>(&mut self, batches: [&Tensor; N]) -> Result<[Tensor; N]> {
        let encoder = self.encoder;
        match &mut self.division {
            None => features_of(encoder, batches),
            Some(division) => of_each(batches, |images| division.features(encoder, images)),
        }
    }

    /// Features without gradient, by `encoder`, which may be another one.
    pub(super) fn key_features<const N: usize>(&self, encoder: &Vit, batches: [&Tensor; N]) -> Result<[Tensor; N]> {
        let _no_grad = no_grad_guard();
        let Some(division) = &self.division else { return features_of(encoder, batches) };
        of_each(batches, |images| {
            let parts = division.parts(images)?;
            let features = parts.iter().map(|images| encoder.forward(images, true)).collect::<Result<Vec<_>>>()?;
            Ok(Tensor::f_cat(&features, 0)?)
        })
    }

    /// Carries the gradient that the losses gave the features into the encoder, where that has not happened yet.
    pub(super) fn backward(&self) -> Result<()> {
        self.division.as_ref().map_or(Ok(()), |division| division.backward(self.encoder))
    }
}

impl Division {
    fn new(images_at_a_time: i64) -> Result<Division> {
        check_value("images_at_a_time", images_at_a_time as f64, "at least 1", images_at_a_time >= 1)?;
        let seed = i64::try_from(Tensor::f_randint(i64::MAX, [], (Kind::Int64, Device::Cpu))?)?;
        let mut seeds = Stream::new(seed as u64, 0);
        Ok(Division { images_at_a_time, seed_afterwards: seeds.seed(), seeds, to_repeat: Vec::new() })
    }

    fn parts(&self, images: &Tensor) -> Result<Vec<Tensor>> {
        Ok(images.f_split(self.images_at_a_time.min(images.size()[0]).max(1), 0)?)
    }

    fn features(&mut self, encoder: &Vit, images: &Tensor) -> Result<Tensor> {
        let mut features = Vec::new();
        for images in self.parts(images)? {
            let seed = self.seeds.seed();
            tch::manual_seed(seed);
            let of_part = {
                let _no_grad = no_grad_guard();
                encoder.forward(&images, true)?
            };
            let of_part = of_part.f_set_requires_grad(true)?;
            features.push(of_part.shallow_clone());
            self.to_repeat.push(Part { images, seed, features: of_part });
        }
        Ok(Tensor::f_cat(&features, 0)?)
    }

    fn backward(&self, encoder: &Vit) -> Result<()> {
        for Part { images, seed, features } in &self.to_repeat {
            tch::manual_seed(*seed);
            let again = encoder.forward(images, true)?;
            let gradient = features.f_grad()?;
            if gradient.defined() && again.requires_grad() {
                // A number whose gradient with respect to the features is the one that they got.
                again.f_mul(&gradient)?.f_sum(None)?.f_backward()?;
            }
        }
        // Else what comes next would draw what the last part drew.
        tch::manual_seed(self.seed_afterwards);
        Ok(())
    }
}

/// Features of several batches of images of one size. On a GPU in one pass, which fills it better; a CPU is full with
/// one batch, and faster where less memory is in use at a time.
fn features_of<const N: usize>(encoder: &Vit, batches: [&Tensor; N]) -> Result<[Tensor; N]> {
    if encoder.device() == Device::Cpu {
        return of_each(batches, |images| encoder.forward(images, true));
    }
    let mut features = batches.map(Tensor::shallow_clone);
    let together = encoder.forward(&Tensor::f_cat(&batches, 0)?, true)?.f_split(batches[0].size()[0], 0)?;
    for (features, part) in features.iter_mut().zip(together) {
        *features = part;
    }
    Ok(features)
}

/// `features` of each of the batches.
fn of_each<const N: usize>(
    batches: [&Tensor; N],
    mut features: impl FnMut(&Tensor) -> Result<Tensor>,
) -> Result<[Tensor; N]> {
    let mut all = batches.map(Tensor::shallow_clone);
    for one in &mut all {
        *one = features(one)?;
    }
    Ok(all)
}
