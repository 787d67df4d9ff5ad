use std::ffi::OsString;
use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use super::command_line::{command, recipe_settings};
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
fn without_arguments_it_is_the_quick_recipe() {
    assert_eq!(parse("").unwrap(), Settings::quick());
}

#[test]
fn a_data_set_brings_the_published_recipe_of_the_architecture() {
    let tiny = parse("--dataset cifar10").unwrap();
    assert_eq!(tiny, Settings { dataset: DatasetName::Cifar10, ..published(Recipe::VitTiny, Program::Cifar) });
    assert_eq!((tiny.epochs, tiny.batch_size, tiny.momentum_encoder), (800, 512, 0.0));
    assert_eq!(parse("--arch vit-small").unwrap().epochs, Settings::quick().epochs);
    let small = parse("--dataset cifar100 --arch vit-small").unwrap();
    assert_eq!((small.dataset, small.lr, small.momentum_encoder), (DatasetName::Cifar100, 5e-4, 0.996));
    assert_eq!((small.width, small.depth, small.heads), (384, 12, 12));
}

#[test]
fn imagenet_has_the_published_recipes() {
    let small = parse_for(Program::Imagenet, "").unwrap();
    assert_eq!(small, published(Recipe::VitSmall, Program::Imagenet));
    assert_eq!((small.image_size, small.patch_size, small.batch_size), (224, 16, 1024));
    assert_eq!((small.epochs, small.warmup_epochs, small.momentum_encoder, small.lr), (300, 10, 0.996, 5e-4));
    assert_eq!((small.local_crops, small.local_size, small.crop_min_scale), (8, 96, 0.05));
    assert_eq!((small.weight_decay, small.weight_decay_end, small.drop_path), (0.04, 0.4, 0.1));
    let base = parse_for(Program::Imagenet, "--arch vit-base").unwrap();
    assert_eq!((base.width, base.lr, base.local_max_scale), (768, 7.5e-4, 0.35));
    assert_eq!(base, parse_for(Program::Imagenet, "--recipe vit-base").unwrap());
    assert_eq!(parse_for(Program::Imagenet, "--recipe quick").unwrap().dataset, DatasetName::ImageFolder);
}

/// Nobody has published a PatchMix run on these. Like the published ones they have 144 to 256 patches an image, and the
/// same number of images in all as on CIFAR (docs/pretraining.md).
#[test]
fn three_more_data_sets_bring_recipes_of_their_own() {
    let shape = |settings: &Settings| (settings.image_size, settings.patch_size, settings.batch_size);
    let length = |settings: &Settings| (settings.epochs, settings.warmup_epochs);
    let views = |settings: &Settings| (settings.local_crops, settings.local_size, settings.crop_min_scale);
    let stl = parse("--dataset stl10").unwrap();
    assert_eq!((shape(&stl), length(&stl), views(&stl)), ((96, 8, 512), (400, 50), (0, 40, 0.1)));
    assert_eq!((stl.arch, stl.lr, stl.momentum_encoder), (Architecture::VitTiny, 2e-3, 0.0));
    let tiny = parse_for(Program::Imagenet, "--dataset tiny-imagenet").unwrap();
    assert_eq!((shape(&tiny), length(&tiny), views(&tiny)), ((64, 4, 512), (400, 50), (0, 28, 0.1)));
    let hundred = parse_for(Program::Imagenet, "--dataset imagenet-100").unwrap();
    assert_eq!((shape(&hundred), length(&hundred), views(&hundred)), ((224, 16, 512), (400, 40), (8, 96, 0.05)));
    assert_eq!((tiny.knn_images, hundred.knn_images), (0, 0));
    // The architecture's values are laid over the data set's, and what is said over both.
    for (program, dataset) in [(Program::Cifar, "stl10"), (Program::Imagenet, "tiny-imagenet")] {
        let base = parse_for(program, &format!("--dataset {dataset} --arch vit-base --epochs 7 --warmup-epochs 1"));
        let base = base.unwrap();
        assert_eq!((base.lr, base.momentum_encoder, base.epochs, base.width), (7.5e-4, 0.996, 7, 768));
        assert_eq!(base.image_size, if dataset == "stl10" { 96 } else { 64 });
        // A run of a file goes on with the data set's values for what the file lacks.
        let file = run_with(&json!({ "dataset": dataset }));
        let line = format!("--config {}", file.path().join(CONFIG).display());
        assert_eq!(parse_for(program, &line).unwrap(), parse_for(program, &format!("--dataset {dataset}")).unwrap());
        // A small model for a first look stays one.
        let quick = parse_for(program, &format!("--dataset {dataset} --recipe quick")).unwrap();
        assert_eq!((quick.dataset.name().as_str(), quick.epochs, quick.width), (dataset, 12, 64));
        // Local views fit the patches.
        let local = parse_for(program, &format!("--dataset {dataset} --local-crops 2")).unwrap();
        assert_eq!(local.local_size % local.patch_size, 0);
    }
    assert!(parse("--dataset tiny-imagenet").is_err() && parse_for(Program::Imagenet, "--dataset stl10").is_err());
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
fn a_loss_that_is_not_named_keeps_the_weight_of_the_layers_below() {
    let weights = |settings: Settings| settings.loss_weights.weights().to_array();
    let moco = weights(parse("--recipe moco-v3").unwrap());
    let lighter = parse("--recipe moco-v3 --temperature 0.1 --loss-weights origin-to-origin=0.4").unwrap();
    assert!(!lighter.mixes());
    assert_eq!(weights(lighter), [0.4, moco[1], moco[2], moco[3], moco[4]]);
    let run = run_with(&json!({ "loss_weights": "origin-to-origin=0.3,mix-to-origin=0.7" }));
    let file = run.path().join(CONFIG);
    let of_file = format!("--config {}", file.display());
    assert_eq!(weights(parse(&of_file).unwrap()), [0.3, 0.7, 0.5, 1.0, 1.0]);
    let changed = parse(&format!("{of_file} --loss-weights mix-to-mix=0.2")).unwrap();
    assert_eq!(weights(changed), [0.3, 0.7, 0.2, 1.0, 1.0]);
    let run = run_with(&json!(parse("--recipe moco-v3").unwrap()));
    assert_eq!(weights(resumed(run.path(), "--loss-weights mix-to-mix=0.1").unwrap())[..3], [0.8, 0.0, 0.1]);
    // The last of several, as for every option.
    assert_eq!(weights(parse("--loss-weights mix-to-mix=0 --loss-weights mix-to-origin=0").unwrap())[1..3], [0.0, 0.5]);
    let error = parse("--recipe moco-v3 --loss-weights origin-to-origin=0").unwrap_err().to_string();
    assert!(error.contains("no loss of global views has a weight"), "{error}");
}

#[test]
fn the_recipe_of_moco_v3_is_the_published_one() {
    let settings = published(Recipe::MocoV3, Program::Imagenet);
    let loss = settings.loss(64);
    assert_eq!(loss.weights.to_array()[..3], [4.0 * settings.temperature, 0.0, 0.0]);
    assert!(loss.symmetric && loss.negatives && !settings.mixes() && settings.freeze_patch_embedding);
    assert_eq!((settings.temperature, settings.origin_smoothing, settings.momentum_encoder), (0.2, 0.0, 0.99));
    assert_eq!((settings.lr, settings.weight_decay, settings.weight_decay_end), (1.5e-4, 0.1, 0.1));
    assert_eq!((settings.epochs, settings.warmup_epochs, settings.batch_size), (300, 40, 1024));
    assert_eq!(
        (settings.width, settings.local_crops, settings.crop_min_scale, settings.drop_path),
        (384, 0, 0.08, 0.0)
    );
    assert_eq!(published(Recipe::MocoV3, Program::Cifar).query_passes(), (2, 0));
    assert!(!parse_for(Program::Imagenet, "--recipe moco-v3 --local-crops 8").unwrap().mixes());
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
fn a_run_that_resumes_keeps_its_model_and_its_images() {
    let run = run_with(&json!(Settings::quick()));
    let resumed = |line| resumed(run.path(), line);
    assert_eq!(resumed("").unwrap(), Settings::quick());
    assert_eq!(resumed("--device cpu --threads 3").unwrap().threads, 3);
    assert_eq!(resumed("--save-epochs 4").unwrap().save_epochs, 4);
    assert_eq!(resumed("--epochs 12").unwrap(), Settings::quick(), "said again");
    assert_eq!(resumed("--arch custom").unwrap(), Settings::quick(), "it is a custom one");
    assert_eq!(resumed("--epochs 99 --lr 1").unwrap(), Settings { epochs: 99, lr: 1.0, ..Settings::quick() });
    for line in ["--depth 4", "--seed 1", "--limit 7", "--image-size 64", "--momentum-encoder 0.9", "--init there"] {
        let error = resumed(line).unwrap_err().to_string();
        assert!(error.contains(line) && error.contains("--init"), "{line}: {error}");
    }
    let run = run_with(&json!(Settings { momentum_encoder: 0.9, ..Settings::quick() }));
    let resumed = |line: &str| super::tests::resumed(run.path(), line);
    assert_eq!(resumed("--momentum-encoder 0.99").unwrap().momentum_encoder, 0.99);
    assert!(resumed("--momentum-encoder off").is_err());
}

#[test]
fn the_precision_of_a_run_stays_with_it() {
    let run = run_with(&json!(Settings { precision: PrecisionName::F32, ..Settings::quick() }));
    let bf16 = PrecisionName::Bf16;
    for (option, precision) in
        [("", PrecisionName::F32), ("--precision auto", PrecisionName::F32), ("--precision bf16", bf16)]
    {
        assert_eq!(resumed(run.path(), option).unwrap().precision, precision, "{option}");
    }
    assert_eq!(parse("").unwrap().precision, PrecisionName::Auto);
    assert_eq!(parse("--precision f32-strict").unwrap().precision, PrecisionName::F32Strict);
}

#[test]
fn a_run_of_an_earlier_version_resumes() {
    let mut saved = json!(Settings::quick());
    let fields = saved.as_object_mut().unwrap();
    for name in ["deterministic", "save_epochs", "loss_weights", "mix_plans", "symmetric", "negatives"] {
        assert!(fields.remove(name).is_some(), "{name}");
    }
    assert_eq!(resumed(run_with(&saved).path(), "").unwrap(), Settings::quick());
}

#[test]
fn a_file_of_settings_is_laid_under_the_command_line() {
    let settings =
        Settings { lr: 1.0 / 3.0, groups: vec![2, 4], momentum_encoder: 0.99, mix_stride: -1, ..Settings::quick() };
    let settings = Settings {
        loss_weights: "mix-to-mix=0.125".parse().unwrap(),
        mix_plans: MixPlans::PerImage,
        mix_blocks: MixBlocks::Contiguous,
        mix_patch_size: 8,
        symmetric: true,
        negatives: false,
        ..settings
    };
    let run = run_with(&json!(settings));
    let file = run.path().join(CONFIG);
    assert_eq!(parse(&format!("--config {}", file.display())).unwrap(), settings);
    let changed = parse(&format!("--epochs 3 --config {} --groups 3", file.display())).unwrap();
    assert_eq!(changed, Settings { epochs: 3, groups: vec![3], ..settings });
    // A file of a few settings leaves the rest to the program's recipe.
    let run = run_with(&json!({ "epochs": 70 }));
    let few = format!("--config {}", run.path().join(CONFIG).display());
    assert_eq!(parse(&few).unwrap(), Settings { epochs: 70, ..Settings::quick() });
    let small = published(Recipe::VitSmall, Program::Imagenet);
    assert_eq!(parse_for(Program::Imagenet, &few).unwrap(), Settings { epochs: 70, ..small });
    for (text, named) in [
        (json!({ "dataset": "image-folder" }), "pretrain_imagenet"),
        (json!({ "arch": "vit-small", "width": 96 }), "arch custom"),
        (json!({ "arch": "custom" }), "arch custom"),
        (json!({ "widht": 64 }), "--widht"),
        (json!({ "temperature": 0 }), "--temperature"),
        (json!({ "batch_size": 1.5 }), "--batch-size"),
        (json!([1]), "config.json"),
    ] {
        let run = run_with(&text);
        let error = parse(&format!("--config {}", run.path().join(CONFIG).display())).unwrap_err().to_string();
        assert!(error.contains(named) && error.contains("config.json") && error.lines().count() == 1, "{error}");
    }
    assert!(parse("--config none.json").unwrap_err().to_string().contains("none.json"));
    assert!(parse(&format!("--config {} --recipe quick", file.display())).is_err());
}

#[test]
fn every_listed_setting_is_one() {
    let fields = json!(Settings::quick());
    for name in resume::UNDECIDING.into_iter().chain(resume::KEPT).chain(command_line::IN_SHORT_HELP) {
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
