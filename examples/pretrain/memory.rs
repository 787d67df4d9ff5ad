//! How much memory a step will take, estimated beforehand, and what to do if there was not enough.

use std::error::Error;

use indicatif::HumanBytes;
use patchmix::vit::Precision;
use tch::{Device, TchError};

use super::dataset_name::DatasetName;
use super::image_files::BATCHES_AHEAD;
use super::run_folder::MLP_RATIO;
use super::settings::Settings;

/// Bytes at the highest point of a step, apart from the program itself and, in memory, the data set.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Estimate {
    /// Weights, their gradients, the optimizer's state, and the momentum copy.
    weights: f64,
    /// What the forward passes of the queries keep for the backward pass.
    activations: f64,
    /// The views and their mixes.
    views: f64,
    /// The copy of weights and optimizer that is being saved.
    saved: f64,
    /// Crops that are decoded ahead of their use, on the host; of image files only.
    ahead: f64,
}

const FLOAT: f64 = 4.0;

impl Estimate {
    /// On each of `ranks` ranks, for a model of `parameters` and a momentum copy of `copied` parameters.
    pub(crate) fn of(settings: &Settings, ranks: i64, parameters: usize, copied: usize, device: Device) -> Estimate {
        let (batch, local_crops) = ((settings.batch_size / ranks) as f64, settings.local_crops as f64);
        let pixels = |side: i64| 3.0 * (side * side) as f64;
        let local_share = if settings.local_crops > 0 { 1.0 } else { 0.0 };
        let global = Estimate::encoder(settings, settings.vit().patches(), device);
        let local = local_share * Estimate::encoder(settings, settings.local_vit().patches(), device);
        let encoder = match settings.loss(settings.batch_size / ranks).images_at_a_time {
            // Queries: one global view and one mix, and every local view and its mix.
            None => 2.0 * batch * (global + local_crops * local),
            Some(images) => images as f64 * global.max(local),
        };
        // The batch in use, once as decoded and once as put together, beside those ahead.
        let decoded = match settings.dataset {
            DatasetName::ImageFolder => 2.0 + BATCHES_AHEAD as f64,
            _ => 0.0,
        };
        let gradients_sent = if ranks > 1 { parameters } else { 0 };
        let crops = 2.0 * pixels(settings.image_size) + local_crops * pixels(settings.local_size);
        let head = (6 * settings.hidden + 4 * settings.out_dim + settings.width) as f64 * FLOAT;
        Estimate {
            saved: FLOAT * (3 * parameters + copied) as f64,
            weights: FLOAT * (4 * parameters + copied + gradients_sent) as f64,
            activations: encoder + 2.0 * batch * (1.0 + local_crops) * head,
            // Two global views and their mixes; the local ones, and all of them and of their mixes one behind the
            // other.
            views: batch
                * FLOAT
                * (4.0 * pixels(settings.image_size) + 3.0 * local_crops * pixels(settings.local_size)),
            ahead: decoded * batch * crops,
        }
    }

    /// What the encoder keeps of one image of `patches` patches.
    fn encoder(settings: &Settings, patches: i64, device: Device) -> f64 {
        let (tokens, width) = ((patches + 1) as f64, settings.width as f64);
        // Of a block: the inputs of both norms in single precision; in that of the products both norms' outputs,
        // queries, keys, values, what attention gives, and the hidden layer before and after its nonlinearity.
        let product = match settings.precision.of_products() {
            Precision::BFloat16 => FLOAT / 2.0,
            _ => FLOAT,
        };
        let tokens_of_block = tokens * width * (2.0 * FLOAT + (6.0 + 2.0 * MLP_RATIO as f64) * product);
        // On a CPU, short sequences keep the attention of every token to every other.
        let attention = match device {
            Device::Cpu => settings.heads as f64 * tokens * tokens * product,
            _ => 0.0,
        };
        // The last block computes the class token alone, from the keys and values of all.
        let last_block = tokens * width * (FLOAT + 4.0 * product);
        (settings.depth - 1) as f64 * (tokens_of_block + attention) + last_block + 2.0 * tokens * width * FLOAT
    }

    fn total(&self) -> f64 {
        self.weights + self.activations + self.views + self.saved + self.ahead
    }

    /// What to do about it, where that is more than most devices have.
    pub(crate) fn advice(&self, accumulate: i64) -> Option<String> {
        const MUCH: f64 = (16_u64 << 30) as f64;
        let helps = self.total() > MUCH && self.activations > self.total() / 2.0;
        helps.then(|| {
            let more = 4 * accumulate;
            format!(
                "if that is too much: --accumulate {more} works through a batch in {more} parts, with the gradients of the whole"
            )
        })
    }

    /// A line for people.
    pub(crate) fn describe(&self) -> String {
        let human = |bytes: f64| HumanBytes(bytes as u64).to_string();
        let ahead = match self.ahead {
            0.0 => String::new(),
            ahead => format!(", {} decoded ahead", human(ahead)),
        };
        format!(
            "about {}: {} weights and optimizer, {} activations, {} views, {} to save from{ahead}",
            human(self.total()),
            human(self.weights),
            human(self.activations),
            human(self.views),
            human(self.saved)
        )
    }
}

/// What to say of an error: one line of advice if it is for want of memory, else the error itself.
pub(crate) fn explained(error: Box<dyn Error>, batch_size: i64, accumulate: i64) -> Box<dyn Error> {
    let error = match error.downcast::<TchError>() {
        Ok(error) => Box::new(patchmix::Error::Torch(*error)),
        Err(error) => error,
    };
    match error.downcast_ref::<patchmix::Error>() {
        Some(libtorch) if libtorch.is_out_of_memory() => format!(
            "out of memory at --batch-size {batch_size}; a larger --accumulate (now {accumulate}) computes the same \
             with less, or take a smaller --batch-size"
        )
        .into(),
        _ => error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As libtorch says it.
    const OUT_OF_MEMORY: &str = "CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has a total capacity of 79.11 \
                                 GiB of which 3.14 GiB is free.\nException raised from malloc at \
                                 CUDACachingAllocator.cpp:1620 (most recent call first):\nframe #0: c10::Error";

    #[test]
    fn out_of_memory_is_one_line_of_advice() {
        let torch = || TchError::Torch(OUT_OF_MEMORY.to_owned());
        let errors: [Box<dyn Error>; 2] = [Box::new(torch()), Box::new(patchmix::Error::Torch(torch()))];
        for error in errors {
            assert_eq!(
                explained(error, 512, 1).to_string(),
                "out of memory at --batch-size 512; a larger --accumulate (now 1) computes the same with less, or \
                 take a smaller --batch-size"
            );
        }
    }

    #[test]
    fn other_errors_are_left_as_they_are() {
        for words in ["--batch-size 3: no", "out of images"] {
            assert_eq!(explained(words.into(), 512, 1).to_string(), words);
        }
        let refused = explained(Box::new(TchError::Torch("expected a matrix".to_owned())), 512, 1);
        assert!(refused.to_string().contains("expected a matrix"));
    }
}
