//! Features of all images, written to files batch by batch.

mod format;
mod table;

use std::fs;
use std::io::{self, ErrorKind};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use clap::Args;
use indicatif::HumanCount;
use patchmix::Error;
use patchmix::data::Split;
use patchmix::files::write_atomic;
use patchmix::vit::Pooling;
use serde_json::Value;

use super::report::{announce, left_out, write_results};
use super::subject::{Subject, SubjectOptions};
use crate::Result;
use crate::encoder::PoolingName;
use crate::run::json;
use crate::terminal::{INTERRUPTED, interruption, log, progress, say, shown};
use format::Format;
use table::{Place, Table};

/// The options of `evaluate features`.
#[derive(Debug, Args)]
pub(super) struct FeaturesArguments {
    #[command(flatten)]
    subject: SubjectOptions,
    /// Folder for the files; created if there is none
    #[arg(long, value_name = "FOLDER")]
    out: PathBuf,
    /// Format of the files
    #[arg(long, value_enum, default_value = "safetensors")]
    format: Format,
    /// How features are read [default: as the checkpoint says; class-token for a run]
    #[arg(long, value_enum)]
    pooling: Option<PoolingName>,
}

/// The file with the names of the classes, in the order of the labels.
const CLASSES: &str = "classes.json";

/// The parts of the images, and their names in files.
const PARTS: [(Split, &str); 2] = [(Split::Train, "train"), (Split::Test, "val")];

pub(super) fn run(arguments: &FeaturesArguments) -> Result<ExitCode> {
    let FeaturesArguments { out, format, .. } = arguments;
    let place = |part| Place { folder: out, part, format: *format };
    // Now, rather than after an hour of work.
    fs::create_dir_all(out).map_err(|error| format!("--out {}: {error}", shown(out)))?;
    PARTS.iter().try_for_each(|(_, part)| place(part).check_free())?;
    table::check_free(&out.join(CLASSES))?;
    let interrupted = interruption("stopping after this batch")?;
    let mut subject = Subject::load_with_any_images(&arguments.subject)?;
    if let Some(pooling) = arguments.pooling {
        subject.encoder.pooling = pooling.into();
    }
    let name = pooling_name(&subject);
    announce(&subject, &subject.preparation(), &format!("{name} of every image, in the order of the images"));
    let mut parts = Vec::new();
    for (split, part) in PARTS {
        if count(&subject, split) == 0 {
            say!("note: there are no {part} images");
            continue;
        }
        match write(&subject, split, &place(part), interrupted) {
            Ok(results) => parts.push(results),
            Err(_) if interrupted.load(Ordering::Relaxed) => {
                log!("interrupted: no features of the {part} images are written");
                return Ok(ExitCode::from(INTERRUPTED));
            }
            Err(error) => return Err(error),
        }
    }
    if subject.images.classes() > 0 {
        write_atomic(&out.join(CLASSES), &json(&subject.images.class_names())?)?;
    }
    write_results(&subject, "features", serde_json::json!({ "features": name, "parts": parts }))?;
    if let Some(left_out) = left_out(&subject.images) {
        say!("{left_out}");
    }
    Ok(ExitCode::SUCCESS)
}

fn pooling_name(subject: &Subject) -> &'static str {
    if subject.encoder.pooling == Pooling::ClassToken { "class token" } else { "patch mean" }
}

/// How many images a part has, with classes or without.
fn count(subject: &Subject, split: Split) -> i64 {
    if split == Split::Train { subject.images.to_train_on() } else { subject.images.count(split) }
}

/// Writes the features of one part; returns what there is to say about it.
fn write(subject: &Subject, split: Split, place: &Place<'_>, interrupted: &AtomicBool) -> Result<Value> {
    let begun = Instant::now();
    let Subject { encoder, images, .. } = subject;
    let (count, width) = (count(subject, split), encoder.encoder.config().width);
    let about = [
        ("encoder", encoder.description.clone()),
        ("dataset", images.name()),
        ("features", pooling_name(subject).to_owned()),
        ("preparation", subject.preparation()),
    ];
    let mut table = Table::create(place, [count, width], &about)?;
    let bar = progress(count as u64, place.part);
    let mut take = |batch| match interrupted.load(Ordering::Relaxed) {
        true => Err(Error::Io { path: place.features(), source: io::Error::from(ErrorKind::Interrupted) }),
        false => table.push(batch),
    };
    images.stream_features(encoder.frozen(), encoder.pooling, split, subject.encoder_batch, &bar, &mut take)?;
    bar.finish_and_clear();
    let rows = table.finish()?;
    let (file, seconds) = (place.features(), begun.elapsed().as_secs_f64());
    let images = HumanCount(rows as u64);
    say!("written  {}: {images} images, width {width}, {seconds:.1} s", shown(&file));
    Ok(serde_json::json!({ "part": place.part, "file": file, "images": rows, "width": width, "seconds": seconds }))
}
