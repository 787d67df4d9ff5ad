//! What a pre-trained encoder is worth on CIFAR-10, CIFAR-100 or built-in images: nearest neighbours and a linear probe,
//! which are in `examples/evaluate` and which `eval_imagenet` shares, and fine-tuning.

mod args;
mod finetune;
mod memory;
mod recipe;

#[path = "../common/chosen_images.rs"]
mod chosen_images;
#[path = "../common/datasets.rs"]
mod datasets;
#[path = "../common/download/mod.rs"]
mod download;
#[path = "../evaluate/mod.rs"]
mod evaluate;
#[path = "../common/interruption.rs"]
mod interruption;

use std::process::ExitCode;

use clap::Parser;

use args::{Arguments, Evaluation};
use evaluate::{Result, dataset_name, encoder, knn, linear};

fn main() -> ExitCode {
    evaluate::exit(match Arguments::parse().evaluation {
        Evaluation::Knn(arguments) => knn::run(&arguments).map(|()| ExitCode::SUCCESS),
        Evaluation::Linear(arguments) => linear::run(&arguments).map(|()| ExitCode::SUCCESS),
        Evaluation::Finetune(arguments) => finetune::run(&arguments),
    })
}
