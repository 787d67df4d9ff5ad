//! An estimate of the memory of a step, and advice when there was not enough.

use std::error::Error;

use indicatif::HumanBytes;
use patchmix::vit::Precision;
use tch::{Device, TchError};

use crate::images::BATCHES_AHEAD;
use crate::settings::{MLP_RATIO, Settings};

/// Bytes at the peak of a step, without the program itself and a data set in memory.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(in super::super) struct Estimate {
    /// Weights, their gradients, the optimizer's state, and the momentum copy.
    weights: f64,
    /// Activations of the queries that are kept for the backward pass.
    activations: f64,
    /// The views and their mixes.
    views: f64,
    /// Copies of weights and optimizer state that are being saved, on the rank that saves.
    saved: f64,
    /// Crops that are decoded ahead of their use, on the host; for image files only.
    ahead: f64,
}

const FLOAT: f64 = 4.0;

impl Estimate {
    /// On one of `ranks` ranks, for a model of `parameters` and a momentum copy of `copied` parameters.
    pub(in super::super) fn of(
        settings: &Settings,
        ranks: i64,
        parameters: usize,
        copied: usize,
        device: Device,
    ) -> Estimate {
        let (batch, local_crops) = ((settings.batch_size / ranks) as f64, settings.local_crops as f64);
        let pixels = |side: i64| 3.0 * (side * side) as f64;
        // Batches of queries: plain and mixed ones of the global views, and of every local view.
        let (global_passes, local_passes) = settings.query_passes();
        let (global_queries, local_queries) = (global_passes as f64, local_passes as f64 * local_crops);
        let encoder = |queries: f64, patches| match queries {
            0.0 => 0.0,
            _ => Estimate::encoder(settings, patches, device),
        };
        let global = encoder(global_queries, settings.vit().patches());
        let local = encoder(local_queries, settings.local_vit().patches());
        let encoder = match settings.loss(settings.batch_size / ranks).micro_batch {
            None => batch * (global_queries * global + local_queries * local),
            Some(images) => images as f64 * global.max(local),
        };
        // The batch in use, once as decoded and once as put together, beside those ahead.
        let decoded = if settings.dataset.is_folder() { 2.0 + BATCHES_AHEAD as f64 } else { 0.0 };
        let gradients_sent = if ranks > 1 { parameters } else { 0 };
        // The copy, and the bytes of the file, which lie on the host.
        let copies = if device == Device::Cpu { 2.0 } else { 1.0 };
        let crops = 2.0 * pixels(settings.image_size) + local_crops * pixels(settings.local_size);
        let head = (6 * settings.hidden + 4 * settings.out_dim + settings.width) as f64 * FLOAT;
        Estimate {
            saved: copies * FLOAT * (3 * parameters + copied) as f64,
            weights: FLOAT * (4 * parameters + copied + gradients_sent) as f64,
            activations: encoder + batch * (global_queries + local_queries) * head,
            // Two global views and their mixes; the local ones, and all of them and of their mixes one behind the
            // other.
            views: batch
                * FLOAT
                * (4.0 * pixels(settings.image_size) + 3.0 * local_crops * pixels(settings.local_size)),
            ahead: decoded * batch * crops,
        }
    }

    /// What the encoder keeps for one image of `patches` patches.
    fn encoder(settings: &Settings, patches: i64, device: Device) -> f64 {
        let (tokens, width) = ((patches + 1) as f64, settings.width as f64);
        // For a block: the inputs of both norms in single precision; in the precision of the products both norms'
        // outputs, queries, keys, values, the attention's output, and the hidden layer before and after its activation.
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
        self.on_others() + self.saved
    }

    /// The total on a rank that does not save.
    fn on_others(&self) -> f64 {
        self.weights + self.activations + self.views + self.ahead
    }

    /// Advice if that is more than most devices have.
    pub(in super::super) fn advice(&self, accumulate: i64) -> Option<String> {
        const MUCH: f64 = (16_u64 << 30) as f64;
        let helps = self.total() > MUCH && self.activations > self.total() / 2.0;
        helps.then(|| {
            let more = 4 * accumulate;
            format!(
                "if that is too much: a run with --accumulate {more} works through a batch in {more} parts, with the \
                 gradients of the whole"
            )
        })
    }

    /// The estimate in a line. Of several ranks, only the first saves.
    pub(in super::super) fn describe(&self, ranks: i64) -> String {
        let human = |bytes: f64| HumanBytes(bytes as u64).to_string();
        let ahead = match self.ahead {
            0.0 => String::new(),
            ahead => format!(", {} decoded ahead", human(ahead)),
        };
        let parts = format!(
            "{} weights and optimizer, {} activations, {} views{ahead}",
            human(self.weights),
            human(self.activations),
            human(self.views)
        );
        let saved = format!("{} for the checkpoint being written", human(self.saved));
        match ranks {
            1 => format!("about {}: {parts}, {saved}", human(self.total())),
            _ => {
                format!("about {} on each of {ranks} ranks: {parts}; and on the first {saved}", human(self.on_others()))
            }
        }
    }
}

/// Advice for a run that is out of memory, also for one that resumes.
pub(in super::super) fn remedy(settings: &Settings) -> String {
    let Settings { batch_size, accumulate, .. } = settings;
    format!(
        "out of memory at --batch-size {batch_size}; a larger --accumulate (now {accumulate}) computes the same with \
         less, or take a smaller --batch-size"
    )
}

/// Adds the remedy to an error if memory ran out; leaves other errors as they are.
pub(in super::super) fn explained(error: Box<dyn Error>, remedy: &str) -> Box<dyn Error> {
    let error = crate::typed(error);
    match error.downcast_ref::<patchmix::Error>() {
        Some(lack) if lack.is_out_of_memory() => {
            let said = match lack {
                patchmix::Error::Torch(TchError::Torch(text)) => text.clone(),
                other => other.to_string(),
            };
            format!("{remedy} ({})", first_sentences(&said)).into()
        }
        _ => error,
    }
}

/// The first line of what libtorch says; of a long one, the sentences that it begins with.
fn first_sentences(text: &str) -> String {
    const MAX: usize = 160;
    let line = text.lines().next().unwrap_or_default().trim();
    let cut: String = line.chars().take(MAX).collect();
    match cut.rfind(". ") {
        _ if cut == line => cut,
        Some(end) => cut[..=end].to_owned(),
        None => cut + "...",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As libtorch says it.
    const OUT_OF_MEMORY: &str = "CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has a total capacity of 79.11 \
                                 GiB of which 3.14 GiB is free. Of the allocated memory 70.26 GiB is allocated by \
                                 PyTorch.\nException raised from malloc at CUDACachingAllocator.cpp:1620 (most recent \
                                 call first):\nframe #0: c10::Error";

    fn quick() -> Settings {
        Settings { batch_size: 512, accumulate: 2, ..Settings::quick() }
    }

    #[test]
    fn out_of_memory_is_one_line_of_advice_with_what_was_tried() {
        let torch = || TchError::Torch(OUT_OF_MEMORY.to_owned());
        let errors: [Box<dyn Error>; 2] = [Box::new(torch()), Box::new(patchmix::Error::from(torch()))];
        for error in errors {
            assert_eq!(
                explained(error, &remedy(&quick())).to_string(),
                "out of memory at --batch-size 512; a larger --accumulate (now 2) computes the same with less, or take \
                 a smaller --batch-size (CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has a total \
                 capacity of 79.11 GiB of which 3.14 GiB is free.)"
            );
        }
    }

    #[test]
    fn other_errors_are_left_as_they_are() {
        let explained = |error| explained(error, "more memory").to_string();
        for words in ["--batch-size 3: no", "out of images"] {
            assert_eq!(explained(words.into()), words);
        }
        let refused = explained(Box::new(TchError::Torch("expected a matrix".to_owned())));
        assert!(refused.contains("expected a matrix") && !refused.contains("more memory"), "{refused}");
    }

    #[test]
    fn a_long_line_is_cut_behind_a_sentence_or_anywhere() {
        assert_eq!(first_sentences("not enough memory\nframe #0"), "not enough memory");
        let sentences = format!("Tried 1.5 GiB. Free: 0. {}", "x".repeat(200));
        assert_eq!(first_sentences(&sentences), "Tried 1.5 GiB. Free: 0.");
        assert_eq!(first_sentences(&"\u{fc}".repeat(200)), "\u{fc}".repeat(160) + "...");
    }

    #[test]
    fn the_rank_that_saves_holds_a_copy_on_a_gpu_and_the_file_too_on_a_cpu() {
        let of = |ranks, device| Estimate::of(&quick(), ranks, 1 << 20, 0, device);
        const MIB: f64 = (1 << 20) as f64;
        assert_eq!(of(1, Device::Cuda(0)).saved, 12.0 * MIB);
        assert_eq!(of(1, Device::Cpu).saved, 24.0 * MIB);
        let (alone, first) = (of(1, Device::Cpu), of(2, Device::Cpu));
        assert!(alone.describe(1).ends_with(", 24.00 MiB for the checkpoint being written"), "{}", alone.describe(1));
        let said = first.describe(2);
        assert!(said.ends_with("; and on the first 24.00 MiB for the checkpoint being written"), "{said}");
        let others = HumanBytes((first.total() - 24.0 * MIB) as u64);
        assert!(said.starts_with(&format!("about {others} on each of 2 ranks: ")), "{said}");
    }
}
