use super::*;

fn parse(line: &str) -> Result<Settings> {
    let words = std::iter::once("pretrain_cifar").chain(line.split_whitespace());
    Arguments::from_arg_matches(&command()?.try_get_matches_from(words)?)?.settings()
}

#[test]
fn without_arguments_it_is_the_quick_recipe() {
    assert_eq!(parse("").unwrap(), Recipe::Quick.settings());
}

#[test]
fn a_data_set_brings_the_published_recipe_of_the_architecture() {
    let tiny = parse("--dataset cifar10").unwrap();
    assert_eq!(tiny, Settings { dataset: DatasetName::Cifar10, ..Recipe::VitTiny.settings() });
    assert_eq!((tiny.epochs, tiny.batch_size, tiny.momentum_encoder), (800, 512, 0.0));
    assert_eq!(parse("--arch vit-small").unwrap().epochs, Recipe::Quick.settings().epochs);
    let small = parse("--dataset cifar100 --arch vit-small").unwrap();
    assert_eq!((small.dataset, small.lr, small.momentum_encoder), (DatasetName::Cifar100, 5e-4, 0.996));
    assert_eq!((small.width, small.depth, small.heads), (384, 12, 12));
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
    ] {
        let error = parse(line).expect_err(line).to_string();
        assert!(error.contains(named), "{line}: {error}");
    }
}

#[test]
fn a_run_that_goes_on_keeps_what_decides_its_numbers() {
    let saved = Recipe::Quick.settings();
    let resumed = |line: &str| {
        let words = "pretrain_cifar --out x --resume".split(' ').chain(line.split_whitespace());
        let matches = command().unwrap().try_get_matches_from(words).unwrap();
        Arguments::from_arg_matches(&matches).unwrap().resumed_settings(&saved)
    };
    assert_eq!(resumed("").unwrap(), saved);
    assert_eq!(resumed("--device cpu --threads 3").unwrap().threads, 3);
    let error = resumed("--epochs 99").unwrap_err().to_string();
    assert!(error.contains("--epochs 99") && error.contains("12"), "{error}");
}

#[test]
fn the_command_line_is_well_formed_and_says_every_default() {
    let mut command = command().unwrap();
    command.clone().debug_assert();
    let help = command.render_long_help().to_string();
    let help = help.split_whitespace().collect::<Vec<_>>().join(" "); // lines are wrapped anywhere
    assert!(help.contains("[default: off; vit-small: 0.996; vit-base: 0.996]"), "{help}");
    assert_eq!(help.matches("[default: ").count(), fields(&Recipe::Quick.settings()).unwrap().len() + 2);
}
