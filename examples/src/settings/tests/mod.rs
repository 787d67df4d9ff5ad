mod layers;
mod recipes;

use std::ffi::OsString;
use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use super::help::{IN_SHORT_HELP, command, recipe_settings};
use super::precision::PrecisionName;
use super::recipes::Recipe;
use super::*;
use crate::Result;

fn parse(line: &str) -> Result<Settings> {
    parse_for(Program::Cifar, line)
}

fn parse_for(program: Program, line: &str) -> Result<Settings> {
    let words: Vec<OsString> = line.split_whitespace().map(OsString::from).collect();
    Ok(Arguments::parse(program, &words)?.settings)
}

fn published(recipe: Recipe, program: Program) -> Settings {
    recipe_settings(recipe, program, program.datasets()[0]).unwrap()
}

/// A folder with the `config.json` of a run.
fn run_with(settings: &Value) -> tempfile::TempDir {
    let run = tempfile::tempdir().unwrap();
    fs::write(run.path().join(CONFIG), settings.to_string()).unwrap();
    run
}

fn resumed(run: &Path, line: &str) -> Result<Settings> {
    parse(&format!("--out {} --resume {line}", run.display()))
}

#[test]
fn validation_images_of_their_own_are_for_folders() {
    let val = parse_for(Program::Imagenet, "--val elsewhere").unwrap().val;
    assert_eq!(val, Some(PathBuf::from("elsewhere")));
    for line in ["--val elsewhere", "--dataset stl10 --workers 3"] {
        let error = parse(line).unwrap_err().to_string();
        assert!(error.contains("images in files only"), "{error}");
    }
    let error = parse_for(Program::Imagenet, "--dataset tiny-imagenet --download").unwrap_err().to_string();
    assert!(error.contains("cifar10, cifar100 and stl10 only"), "{error}");
    // It says where to measure, not what to train.
    let run = run_with(&json!(parse_for(Program::Imagenet, "").unwrap()));
    let words = format!("--out {} --resume --val there", run.path().display());
    assert_eq!(parse_for(Program::Imagenet, &words).unwrap().val, Some(PathBuf::from("there")));
}

#[test]
fn each_program_takes_its_own_images() {
    let error = parse_for(Program::Cifar, "--dataset image-folder").unwrap_err().to_string();
    assert!(error.contains("cifar100"), "{error}");
    assert!(parse_for(Program::Imagenet, "--dataset cifar10").is_err());
    assert!(parse_for(Program::Imagenet, "--dataset builtin").is_ok());
}

#[test]
fn every_value_can_be_changed() {
    let settings = parse(
        "--dataset cifar10 --arch custom --width 96 --depth 4 --heads 3 --patch-size 4 --groups 2,4 \
         --momentum-encoder 0.99 --mix-stride -1 --precision bf16 --limit 1000",
    )
    .unwrap();
    assert_eq!((settings.width, settings.depth, settings.heads, settings.patch_size), (96, 4, 3, 4));
    assert_eq!((settings.groups, settings.mix_stride, settings.limit), (vec![2, 4], -1, 1000));
    assert_eq!((settings.momentum_encoder, settings.precision), (0.99, PrecisionName::Bf16));
    assert_eq!(parse("--arch vit-small --momentum-encoder off").unwrap().momentum_encoder, 0.0);
}

#[test]
fn what_makes_no_sense_is_refused_by_its_name() {
    for (line, named) in [
        ("--groups 0", "--groups 0"),
        ("--groups 65", "64 patches"),
        ("--image-size 30", "30 x 30 px and patches of 4 px"),
        ("--batch-size 3 --groups 4", "--batch-size 3"),
        ("--batch-size 6 --groups 4 --mix-stride 3", "2"),
        ("--dataset cifar10 --width 96", "--arch custom"),
        ("--dataset cifar10 --arch custom --width 96", "--depth"),
        ("--temperature 0", "--temperature"),
        ("--temperature nan", "--temperature"),
        ("--warmup-epochs 99", "--warmup-epochs"),
        ("--crop-min-scale 0", "--crop-min-scale"),
        ("--smoothing 1.5", "--smoothing"),
        ("--epochs 0", "--epochs"),
        ("--momentum-encoder fast", "off"),
        ("--knn-every 0", "--knn-every"),
        ("--limit=-1", "--limit"),
        ("--local-crops 1 --local-size 14", "patches of 4 px"),
        ("--local-crops 1 --local-size 4", "1 patches"),
        ("--local-crops 65 --local-size 16", "--local-crops"),
        ("--local-crops 1 --local-size 16 --local-max-scale 0.3", "--local-max-scale"),
        ("--accumulate 0", "--accumulate"),
        ("--accumulate 65", "--accumulate"),
        ("--save-epochs 0", "--save-epochs"),
        ("--precision f16", "f32-strict"),
        ("--loss-weights mix-to-mix=-1", "--loss-weights"),
        ("--loss-weights everything=1", "there is no term everything"),
        ("--loss-weights origin-to-origin=0,mix-to-origin=0,mix-to-mix=0", "no loss of global views has a weight"),
        ("--mix-patch-size 5", "--mix-patch-size 5: must divide --image-size 32"),
        ("--mix-patch-size 8 --groups 17", "in patches of 8 have 16 patches"),
        ("--mix-patch-size 32 --local-crops 1 --local-size 16", "--groups 2"),
        ("--mix-patch-size 16 --local-crops 1 --local-size 8", "must divide --local-size 8"),
        ("--mix-plans per-crop", "per-image"),
        ("--mix-blocks round", "contiguous"),
        ("--negatives perhaps", "--negatives"),
        ("--jitter-strength 6", "between 0 and 5"),
        ("--jitter-probability 0 --jitter-strength 2", "--jitter-strength"),
        ("--jitter-probability 1.1", "--jitter-probability"),
        ("--gray-probability nan", "--gray-probability"),
        ("--flip-probability=-1", "--flip-probability"),
        ("--blur-probability 0.5", "got 1 numbers"),
        ("--blur-probability 0.5,2", "--blur-probability"),
        ("--solarize-probability 0,0,0", "--solarize-probability"),
        ("--temperature-start 0.1", "--temperature-warmup-epochs"),
        ("--temperature-warmup-epochs 2", "--temperature-start"),
        ("--temperature-start 0.1 --temperature-warmup-epochs 13", "--epochs 12"),
        ("--temperature-start=-1 --temperature-warmup-epochs 2", "--temperature-start"),
        ("--momentum-end 0.99", "--momentum-encoder"),
        ("--momentum-encoder 0.99 --momentum-end 0.9", "--momentum-encoder 0.99"),
        ("--momentum-encoder 0.99 --momentum-end 1.1", "--momentum-end"),
        ("--clip-gradient-norm=-1", "--clip-gradient-norm"),
        ("--clip-gradient-norm inf", "--clip-gradient-norm"),
        ("--online-probe maybe", "--online-probe"),
    ] {
        let error = parse(line).expect_err(line).to_string();
        assert!(error.contains(named), "{line}: {error}");
    }
}

#[test]
fn options_that_other_settings_leave_without_effect_are_refused() {
    let unmixed = "--loss-weights mix-to-origin=0,mix-to-mix=0";
    let local = "--local-crops 2 --local-size 16 --local-max-scale 0.5";
    let moving = "--temperature-start 0.1 --temperature-warmup-epochs 2";
    for (line, named) in [
        ("--negatives no --temperature 0.3".to_owned(), "--temperature: --negatives no"),
        (format!("--negatives no {moving}"), "--temperature-start: --negatives no"),
        (format!("--negatives no {moving}").replace("--temperature-start 0.1", ""), "--temperature-warmup-epochs"),
        ("--negatives no --smoothing 0.1".to_owned(), "--smoothing"),
        ("--negatives no --origin-smoothing 0".to_owned(), "--origin-smoothing"),
        (format!("{unmixed} --groups 2"), "--groups: no mixed term"),
        (format!("{unmixed} --mix-stride 2"), "--mix-stride"),
        (format!("{unmixed} --mix-probability 0.5"), "--mix-probability"),
        (format!("{unmixed} --smoothing 0.5"), "--smoothing"),
        (format!("{unmixed} --mix-blocks random"), "--mix-blocks"),
        ("--groups 1 --mix-plans per-batch".to_owned(), "--mix-plans: with --groups 1"),
        ("--groups 1 --mix-patch-size 8".to_owned(), "--mix-patch-size"),
        ("--groups 1 --mix-stride 2".to_owned(), "--mix-stride: with --groups 1"),
        ("--groups 1,1 --mix-probability 0.5".to_owned(), "--mix-probability: with --groups 1"),
        ("--mix-probability 0 --groups 2".to_owned(), "--groups: with --mix-probability 0"),
        ("--mix-probability 0 --mix-stride 2".to_owned(), "--mix-stride: with --mix-probability 0"),
        ("--mix-probability 0 --mix-blocks contiguous".to_owned(), "--mix-blocks"),
        ("--local-size 16".to_owned(), "--local-size: the run has no local views"),
        ("--local-max-scale 0.5".to_owned(), "--local-max-scale"),
        ("--recipe moco-v3 --loss-weights local-mix-to-origin=1".to_owned(), "--loss-weights local-mix-to-origin"),
        ("--loss-weights origin-to-origin=0 --origin-smoothing 0.2".to_owned(), "--origin-smoothing: no plain term"),
        (format!("{unmixed},origin-to-origin=0 {local} --symmetric"), "--symmetric: no term of global views"),
        ("--loss-weights local-to-origin=0.5".to_owned(), "--loss-weights local-to-origin: the run has no local"),
    ] {
        let error = parse(&line).expect_err(&line).to_string();
        assert!(error.contains(named), "{line}: {error}");
    }
    let run = run_with(&json!(Settings::quick()));
    assert!(resumed(run.path(), "--momentum-end 0.99").unwrap_err().to_string().contains("--momentum-end"));
    // What a recipe or a file says is no option that was given.
    assert!(parse("--recipe moco-v3").is_ok() && parse("--negatives no").is_ok());
    assert!(parse(&format!("{unmixed} {local} --groups 2")).is_ok(), "local views are mixed");
}

#[test]
fn queries_are_counted_by_the_weights() {
    let local = "--local-crops 2 --local-size 16 --local-max-scale 0.5";
    for (line, passes) in [
        ("".to_owned(), (2, 0)),
        (local.to_owned(), (2, 2)),
        ("--symmetric".to_owned(), (4, 0)),
        ("--loss-weights mix-to-mix=0".to_owned(), (2, 0)),
        ("--loss-weights mix-to-mix=0,mix-to-origin=0".to_owned(), (1, 0)),
        (format!("--loss-weights origin-to-origin=0,local-mix-to-origin=0 {local}"), (1, 1)),
    ] {
        assert_eq!(parse(&line).unwrap().query_passes(), passes, "{line}");
    }
}

#[test]
fn every_listed_setting_is_one() {
    let fields = json!(Settings::quick());
    for name in resume::UNDECIDING.into_iter().chain(resume::KEPT).chain(IN_SHORT_HELP) {
        assert!(fields.get(name).is_some(), "{name}");
    }
}

#[test]
fn the_command_line_is_well_formed_and_says_every_default() {
    let mut command = command(Program::Cifar).unwrap();
    command.clone().debug_assert();
    let help = command.render_long_help().to_string();
    let help = help.split_whitespace().collect::<Vec<_>>().join(" "); // lines are wrapped anywhere
    assert!(help.contains("[default: off; vit-small: 0.996; vit-base: 0.996; moco-v3: 0.99]"), "{help}");
    // --timeout is an option where there are ranks to wait for.
    // Without those for image folders, which this program hides, and those that are absent by default.
    let hidden = ["workers", "max_broken_images"];
    let fields = json!(Settings::quick());
    let shown =
        fields.as_object().unwrap().iter().filter(|(name, value)| !hidden.contains(&&***name) && !value.is_null());
    let settings = shown.count();
    // The recipe, the folder, and the timeout where there are ranks to wait for.
    let others = 2 + usize::from(cfg!(feature = "distributed"));
    assert_eq!(help.matches("[default: ").count(), settings + others);
}
