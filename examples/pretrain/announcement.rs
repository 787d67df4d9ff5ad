//! What a run says before it begins.

use indicatif::HumanCount;
use tch::{Device, Tensor};

use super::images::Images;
use super::memory::Estimate;
use super::precision;
use super::{Learner, Run};

/// Says what is going to be trained, on what, where, and how much memory it will take.
pub(crate) fn announce(run: &Run, images: &Images, learner: &Learner) {
    let Run { settings, folder, world, .. } = run;
    let count = |tensors: &[Tensor]| tensors.iter().map(Tensor::numel).sum::<usize>();
    let parameters = count(&learner.store.trainable_variables());
    let copied = learner.momentum.as_ref().map_or(0, |_| parameters);
    let device = match learner.store.device() {
        Device::Cpu => format!("the CPU (threads: {})", tch::get_num_threads()),
        device => format!("{device:?}"),
    };
    let groups = settings.groups.iter().map(ToString::to_string).collect::<Vec<_>>().join(" or ");
    let (width, depth, heads, patch) = (settings.width, settings.depth, settings.heads, settings.patch_size);
    let parameters_text = HumanCount(parameters as u64);
    let views = match settings.local_crops {
        0 => format!("2 views of {} px", settings.image_size),
        count => format!("2 views of {} px, {count} of {} px", settings.image_size, settings.local_size),
    };
    let momentum = if settings.momentum_encoder > 0.0 { "momentum encoder" } else { "no momentum encoder" };
    let memory = Estimate::of(settings, world.size, parameters, copied, learner.store.device());
    eprintln!("images   {} to train on, {} to measure on", images.train_count(), images.test_count());
    eprintln!(
        "model    ViT of width {width}, {depth} blocks, {heads} heads, patch {patch}; {parameters_text} parameters \
         with its heads"
    );
    eprintln!("method   {groups} images in a mixed one, {views}, {momentum}");
    eprintln!("length   batch {}, {} epochs", settings.batch_size, settings.epochs);
    let ranks = if world.size == 1 { String::new() } else { format!(" on each of {} ranks", world.size) };
    eprintln!("device   {device}{ranks}");
    eprintln!("numbers  {}", precision::describe(settings, learner.store.device()));
    eprintln!("memory   {}", memory.describe(world.size));
    if let Some(advice) = memory.advice(settings.accumulate) {
        eprintln!("         {advice}");
    }
    eprintln!("folder   {}\n", folder.path.display());
}
