//! Pre-trains a Vision Transformer with PatchMix: the whole method in one loop, [`pretrain`].

mod args;
mod images;
mod report;
mod settings;
mod state;

#[path = "../common/download.rs"]
mod download;
#[path = "../common/pictures.rs"]
mod pictures;

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use patchmix::MixPlan;
use patchmix::augment::ViewRecipe;
use patchmix::contrast::{self, Losses, Model, MomentumNetwork};
use patchmix::data::Batches;
use patchmix::optim::{AdamW, schedule};
use patchmix::random::{Purpose, seed_for, uniform};
use tch::nn::VarStore;
use tch::{Device, Tensor};

use args::Arguments;
use images::Images;
use report::{EpochRow, Report};
use settings::Settings;
use state::{Parts, Position, RunFolder};

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

fn pretrain(arguments: &Arguments) -> Result<Outcome> {
    let interrupted = interruption()?;
    let (folder, settings) = RunFolder::open(arguments)?;
    if settings.threads > 0 {
        tch::set_num_threads(settings.threads.into());
    }
    let device = choose_device(&settings.device)?;
    let images = Images::load(&settings, arguments, device)?;

    // The model, its slowly following copy if there is one, and the optimizer.
    tch::manual_seed(seed_for(settings.seed, 0, 0, Purpose::Weights));
    let store = VarStore::new(device);
    let model = Model::new(&store.root(), &settings.vit(), &settings.head())?;
    let mut momentum = match settings.momentum_encoder {
        0.0 => None,
        _ => Some(MomentumNetwork::new(&store, &settings.vit(), &settings.head(), device)?),
    };
    let mut optimizer = AdamW::new(&store)?;
    let views = [
        (ViewRecipe::first(settings.image_size, settings.crop_min_scale), Purpose::FirstView),
        (ViewRecipe::second(settings.image_size, settings.crop_min_scale), Purpose::SecondView),
    ];

    let mut position = match arguments.resume {
        true => folder
            .restore(&mut Parts { store: &store, momentum: momentum.as_ref(), optimizer: &mut optimizer }, device)?,
        false => Position::start_of_epoch(0, device),
    };
    folder.create(&settings)?;
    let mut report = Report::start(&folder, &settings, &images, &store, &position)?;
    report.measure_before_training(&images, &model, &position)?;

    let steps_per_epoch = images.train.len() as u64 / settings.batch_size as u64;
    let steps = settings.epochs * steps_per_epoch;
    while position.epoch < settings.epochs {
        let epoch = position.epoch;
        let mut rates = Rates::default();
        report.begin_epoch(&position, steps_per_epoch);
        let batches = Batches::new(images.train.len(), settings.batch_size, settings.seed, epoch)?;
        for batch in batches.iter().skip(position.batch as usize) {
            let step = epoch * steps_per_epoch + position.batch;
            let seed = |purpose| seed_for(settings.seed, epoch, position.batch, purpose);

            // The rates of this step.
            let warmup_steps = settings.warmup_epochs * steps_per_epoch;
            rates.learning =
                schedule::warmup_cosine(step, steps, warmup_steps, settings.scaled_lr(), LAST_LEARNING_RATE);
            rates.decay = schedule::cosine(step, steps, settings.weight_decay, settings.weight_decay_end);
            if let Some(momentum) = &mut momentum {
                momentum.update(&store, schedule::momentum(step, steps, settings.momentum_encoder))?;
            }

            // Two views of every image, and a mix of each. The patches of the two mixes lie differently, their shares
            // are the same.
            let (originals, _labels) = images.train.select(batch)?;
            let [view_1, view_2] = views.each_ref().map(|(recipe, purpose)| {
                tch::manual_seed(seed(*purpose));
                recipe.view(&originals)
            });
            let (view_1, view_2) = (view_1?, view_2?);
            let groups = draw_groups(&settings, seed(Purpose::Groups));
            tch::manual_seed(seed(Purpose::Mix));
            let plan_1 = MixPlan::random(settings.vit().patches(), groups, settings.mix_stride)?;
            let plan_2 = MixPlan::random(settings.vit().patches(), groups, settings.mix_stride)?;

            // Four forward passes, three losses, one backward pass.
            tch::manual_seed(seed(Purpose::Model));
            let losses =
                contrast::losses(&model, momentum.as_ref(), [&view_1, &view_2], [&plan_1, &plan_2], &settings.loss())?;
            let total = losses.total()?;
            optimizer.zero_grad();
            total.f_backward()?;
            optimizer.step(rates.learning, rates.decay)?;

            position.batch += 1;
            position.loss_sums += together(&losses, &total)?;
            report.batch_done();
            if interrupted.load(Ordering::Relaxed) {
                folder.save(
                    &Parts { store: &store, momentum: momentum.as_ref(), optimizer: &mut optimizer },
                    &position,
                )?;
                report.interrupted();
                return Ok(Outcome::Interrupted);
            }
        }

        let [loss, origin_to_origin, mix_to_origin, mix_to_mix] = means(&position)?;
        let done = epoch + 1;
        report.end_epoch(
            EpochRow {
                epoch: done,
                step: done * steps_per_epoch,
                lr: rates.learning,
                weight_decay: rates.decay,
                loss,
                origin_to_origin,
                mix_to_origin,
                mix_to_mix,
                knn_top1: None,
                images_per_second: f64::NAN,
            },
            (done % settings.knn_every == 0 || done == settings.epochs).then_some((&images, &model)),
        )?;
        position = Position::start_of_epoch(done, device);
        folder.save(&Parts { store: &store, momentum: momentum.as_ref(), optimizer: &mut optimizer }, &position)?;
    }
    report.finish(&images, &model)?;
    Ok(Outcome::Finished)
}

/// The learning rate and the weight decay of a step.
#[derive(Debug, Default, Clone, Copy)]
struct Rates {
    learning: f64,
    decay: f64,
}

/// How many images the mixed images of a batch are made of; 1 for a batch that is not mixed.
fn draw_groups(settings: &Settings, seed: i64) -> i64 {
    if uniform(seed, 0) >= settings.mix_probability {
        return 1;
    }
    let choice = uniform(seed, 1) * settings.groups.len() as f64;
    settings.groups[choice as usize]
}

/// Total, origin-to-origin, mix-to-origin and mix-to-mix loss as one tensor `[4]`, without waiting for the device.
fn together(losses: &Losses, total: &Tensor) -> Result<Tensor> {
    let parts = [total, &losses.origin_to_origin, &losses.mix_to_origin, &losses.mix_to_mix];
    Ok(Tensor::f_stack(&parts, 0)?.f_detach()?)
}

/// The epoch's mean losses: the one place where the loop reads a number back.
fn means(position: &Position) -> Result<[f64; 4]> {
    let means = position.loss_sums.f_div_scalar(position.batch.max(1) as f64)?;
    Ok([0, 1, 2, 3].map(|index| means.f_double_value(&[index]).unwrap_or(f64::NAN)))
}

/// `auto` takes a GPU if there is one; a GPU that is asked for must be there.
fn choose_device(name: &str) -> Result<Device> {
    let index = match name {
        "auto" => return Ok(Device::cuda_if_available()),
        "cpu" => return Ok(Device::Cpu),
        "cuda" => 0,
        _ => match name.strip_prefix("cuda:").and_then(|index| index.parse().ok()) {
            Some(index) => index,
            None => return Err(format!("--device {name}: choose auto, cpu, cuda or cuda:N").into()),
        },
    };
    let count = if tch::Cuda::is_available() { tch::Cuda::device_count() } else { 0 };
    match usize::try_from(count) {
        Ok(count) if index < count => Ok(Device::Cuda(index)),
        Ok(0) => Err(format!("--device {name}: libtorch finds no CUDA device; use --device cpu or auto").into()),
        _ => Err(format!("--device {name}: there are {count} CUDA devices, numbered from 0").into()),
    }
}

/// A flag that SIGINT and SIGTERM raise. A second signal ends the program at once.
fn interruption() -> Result<Arc<AtomicBool>> {
    let flag = Arc::new(AtomicBool::new(false));
    let raised = Arc::clone(&flag);
    ctrlc::set_handler(move || {
        if raised.swap(true, Ordering::Relaxed) {
            std::process::exit(130);
        }
        eprintln!("\nfinishing the step and saving; once more to leave at once");
    })?;
    Ok(flag)
}
