//! Pre-trains a Vision Transformer with PatchMix: the whole method in one loop, [`pretrain`].

mod args;
mod events;
mod images;
mod meter;
mod progress;
mod report;
mod settings;
mod state;

#[path = "../common/dataset_name.rs"]
mod dataset_name;
#[path = "../common/datasets.rs"]
mod datasets;
#[path = "../common/device.rs"]
mod device;
#[path = "../common/download/mod.rs"]
mod download;
#[path = "../common/interruption.rs"]
mod interruption;
#[path = "../common/metrics.rs"]
mod metrics;
#[path = "../common/pictures/mod.rs"]
mod pictures;
#[path = "../common/run_folder.rs"]
mod run_folder;

use std::process::ExitCode;
use std::sync::atomic::Ordering;

use patchmix::MixPlan;
use patchmix::augment::ViewRecipe;
use patchmix::contrast::{self, Model, MomentumNetwork};
use patchmix::data::Batches;
use patchmix::optim::{AdamW, schedule};
use patchmix::random::{Purpose, seed_for, uniform};
use tch::nn::VarStore;
use tch::{Device, Tensor};

use args::Arguments;
use device::choose_device;
use images::Images;
use interruption::interruption;
use report::Report;
use settings::Settings;
use state::{Position, RunFolder};

/// A result whose error is one line for the person at the terminal.
type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// The learning rate at the end of the cosine.
const LAST_LEARNING_RATE: f64 = 1e-6;

fn main() -> ExitCode {
    match Arguments::read().and_then(|arguments| pretrain(&arguments)) {
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
    let (folder, settings) = RunFolder::open(arguments)?;
    if settings.threads > 0 {
        tch::set_num_threads(settings.threads.into());
    }
    let device = choose_device(&settings.device)?;
    let images = Images::load(&settings, arguments, device)?;
    let interrupted = interruption("finishing the step and saving")?;

    let mut learner = Learner::new(&settings, device)?;
    let mut position = match arguments.resume {
        true => folder.restore(&mut learner)?,
        false => Position::start_of_epoch(0, device),
    };
    folder.create(&settings)?;
    let steps_per_epoch = images.train.len() as u64 / settings.batch_size as u64;
    let mut report = Report::start(&folder, &settings, &images, &learner, &position)?;
    let mut steps_left = arguments.stop_after.unwrap_or(u64::MAX);

    while position.epoch < settings.epochs {
        report.progress.begin_epoch(&position, steps_per_epoch);
        let batches = Batches::new(images.train.len(), settings.batch_size, settings.seed, position.epoch)?;
        for batch in batches.iter().skip(position.batch as usize) {
            let done = position.epoch * steps_per_epoch + position.batch;
            let (originals, _labels) = report.progress.getting_data(|| images.train.select(batch))?;
            let rates = Rates::at(done, steps_per_epoch, &settings);
            step(&mut learner, &originals, &settings, rates, &mut position)?;
            report.progress.batch_done(&position, rates.learning)?;

            steps_left = steps_left.saturating_sub(1);
            let stop = interrupted.load(Ordering::Relaxed) || steps_left == 0;
            let save = stop || (settings.save_every > 0 && (done + 1).is_multiple_of(settings.save_every));
            // Reading a number waits for a GPU; on the CPU it costs nothing.
            if save || device == Device::Cpu {
                check_health(&position, &settings)?;
            }
            if save {
                folder.save(&learner, &position, None, settings.keep)?;
            }
            if stop {
                report.stopped();
                return Ok(if steps_left == 0 { Outcome::Finished } else { Outcome::Interrupted });
            }
        }
        check_health(&position, &settings)?;
        let last = Rates::at((position.epoch + 1) * steps_per_epoch - 1, steps_per_epoch, &settings);
        let knn_top1 = report.end_epoch(&position, last, &images, &learner)?;
        position = Position::start_of_epoch(position.epoch + 1, device);
        folder.save(&learner, &position, knn_top1, settings.keep)?;
    }
    report.finish(&images, &learner)?;
    Ok(Outcome::Finished)
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

/// What learns: the model, its slowly following copy if there is one, and the optimizer.
struct Learner {
    store: VarStore,
    model: Model,
    momentum: Option<MomentumNetwork>,
    optimizer: AdamW,
}

impl Learner {
    fn new(settings: &Settings, device: Device) -> Result<Learner> {
        tch::manual_seed(seed_for(settings.seed, 0, 0, Purpose::Weights));
        let store = VarStore::new(device);
        let model = Model::new(&store.root(), &settings.vit(), &settings.head())?;
        let momentum = match settings.momentum_encoder {
            0.0 => None,
            _ => Some(MomentumNetwork::new(&store, &settings.vit(), &settings.head(), device)?),
        };
        let optimizer = AdamW::new(&store)?;
        Ok(Learner { store, model, momentum, optimizer })
    }

    /// The batch statistics of all networks, which a forward pass moves.
    fn statistics(&self) -> Vec<Tensor> {
        let stores = std::iter::once(&self.store).chain(self.momentum.as_ref().map(MomentumNetwork::store));
        let variables = stores.flat_map(|store| store.variables());
        variables.filter(|(name, _)| name.contains(".running_")).map(|(_, tensor)| tensor).collect()
    }
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
/// Everything random here is seeded by the place in the run, so that a run that goes on draws the same.
fn step(
    learner: &mut Learner,
    images: &Tensor,
    settings: &Settings,
    rates: Rates,
    position: &mut Position,
) -> Result<()> {
    let (epoch, batch) = (position.epoch, position.batch);
    let seed = |purpose| seed_for(settings.seed, epoch, batch, purpose);
    if let Some(momentum) = &mut learner.momentum {
        momentum.update(&learner.store, rates.momentum)?;
    }

    // Two views of every image.
    tch::manual_seed(seed(Purpose::FirstView));
    let view_1 = ViewRecipe::first(settings.image_size, settings.crop_min_scale).view(images)?;
    tch::manual_seed(seed(Purpose::SecondView));
    let view_2 = ViewRecipe::second(settings.image_size, settings.crop_min_scale).view(images)?;

    // A mix of each: the patches of the two mixes lie differently, their shares are the same.
    let groups = draw_groups(settings, seed(Purpose::Groups));
    tch::manual_seed(seed(Purpose::Mix));
    let plan_1 = MixPlan::random(settings.vit().patches(), groups, settings.mix_stride)?;
    let plan_2 = MixPlan::random(settings.vit().patches(), groups, settings.mix_stride)?;

    // Four forward passes and three losses, one backward pass.
    let statistics: Vec<(Tensor, Tensor)> = learner.statistics().into_iter().map(|now| (now.copy(), now)).collect();
    tch::manual_seed(seed(Purpose::Model));
    let momentum = learner.momentum.as_ref();
    let losses = contrast::losses(&learner.model, momentum, [&view_1, &view_2], [&plan_1, &plan_2], &settings.loss())?;
    let total = losses.total()?;
    learner.optimizer.zero_grad()?;
    total.f_backward()?;

    // A loss or a gradient that is not finite changes nothing.
    let contrast::Losses { origin_to_origin, mix_to_origin, mix_to_mix, feature_std } = &losses;
    let gradient_norm = learner.optimizer.gradient_norm()?;
    let measured = [&total, origin_to_origin, mix_to_origin, mix_to_mix, &gradient_norm, feature_std];
    let healthy = position.meter.add(measured, learner.optimizer.steps() + 1)?;
    learner.optimizer.step_if(&healthy, rates.learning, rates.decay)?;
    for (before, mut now) in statistics {
        let kept = now.f_where_self(&healthy.f_gt(0.0)?, &before)?;
        now.f_copy_(&kept)?;
    }
    position.batch += 1;
    Ok(())
}

/// How many images the mixed images of a batch are made of; 1 for a batch that is not mixed.
fn draw_groups(settings: &Settings, seed: i64) -> i64 {
    if uniform(seed, 0) >= settings.mix_probability {
        return 1;
    }
    let choice = uniform(seed, 1) * settings.groups.len() as f64;
    settings.groups[choice as usize]
}
