use super::*;

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
