use super::*;

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
