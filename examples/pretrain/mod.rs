//! Pre-trains a Vision Transformer with PatchMix: the whole method in one loop, [`pretrain`].
//!
//! The programs `pretrain_cifar` and `pretrain_imagenet` are this and nothing else.

mod announcement;
mod args;
mod events;
mod folders;
mod images;
mod learner;
mod memory;
mod meter;
mod options;
mod precision;
mod program;
mod progress;
mod recipes;
mod report;
mod saving;
mod settings;
mod snapshot;
mod state;
mod views;
mod world;

#[path = "../common/dataset_name.rs"]
mod dataset_name;
#[path = "../common/datasets.rs"]
mod datasets;
#[path = "../common/device.rs"]
mod device;
#[path = "../common/download/mod.rs"]
mod download;
#[path = "../common/image_files.rs"]
mod image_files;
#[path = "../common/interruption.rs"]
mod interruption;
#[path = "../common/metrics.rs"]
mod metrics;
#[path = "../common/pictures/mod.rs"]
mod pictures;
#[path = "../common/run_folder.rs"]
mod run_folder;
#[path = "../common/tensors.rs"]
mod tensors;

use std::process::ExitCode;
use std::sync::atomic::Ordering;

use patchmix::contrast::{self, Networks, View};
use patchmix::optim::schedule;
use patchmix::random::{Purpose, seed_for, uniform};
use patchmix::{MixPlan, backend};
use tch::{Device, Kind, Tensor};

use args::Arguments;
use images::Images;
use interruption::interruption;
use learner::Learner;
pub(crate) use program::Program;
use report::Report;
use saving::Saver;
use settings::Settings;
use state::{Position, RunFolder};
use tensors::copied;
use views::Batch;
use world::World;

/// A result whose error is one line for the person at the terminal.
type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// The learning rate at the end of the cosine.
const LAST_LEARNING_RATE: f64 = 1e-6;

/// The program: its command line, the run, and how it ended.
pub(crate) fn main(program: Program) -> ExitCode {
    match Arguments::read(program).and_then(|arguments| pretrain(&arguments)) {
        Ok(Outcome::Finished) => ExitCode::SUCCESS,
        Ok(Outcome::Interrupted) => ExitCode::from(130), // as shells report an interrupted program
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

enum Outcome {
    Finished,
    Interrupted,
}

/// The run, from the command line to the summary.
fn pretrain(arguments: &Arguments) -> Result<Outcome> {
    let settings = arguments.settings_of_run()?;
    let remedy = memory::remedy(&settings, arguments.resume);
    train(arguments, settings).map_err(|error| memory::explained(error, &remedy))
}

fn train(arguments: &Arguments, settings: Settings) -> Result<Outcome> {
    if settings.threads > 0 {
        tch::set_num_threads(settings.threads.into());
    }
    let (world, device) = World::join(&settings, arguments)?;
    let settings = settings.resolved_on(world.all(backend::has_fast_bfloat16(device))?);
    let folder = RunFolder::open(arguments, &settings, &world)?;
    let images = Images::load(&settings, arguments, device)?;
    let identity = images.identity()?;
    world.agree(&settings, &identity)?;
    let folder = folder.of_images(identity);
    let interrupted = interruption("finishing the step and saving")?;

    let mut learner = Learner::new(&settings, device)?;
    let mut position = match arguments.resume && world.leads() {
        true => folder.restore(&mut learner, &world)?,
        false => Position::start_of_epoch(0, device)?,
    };
    position.share(&mut learner, &world)?;
    if world.leads() {
        folder.create(&settings)?;
    }
    let steps_per_epoch = images.train_count() as u64 / settings.batch_size as u64;
    let run = Run { program: arguments.program, settings: &settings, folder: &folder, world: &world };
    let mut report = Report::start(run, &images, &learner, &position)?;
    let mut saver = Saver::new(run)?;
    let mut steps_left = arguments.stop_after.unwrap_or(u64::MAX);

    while position.epoch < settings.epochs {
        report.progress.begin_epoch(&position, steps_per_epoch);
        let mut batches = images.batches(&settings, &position, &world)?;
        while let Some(batch) = report.progress.getting_data(|| batches.next()) {
            let batch = images.on_device(&batch?)?.of_one_size(&settings, &world)?;
            let done = position.epoch * steps_per_epoch + position.batch;
            let rates = Rates::at(done, steps_per_epoch, &settings);
            step(&mut learner, &batch, &settings, rates, &mut position, &world)?;
            world.step_done()?;
            report.progress.batch_done(&position, rates.learning)?;

            steps_left = steps_left.saturating_sub(1);
            let stop = world.any(interrupted.load(Ordering::Relaxed))? || steps_left == 0;
            let save = stop || (settings.save_every > 0 && (done + 1).is_multiple_of(settings.save_every));
            // Reading a number waits for a GPU; on the CPU it costs nothing.
            if save || device == Device::Cpu {
                check_health(&position, &settings)?;
            }
            if save {
                saver.save(&learner, &position, None)?;
            }
            if stop {
                saver.wait()?;
                report.stopped();
                world.meet()?;
                return Ok(if steps_left == 0 { Outcome::Finished } else { Outcome::Interrupted });
            }
        }
        check_health(&position, &settings)?;
        check_has_trained(&position)?;
        let last = Rates::at((position.epoch + 1) * steps_per_epoch - 1, steps_per_epoch, &settings);
        let knn_top1 = report.end_epoch(&position, last, &images, &learner)?;
        position = Position::start_of_epoch(position.epoch + 1, device)?;
        saver.end_epoch(&learner, &position, knn_top1)?;
    }
    saver.wait()?;
    report.finish(&images, &learner)?;
    world.meet()?;
    Ok(Outcome::Finished)
}

/// What does not change in the course of a run.
#[derive(Clone, Copy)]
struct Run<'a> {
    program: Program,
    settings: &'a Settings,
    folder: &'a RunFolder,
    world: &'a World,
}

/// An error if too many steps in a row had a loss or gradient that was not finite. Nothing is saved then: the last
/// checkpoint is a good one.
fn check_health(position: &Position, settings: &Settings) -> Result<()> {
    let reading = position.meter.read()?;
    match reading.first_skipped {
        Some((step, what)) if reading.skipped > settings.max_skipped_steps => Err(format!(
            "step {step}: the {what} is not finite; stopped after {} such steps in a row. The last checkpoint is from \
             before; a lower --lr may help, or another --precision",
            reading.skipped
        )
        .into()),
        _ => Ok(()),
    }
}

/// An error if an epoch is over and no batch of it had images enough.
fn check_has_trained(position: &Position) -> Result<()> {
    if position.meter.read()?.steps > 0 {
        return Ok(());
    }
    let broken = position.broken_images;
    Err(format!("{broken} broken images have left no batch that can be mixed; mend the files named above").into())
}

/// What the schedules say of one step.
#[derive(Debug, Clone, Copy)]
struct Rates {
    learning: f64,
    decay: f64,
    momentum: f64,
}

impl Rates {
    fn at(step: u64, steps_per_epoch: u64, settings: &Settings) -> Rates {
        let (steps, warmup_steps) = (settings.epochs * steps_per_epoch, settings.warmup_epochs * steps_per_epoch);
        Rates {
            learning: schedule::warmup_cosine(step, steps, warmup_steps, settings.scaled_lr(), LAST_LEARNING_RATE),
            decay: schedule::cosine(step, steps, settings.weight_decay, settings.weight_decay_end),
            momentum: schedule::momentum(step, steps, settings.momentum_encoder),
        }
    }
}

/// The method: one step on a batch of images, without waiting for the device.
///
/// Everything random here is seeded by the place in the run, so that a run that goes on draws the same. Of several
/// ranks every one draws for itself, but for the number of groups.
fn step(
    learner: &mut Learner,
    batch: &Batch,
    settings: &Settings,
    rates: Rates,
    position: &mut Position,
    world: &World,
) -> Result<()> {
    if batch.is_empty() {
        position.pass_over(batch);
        return Ok(());
    }
    let (epoch, place) = (position.epoch, position.batch * world.size as u64 + world.rank as u64);
    let seed = |purpose| seed_for(settings.seed, epoch, place, purpose);
    if let Some(momentum) = &mut learner.momentum {
        momentum.update(&learner.store, rates.momentum)?;
    }

    // Two global views of every image, and local ones where the run has them.
    let views = batch.views(settings, seed)?;

    // A mix of each: the patches of the mixes lie differently, their shares are the same.
    let groups = draw_groups(settings, seed_for(settings.seed, epoch, position.batch, Purpose::Groups));
    tch::manual_seed(seed(Purpose::Mix));
    let plan = |patches| MixPlan::random(patches, groups, settings.mix_stride);
    let plans = [plan(settings.vit().patches())?, plan(settings.vit().patches())?];
    let local_plans =
        views.local.iter().map(|_| plan(settings.local_vit().patches())).collect::<patchmix::Result<Vec<_>>>()?;

    // All forward passes and losses, one backward pass.
    let statistics = learner.statistics().into_iter().map(|now| Ok((copied(&now)?, now)));
    let statistics = statistics.collect::<Result<Vec<_>>>()?;
    tch::manual_seed(seed(Purpose::Model));
    let networks = Networks { model: &learner.model, momentum: learner.momentum.as_ref(), ranks: world.ranks() };
    let [view_1, view_2] = [0, 1].map(|view| View { images: &views.global[view], plan: &plans[view] });
    let local: Vec<View> = views.local.iter().zip(&local_plans).map(|(images, plan)| View { images, plan }).collect();
    let losses =
        contrast::losses(&networks, [view_1, view_2], &local, &settings.loss(settings.batch_size / world.size))?;
    let total = losses.total()?;
    learner.optimizer.zero_grad()?;
    losses.backward()?;
    world.average(&learner.optimizer.gradients())?;

    // A loss or a gradient that is not finite changes nothing.
    let measured = measured(&losses, total, learner.optimizer.gradient_norm()?)?;
    world.average(std::slice::from_ref(&measured))?;
    let healthy = position.meter.add(&measured, learner.optimizer.steps() + 1)?;
    learner.optimizer.step_if(&healthy, rates.learning, rates.decay)?;
    let is_healthy = healthy.f_to_kind(Kind::Bool)?;
    for (before, mut now) in statistics {
        let kept = now.f_where_self(&is_healthy, &before)?;
        now.f_copy_(&kept)?;
    }
    position.pass_over(batch);
    Ok(())
}

/// What is reported of a step, in the order of [`meter::MEASURED`]; without local views, zeros for theirs.
fn measured(losses: &contrast::Losses, total: Tensor, gradient_norm: Tensor) -> Result<Tensor> {
    let contrast::Losses { origin_to_origin, mix_to_origin, mix_to_mix, feature_std, .. } = losses;
    let none = total.f_zeros_like()?;
    let local = losses.local_to_origin.as_ref().unwrap_or(&none);
    let local_mix = losses.local_mix_to_origin.as_ref().unwrap_or(&none);
    let all = [&total, origin_to_origin, mix_to_origin, mix_to_mix, local, local_mix, &gradient_norm, feature_std];
    let all = all.into_iter().map(Tensor::f_detach).collect::<std::result::Result<Vec<_>, _>>()?;
    Ok(Tensor::f_stack(&all, 0)?.f_to_kind(Kind::Double)?)
}

/// How many images the mixed images of a batch are made of; 1 for a batch that is not mixed.
fn draw_groups(settings: &Settings, seed: i64) -> i64 {
    if uniform(seed, 0) >= settings.mix_probability {
        return 1;
    }
    let choice = uniform(seed, 1) * settings.groups.len() as f64;
    settings.groups[choice as usize]
}
