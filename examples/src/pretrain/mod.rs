//! Pre-training of a Vision Transformer with PatchMix: the whole method in one loop, [`train`], and one [`step`].

mod folder;
mod init;
mod learner;
mod meter;
mod mixing;
mod position;
mod probe;
mod report;
mod saving;
mod views;
mod world;

use std::process::ExitCode;
use std::sync::atomic::Ordering;

use patchmix::backend;
use patchmix::contrast::{self, LossConfig, Networks, View};
use tch::{Device, Kind};

use crate::Result;
use crate::images::{self, Batch, Images, Request, Voters};
use crate::machine::set_up_cpu;
use crate::seeds::{Purpose, seed_for};
use crate::settings::{Arguments, Settings};
use crate::terminal::{INTERRUPTED, interruption};
use folder::{Run, RunFolder};
use learner::{Learner, Rates};
use mixing::{Plans, draw_groups};
use position::{Position, Start};
use report::Report;
use saving::Saver;
use world::World;

pub use crate::settings::Program;

/// Runs a pre-training program.
pub fn main(program: Program) -> ExitCode {
    crate::exit(Arguments::read(program).and_then(|arguments| {
        let remedy = report::remedy(&arguments.settings);
        train(arguments).map_err(|error| report::explained(error, &remedy))
    }))
}

/// The run, from the settings to the summary.
fn train(mut arguments: Arguments) -> Result<ExitCode> {
    set_up_cpu(arguments.settings.threads);
    let (world, device) = World::join(&arguments)?;
    // All ranks train in one precision, whatever their machines.
    let has_fast_bfloat16 = world.all(backend::has_fast_bfloat16(device))?;
    arguments.settings.precision = arguments.settings.precision.resolved(has_fast_bfloat16);
    let settings = &arguments.settings;

    RunFolder::check(&arguments, &world)?;
    let images = images::open(&request(&arguments), device)?;
    let (batch_size, image_count) = (settings.batch_size, images.to_train_on());
    if image_count < batch_size {
        let advice = format!("--batch-size {image_count} or less trains on them");
        return Err(format!("--batch-size {batch_size}: there are only {image_count} training images; {advice}").into());
    }
    let identity = images.identity()?;
    world.agree(settings, &identity)?;
    let interrupted = interruption("finishing the step and saving")?;

    let mut learner = Learner::new(settings, probed_classes(&images), device)?;
    // Before the run has a folder: an --init that does not fit leaves nothing behind.
    let beginning = if arguments.resume { None } else { Some(Start::at_beginning(settings, &learner, &world)?) };
    let folder = RunFolder::claim(&arguments, &world, identity)?;
    let run = Run { program: arguments.program, settings, folder: &folder, world: &world };
    let Start { mut position, history, notes } = match beginning {
        Some(beginning) => beginning,
        None => saving::restore(run, arguments.before.as_ref(), image_count as u64, &mut learner)?,
    };
    position.share(&mut learner, &world)?;
    let mut unrecorded = world.leads().then_some(history);
    if !arguments.resume {
        folder.create(settings, unrecorded.take())?;
    }
    let steps_per_epoch = image_count as u64 / batch_size as u64;
    let mut report = Report::start(run, &images, &learner, &position, &notes)?;
    let mut saver = Saver::new(run, images.protocol(settings.image_size)?)?;
    let mut steps_left = arguments.stop_after.unwrap_or(u64::MAX);

    while position.epoch < settings.epochs {
        report.progress.begin_epoch(&position, steps_per_epoch);
        let mut batches = views::batches(&images, settings, &position, &world)?;
        while let Some(batch) = report.progress.getting_data(|| batches.next()) {
            let on_device = batch?;
            let batch = on_device()?.of_one_size(settings, &world)?;
            let done = position.epoch * steps_per_epoch + position.batch;
            let rates = Rates::at(done, steps_per_epoch, settings);
            step(&mut learner, &batch, settings, rates, &mut position, &world)?;
            world.step_done()?;
            folder.create(settings, unrecorded.take())?; // before anything that it decides is saved
            report.progress.batch_done(&position, rates.learning)?;

            steps_left = steps_left.saturating_sub(1);
            let stop = world.any(interrupted.load(Ordering::Relaxed))? || steps_left == 0;
            let save = stop || saver.is_due_after(position.step);
            // Reading a number waits for a GPU; on the CPU it costs nothing.
            if save || device == Device::Cpu {
                position.check_health(settings.max_skipped_steps, &folder)?;
            }
            if save {
                saver.save(&learner, &position, None)?;
            }
            if stop {
                saver.wait()?;
                let skipped = position.skipped_in_a_row()?;
                report.stopped(skipped);
                world.meet()?;
                return Ok(match (steps_left, skipped) {
                    (0, 0) => ExitCode::SUCCESS,
                    (0, _) => ExitCode::FAILURE, // it was to save
                    _ => ExitCode::from(INTERRUPTED),
                });
            }
        }
        position.check_health(settings.max_skipped_steps, &folder)?;
        position.check_has_trained()?;
        let last = Rates::at((position.epoch + 1) * steps_per_epoch - 1, steps_per_epoch, settings);
        // Work first, words later: what is printed may find nobody who reads it.
        let ended = match report.end_epoch(&position, last, &learner) {
            // The epoch is not lost: a run that resumes measures it again.
            Err(error) => {
                saver.save(&learner, &position, None)?;
                saver.wait()?;
                return Err(error);
            }
            ended => ended?,
        };
        position = position.next_epoch()?;
        saver.end_epoch(&learner, &position, ended.knn_top1())?;
        report.show_epoch(ended)?;
    }
    folder.create(settings, unrecorded.take())?;
    saver.wait()?;
    position.check_end(&folder)?;
    report.finish(&learner, saver.spent())?;
    world.meet()?;
    Ok(ExitCode::SUCCESS)
}

/// How many classes a probe can learn from the images to train on and show on test images; 0 for none.
fn probed_classes(images: &Images) -> i64 {
    if images.is_labeled() && images.voters() == Voters::Training { images.classes() } else { 0 }
}

/// The images of a run.
fn request(arguments: &Arguments) -> Request<'_> {
    let Settings { dataset, limit, image_size, workers, max_broken_images, ref data, ref val, .. } = arguments.settings;
    let (download, mirror) = (arguments.download, arguments.mirror.as_deref());
    Request {
        dataset,
        data,
        val: val.as_deref(),
        to_pretrain: true,
        limit,
        image_size,
        download,
        mirror,
        workers,
        max_broken: max_broken_images,
    }
}

/// The method: one step on a batch of images, without waiting for the device.
///
/// Everything random here is seeded by the place in the run, so that a resumed run draws the same. Every rank draws for
/// itself, except for the number of groups.
fn step(
    learner: &mut Learner,
    batch: &Batch,
    settings: &Settings,
    rates: Rates,
    position: &mut Position,
    world: &World,
) -> Result<()> {
    if batch.is_empty() {
        position.pass(batch);
        return Ok(());
    }
    let (epoch, place) = (position.epoch, position.batch * world.size as u64 + world.rank as u64);
    let seed = |purpose| seed_for(settings.seed, epoch, place, purpose);
    if let Some(momentum) = &mut learner.momentum {
        momentum.update(&learner.store, rates.momentum)?;
    }

    // Two global views of every image, and local ones if the run has them.
    let views = batch.views(settings, seed)?;

    // A plan for the mix of each view; `contrast::losses` mixes the images. The plans may partition the patches
    // differently, but give the same targets.
    let groups = draw_groups(settings, seed_for(settings.seed, epoch, position.batch, Purpose::Groups));
    tch::manual_seed(seed(Purpose::Mix));
    let plans = Plans::draw(settings, groups, views.global[0].size()[0], views.local.len())?;

    // All forward passes and losses, one backward pass.
    let statistics = learner.statistics()?;
    tch::manual_seed(seed(Purpose::Model));
    let networks = Networks { model: &learner.model, momentum: learner.momentum.as_ref(), ranks: world.ranks() };
    let [view_1, view_2] = [0, 1].map(|view| View { images: &views.global[view], plan: &plans.global[view] });
    let local: Vec<View> = views.local.iter().zip(&plans.local).map(|(images, plan)| View { images, plan }).collect();
    let config = settings.loss(settings.batch_size / world.size);
    let config = LossConfig { temperature: rates.temperature, ..config };
    let losses = contrast::losses(&networks, [view_1, view_2], &local, &config)?;
    let total = losses.total()?;
    learner.optimizer.zero_grad()?;
    losses.backward()?;
    world.average(&learner.optimizer.gradients())?;

    // A loss or a gradient that is not finite changes nothing. The norm is that from before it is clipped.
    let gradient_norm = match settings.clip_gradient_norm {
        0.0 => learner.optimizer.gradient_norm()?,
        max_norm => learner.optimizer.clip_gradients(max_norm)?,
    };
    let measured = meter::measure(&losses, &total, &gradient_norm)?;
    world.average(std::slice::from_ref(&measured))?;
    let healthy = position.meter.add(&measured, learner.optimizer.steps() + 1)?;
    learner.optimizer.step_if(&healthy, rates.learning, rates.decay)?;
    statistics.restore_unless(&healthy.f_to_kind(Kind::Bool)?)?;
    if let Some(probe) = &mut learner.probe {
        let features = losses.features.as_ref().ok_or("no term has plain queries of the first view")?;
        probe.step(features, batch.labels()?, &healthy, world)?;
    }
    position.pass(batch);
    Ok(())
}
