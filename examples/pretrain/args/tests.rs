use super::*;

fn parse(line: &str) -> Result<Settings> {
    parse_for(Program::Cifar, line)
}

fn parse_for(program: Program, line: &str) -> Result<Settings> {
    let words = std::iter::once(program.name()).chain(line.split_whitespace());
    Arguments::of(program, &command(program)?.try_get_matches_from(words)?)?.settings()
}

#[test]
fn without_arguments_it_is_the_quick_recipe() {
    assert_eq!(parse("").unwrap(), Recipe::Quick.settings(Program::Cifar));
}

#[test]
fn a_data_set_brings_the_published_recipe_of_the_architecture() {
    let tiny = parse("--dataset cifar10").unwrap();
    assert_eq!(tiny, Settings { dataset: DatasetName::Cifar10, ..Recipe::VitTiny.settings(Program::Cifar) });
    assert_eq!((tiny.epochs, tiny.batch_size, tiny.momentum_encoder), (800, 512, 0.0));
    assert_eq!(parse("--arch vit-small").unwrap().epochs, Recipe::Quick.settings(Program::Cifar).epochs);
    let small = parse("--dataset cifar100 --arch vit-small").unwrap();
    assert_eq!((small.dataset, small.lr, small.momentum_encoder), (DatasetName::Cifar100, 5e-4, 0.996));
    assert_eq!((small.width, small.depth, small.heads), (384, 12, 12));
}

#[test]
fn imagenet_has_the_published_recipes() {
    let small = parse_for(Program::Imagenet, "").unwrap();
    assert_eq!(small, Recipe::VitSmall.settings(Program::Imagenet));
    assert_eq!((small.image_size, small.patch_size, small.batch_size), (224, 16, 1024));
    assert_eq!((small.epochs, small.warmup_epochs, small.momentum_encoder, small.lr), (300, 10, 0.996, 5e-4));
    assert_eq!((small.local_crops, small.local_size, small.crop_min_scale), (8, 96, 0.05));
    assert_eq!((small.weight_decay, small.weight_decay_end, small.drop_path), (0.04, 0.4, 0.1));
    let base = parse_for(Program::Imagenet, "--arch vit-base").unwrap();
    assert_eq!((base.width, base.lr, base.local_max_scale), (768, 7.5e-4, 0.35));
    assert_eq!(base, parse_for(Program::Imagenet, "--recipe vit-base").unwrap());
    assert_eq!(parse_for(Program::Imagenet, "--recipe quick").unwrap().dataset, DatasetName::ImageFolder);
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
        ("--image-size 30", "patches of 4 x 4"),
        ("--batch-size 3 --groups 4", "--batch-size 3"),
        ("--batch-size 6 --groups 4 --mix-stride 3", "2"),
        ("--dataset cifar10 --width 96", "--arch custom"),
        ("--arch custom --width 96", "--depth"),
        ("--temperature 0", "--temperature"),
        ("--temperature nan", "--temperature"),
        ("--warmup-epochs 99", "--warmup-epochs"),
        ("--crop-min-scale 0", "--crop-min-scale"),
        ("--smoothing 1.5", "--smoothing"),
        ("--epochs 0", "--epochs"),
        ("--momentum-encoder fast", "off"),
        ("--knn-every 0", "--knn-every"),
        ("--limit=-1", "--limit"),
        ("--local-crops 1 --local-size 14", "patches of 4 x 4"),
        ("--local-crops 1 --local-size 4", "1 patches"),
        ("--local-crops 65 --local-size 16", "64 are the most"),
        ("--local-crops 1 --local-size 16 --local-max-scale 0.3", "--local-max-scale"),
        ("--accumulate 0", "--accumulate"),
        ("--accumulate 65", "--accumulate"),
        ("--save-epochs 0", "--save-epochs 0"),
        ("--precision f16", "f32-strict"),
    ] {
        let error = parse(line).expect_err(line).to_string();
        assert!(error.contains(named), "{line}: {error}");
    }
}

#[test]
fn a_run_that_goes_on_keeps_what_decides_its_numbers() {
    let saved = Recipe::Quick.settings(Program::Cifar);
    let resumed = |line: &str| {
        let words = "pretrain_cifar --out x --resume".split(' ').chain(line.split_whitespace());
        let matches = command(Program::Cifar).unwrap().try_get_matches_from(words).unwrap();
        Arguments::from_arg_matches(&matches).unwrap().resumed_settings(&saved)
    };
    assert_eq!(resumed("").unwrap(), saved);
    assert_eq!(resumed("--device cpu --threads 3").unwrap().threads, 3);
    assert_eq!(resumed("--save-epochs 4").unwrap().save_epochs, 4);
    assert!(resumed("--deterministic").is_err());
    let error = resumed("--epochs 99").unwrap_err().to_string();
    assert!(error.contains("--epochs 99") && error.contains("12"), "{error}");
}

#[test]
fn the_precision_of_a_run_stays_with_it() {
    let saved = Settings { precision: PrecisionName::F32, ..Recipe::Quick.settings(Program::Cifar) };
    for (option, precision) in [("", Some(PrecisionName::F32)), ("auto", Some(PrecisionName::F32)), ("bf16", None)] {
        let option = if option.is_empty() { String::new() } else { format!("--precision {option}") };
        let words = format!("pretrain_cifar --out x --resume {option}");
        let matches = command(Program::Cifar).unwrap().try_get_matches_from(words.split_whitespace()).unwrap();
        let resumed = Arguments::from_arg_matches(&matches).unwrap().resumed_settings(&saved);
        assert_eq!(resumed.ok().map(|settings| settings.precision), precision, "{words}");
    }
    assert_eq!(parse("").unwrap().precision, PrecisionName::Auto);
    assert_eq!(parse("--precision f32-strict").unwrap().precision, PrecisionName::F32Strict);
}

#[test]
fn a_run_of_an_earlier_version_goes_on() {
    let settings = Recipe::Quick.settings(Program::Cifar);
    let mut saved = fields(&settings).unwrap();
    assert!(saved.remove("deterministic").is_some() && saved.remove("save_epochs").is_some());
    assert_eq!(serde_json::from_value::<Settings>(Value::Object(saved)).unwrap(), settings);
}

#[test]
fn the_command_line_is_well_formed_and_says_every_default() {
    let mut command = command(Program::Cifar).unwrap();
    command.clone().debug_assert();
    let help = command.render_long_help().to_string();
    let help = help.split_whitespace().collect::<Vec<_>>().join(" "); // lines are wrapped anywhere
    assert!(help.contains("[default: off; vit-small: 0.996; vit-base: 0.996]"), "{help}");
    // --timeout is an option where there are ranks to wait for.
    let settings = fields(&Recipe::Quick.settings(Program::Cifar)).unwrap().len();
    assert_eq!(help.matches("[default: ").count(), settings + usize::from(cfg!(feature = "distributed")));
}
