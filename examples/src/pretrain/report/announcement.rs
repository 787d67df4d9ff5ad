//! The lines that announce a run.

use indicatif::HumanCount;
use patchmix::backend;
use patchmix::data::Split;
use tch::Tensor;

use super::super::folder::Run;
use super::super::learner::Learner;
use super::estimate::Estimate;
use crate::images::{Images, Voters};
use crate::machine;
use crate::settings::{MixBlocks, MixPlans, Settings};
use crate::terminal::{log, shown};

/// How images are mixed.
fn mixing(settings: &Settings) -> String {
    if !settings.mixes() {
        return "no mixed images".to_owned();
    }
    if settings.groups.iter().all(|groups| *groups == 1) || settings.mix_probability == 0.0 {
        return "mixed terms of plain images".to_owned();
    }
    let groups = settings.groups.iter().map(ToString::to_string).collect::<Vec<_>>().join(" or ");
    let blocks = match settings.mix_blocks {
        MixBlocks::Random if settings.mix_patch_size == 0 => String::new(),
        MixBlocks::Random => format!(" in blocks of {} px", settings.mix_block()),
        MixBlocks::Contiguous => format!(" in bands of blocks of {} px", settings.mix_block()),
    };
    let plans = match settings.mix_plans {
        MixPlans::PerView => "",
        MixPlans::PerBatch => ", one plan per batch",
        MixPlans::PerImage => ", one plan per image",
    };
    format!("{groups} images in a mixed one{blocks}{plans}")
}

/// What else differs from the published method.
fn variants(settings: &Settings) -> String {
    let symmetric = if settings.symmetric { ", symmetric" } else { "" };
    let negatives = if settings.negatives { "" } else { ", no negatives" };
    format!("{symmetric}{negatives}")
}

/// Prints model, images, method, device, memory and folder, and before the last the `notes` on the run's start.
pub(super) fn announce(run: Run<'_>, images: &Images, learner: &Learner, notes: &[String]) {
    let Run { settings, folder, world, .. } = run;
    let count = |tensors: &[Tensor]| tensors.iter().map(Tensor::numel).sum::<usize>();
    let parameters = count(&learner.store.trainable_variables());
    let copied = learner.momentum.as_ref().map_or(0, |_| parameters);
    let device = learner.store.device();
    let (width, depth, heads, patch) = (settings.width, settings.depth, settings.heads, settings.patch_size);
    let parameters_text = HumanCount(parameters as u64);
    let views = match settings.local_crops {
        0 => format!("2 views of {} px", settings.image_size),
        count => format!("2 views of {} px, {count} of {} px", settings.image_size, settings.local_size),
    };
    let momentum = if settings.momentum_encoder > 0.0 { "momentum encoder" } else { "no momentum encoder" };
    let memory = Estimate::of(settings, world.size, parameters, copied, device);
    let (train, test) = (images.to_train_on(), images.count(Split::Test));
    let measured = match images.voters() {
        Voters::Training => format!("{test} to measure on"),
        Voters::OtherTest => format!("{test} to measure on, each by the others"),
        Voters::Nobody => "no labeled ones to measure on: kNN accuracy is left out (--val names some)".to_owned(),
    };
    log!("images   {train} to train on, {measured}");
    log!(
        "model    ViT of width {width}, {depth} blocks, {heads} heads, patch {patch}; {parameters_text} parameters \
         with its heads"
    );
    log!("method   {}, {views}, {momentum}{}", mixing(settings), variants(settings));
    log!("length   batch {}, {} epochs", settings.batch_size, settings.epochs);
    let ranks = if world.size == 1 { String::new() } else { format!(" on each of {} ranks", world.size) };
    log!("device   {}{ranks}", machine::describe(device));
    log!("numbers  {}", settings.precision.describe(settings.deterministic, device));
    if device.is_cuda()
        && let Err(problem) = backend::check_own_kernels(device, width)
    {
        log!("         more slowly, with libtorch's kernels where this crate has none: {problem}");
    }
    log!("memory   {}", memory.describe(world.size));
    if let Some(advice) = memory.advice(settings.accumulate) {
        log!("         {advice}");
    }
    notes.iter().for_each(|note| log!("{note}"));
    log!("folder   {}\n", shown(&folder.path));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_mixed_is_said() {
        let said = |groups: &[i64], mix_probability| {
            mixing(&Settings { groups: groups.to_vec(), mix_probability, ..Settings::quick() })
        };
        assert_eq!(said(&[2], 1.0), "2 images in a mixed one");
        assert_eq!(said(&[1, 4], 0.5), "1 or 4 images in a mixed one");
        assert_eq!(said(&[1], 1.0), "mixed terms of plain images");
        assert_eq!(said(&[2], 0.0), "mixed terms of plain images");
    }
}
