//! Fine-tuning: the whole encoder is trained further with labels, in one loop, [`train`].

mod learner;
mod measure;
mod options;
mod recipe;
mod saving;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::Ordering;

use clap::Args;
use indicatif::ProgressBar;
use patchmix::data::{Batches, Cut, Split};
use serde_json::json;

use super::report::{announce, left_out, write_results_to};
use super::subject::{Subject, SubjectOptions};
use crate::Result;
use crate::seeds::{Purpose, seed_for};
use crate::terminal::{INTERRUPTED, interruption, log, progress, say};
use learner::{Learner, Step};
use measure::Measurement;
use recipe::{Recipe, RecipeOptions};
use saving::{Folder, Position};

pub(super) use options::with_saved_options;

/// The options of `evaluate finetune`.
#[derive(Debug, Args)]
pub(super) struct FinetuneArguments {
    #[command(flatten)]
    subject: SubjectOptions,
    #[command(flatten)]
    recipe: RecipeOptions,
    /// Measure accuracy every N epochs, and at the end
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
    measure_every: u64,
    /// Folder for the state and the fine-tuned model [default: runs/finetune-DATASET, numbered if taken]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Resume the fine-tuning in --out with its options
    #[arg(long, requires = "out")]
    resume: bool,
    /// Save every N epochs, and at the end
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
    save_epochs: u64,
    /// Save and stop after so many steps, to resume later
    #[arg(long, value_name = "STEPS", value_parser = clap::value_parser!(u64).range(1..))]
    stop_after: Option<u64>,
}

pub(super) fn run(arguments: &FinetuneArguments, words: &[OsString]) -> Result<ExitCode> {
    let mut subject = Subject::load(&arguments.subject)?;
    let is_folder = subject.images.is_folder();
    let recipe = &Recipe::new(&arguments.recipe, subject.encoder.encoder.config().width, is_folder)?;
    let RecipeOptions { from_scratch, epochs, batch_size, .. } = arguments.recipe;
    subject.check_batch_size(batch_size)?;
    let interrupted = interruption("finishing the step and saving")?;
    let mut learner = Learner::new(&subject, recipe)?;
    let mut folder = Folder::choose(arguments, &subject, recipe)?;
    let mut position = Position::default();
    if arguments.resume {
        folder.restore(&mut learner, &mut position)?;
        folder.encoder().clone_into(&mut subject.encoder.description);
    } else {
        folder.create(words, &subject)?;
    }
    let name = if from_scratch { "from scratch" } else { "fine-tuning" };
    let lr = recipe.lr;
    let method = format!("{name}, class token; batch {batch_size}, {epochs} epochs, learning rate {lr}");
    announce(&subject, &measure::preparation(&subject)?, &method);

    let run = Run { arguments, subject: &subject, recipe, folder: &folder, name };
    let stopped = train(run, &mut learner, &mut position, || interrupted.load(Ordering::Relaxed))?;
    if let Some(code) = stopped {
        folder.print_resume_command();
        return Ok(code);
    }
    folder.save_models(&subject, &learner)?;
    let results =
        json!({ "recipe": recipe, "out": folder.path(), "accuracy": measure::summary(&position.measurements) });
    for path in [&folder.results()].into_iter().chain(&subject.json) {
        write_results_to(path, &subject, "finetune", &results)?;
    }
    measure::print(&position.measurements);
    if let Some(left_out) = left_out(&subject.images) {
        say!("{left_out}");
    }
    say!("model  {}: averaged.safetensors, last.safetensors", folder.path().display());
    Ok(ExitCode::SUCCESS)
}

/// What stays the same during fine-tuning.
#[derive(Clone, Copy)]
struct Run<'a> {
    arguments: &'a FinetuneArguments,
    subject: &'a Subject,
    recipe: &'a Recipe<'a>,
    folder: &'a Folder,
    name: &'a str,
}

/// Trains from `position` to the last batch. Returns an exit code if it stopped before, with everything saved.
fn train(
    run: Run<'_>,
    learner: &mut Learner,
    position: &mut Position,
    is_interrupted: impl Fn() -> bool,
) -> Result<Option<ExitCode>> {
    let Run { arguments, subject, recipe, folder, name } = run;
    let RecipeOptions { epochs, batch_size, seed, .. } = *recipe.options;
    let count = subject.images.count(Split::Train);
    let steps_per_epoch = count as u64 / batch_size as u64;
    let bar = progress(epochs * steps_per_epoch, name);
    bar.set_position(position.epoch * steps_per_epoch + position.batch);
    bar.reset_eta();
    let mut steps_left = arguments.stop_after.unwrap_or(u64::MAX);
    while position.epoch < epochs {
        let epoch = position.epoch;
        let order = Batches::new(count, batch_size, seed, epoch)?;
        let order = order.iter().skip(position.batch as usize).map(<[i64]>::to_vec).collect();
        let cut = Cut::random(&recipe.crop_of_files(subject), seed_for(seed, epoch, 0, Purpose::Crops) as u64);
        for batch in subject.images.batches(order, vec![cut])? {
            let on_device = batch?;
            let step = Step { epoch, index: position.batch, done: epoch * steps_per_epoch + position.batch };
            position.pass(learner.step(subject, recipe, &on_device()?, step)?)?;
            bar.inc(1);
            steps_left = steps_left.saturating_sub(1);
            let is_stopped = steps_left == 0;
            if is_stopped || is_interrupted() {
                position.mean_loss()?;
                learner.check_finite()?;
                folder.save(learner, position)?;
                bar.finish_and_clear();
                return Ok(Some(if is_stopped { ExitCode::SUCCESS } else { ExitCode::from(INTERRUPTED) }));
            }
        }
        let loss = position.mean_loss()?.ok_or("none of the training images can be read; fix the files named above")?;
        let is_last = epoch + 1 == epochs;
        if is_last || (epoch + 1).is_multiple_of(arguments.measure_every) {
            match Measurement::take(subject, learner, epoch + 1, loss) {
                Ok(measured) => position.measurements.push(measured),
                // The epoch is not lost: one that resumes measures it again.
                Err(error) => {
                    learner.check_finite()?;
                    folder.save(learner, position)?;
                    bar.finish_and_clear();
                    return Err(error);
                }
            }
        }
        position.begin(epoch + 1);
        let stops = is_interrupted() && !is_last;
        if is_last || stops || position.epoch.is_multiple_of(arguments.save_epochs) {
            learner.check_finite()?;
            folder.save(learner, position)?;
        }
        show_epoch(&bar, position, epochs, loss);
        if stops {
            bar.finish_and_clear();
            return Ok(Some(ExitCode::from(INTERRUPTED)));
        }
    }
    bar.finish_and_clear();
    Ok(None)
}

/// Prints the epoch that has just ended.
fn show_epoch(bar: &ProgressBar, position: &Position, epochs: u64, loss: f64) {
    let measured = position.measurements.last().filter(|measured| measured.epoch == position.epoch);
    let accuracy = measured.map_or_else(String::new, Measurement::describe);
    let width = epochs.to_string().len();
    bar.suspend(|| log!("epoch {:>width$}/{epochs}  loss {loss:.3}{accuracy}", position.epoch));
}
