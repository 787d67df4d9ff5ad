//! What is measured beside the training, and options of a step: they change what they should, and go on exactly.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use patchmix::checkpoint::Checkpoint;

use super::resume::{assert_same_end, checkpoints};
use super::{TINY, run, run_well};
use crate::support::{Row, assert_refused, command_in, error_text, metrics, read_metrics};

/// All options of a step at once, on a model with a momentum encoder, local views and micro-batches.
pub(super) const EVERYTHING: &str = "--momentum-encoder 0.9 --momentum-end 0.95 --local-crops 2 --local-size 16 \
                                     --local-max-scale 0.5 --accumulate 3 --online-probe --clip-gradient-norm 0.5 \
                                     --temperature-start 0.4 --temperature-warmup-epochs 2 --jitter-strength 0.5 \
                                     --jitter-probability 0.6 --gray-probability 0.1 --flip-probability 0.3 \
                                     --blur-probability 0.5,0.4 --solarize-probability 0.1,0.3";

/// The tensors of a run's last checkpoint, except for those of the probe.
fn learned(run: &Path) -> BTreeMap<String, Vec<f64>> {
    let tensors = Checkpoint::load(&checkpoints(run)[0]).unwrap().tensors.into_iter();
    let tensors = tensors.filter(|(name, _)| !name.starts_with("probe."));
    tensors.map(|(name, tensor)| (name, tensor.flatten(0, -1).to_kind(tch::Kind::Double).try_into().unwrap())).collect()
}

/// The numbers of a run's rows, except for those of the probe.
fn numbers(run: &Path) -> Vec<Vec<(String, f64)>> {
    let numbers = |row: &Row| {
        let numbers = row.numbers().filter(|(name, _)| *name != "online_probe_top1");
        numbers.map(|(name, number)| (name.to_owned(), number)).collect()
    };
    metrics(run).iter().map(numbers).collect()
}

/// Not even drop path, random views and mixes differ with the probe.
#[test]
fn the_probe_changes_nothing_that_is_learned() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    for (name, options) in
        [("plain", "--knn-every 1"), ("parts", "--knn-every 1 --accumulate 3 --momentum-encoder 0.9")]
    {
        let (with, without) = (format!("{name}-with"), format!("{name}-without"));
        run_well(folder, &format!("{TINY} --epochs 3 {options} --out {without}"));
        run_well(folder, &format!("{TINY} --epochs 3 {options} --online-probe --out {with}"));
        let (with, without) = (folder.join(with), folder.join(without));
        assert_eq!(learned(&with), learned(&without));
        assert_eq!(numbers(&with), numbers(&without));
        let accuracies: Vec<f64> = metrics(&with).iter().map(|row| row.number("online_probe_top1")).collect();
        assert!(accuracies.iter().all(|accuracy| (0.0..=100.0).contains(accuracy)), "{accuracies:?}");
        assert!(!read_metrics(&without).0.contains(&"online_probe_top1".to_owned()));
    }
}

/// Writes dark images and light ones, in folders by class.
fn dark_and_light(folder: &Path) {
    for (part, count) in [("train", 32), ("val", 8)] {
        for (class, value) in [("dark", 30), ("light", 200)] {
            let class = folder.join(part).join(class);
            fs::create_dir_all(&class).unwrap();
            for index in 0..count {
                let pixel = image::Rgb([value + index, value, value + index / 2]);
                image::RgbImage::from_pixel(16, 16, pixel).save(class.join(format!("{index}.png"))).unwrap();
            }
        }
    }
}

/// Any encoder tells dark images from light ones, if their views keep it so.
#[test]
fn the_probe_learns_the_classes() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    dark_and_light(&folder.join("images"));
    let options = "--recipe quick --data images --image-size 16 --patch-size 8 --local-crops 0 --width 16 --depth 1 \
                   --heads 2 --hidden 16 --out-dim 8 --batch-size 16 --epochs 8 --warmup-epochs 1 --threads 1 \
                   --device cpu --precision f32 --jitter-probability 0 --solarize-probability 0,0 --online-probe";
    let output = command_in(folder, "pretrain_imagenet", &format!("{options} --out here")).output().unwrap();
    assert!(output.status.success(), "{}", error_text(&output));
    assert_eq!(metrics(&folder.join("here"))[7].number("online_probe_top1"), 100.0);
    let summary = String::from_utf8(output.stdout).unwrap();
    assert!(summary.contains("probe  100.0 %"), "{summary}");
}

#[test]
fn a_run_says_how_its_features_are_spread_and_where_its_time_went() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let output = run_well(folder, &format!("{TINY} --epochs 2 --online-probe --out here"));
    let rows = metrics(&folder.join("here"));
    let measured = ["alignment", "uniformity", "effective_rank"];
    for column in measured {
        assert!(rows[0].text(column).is_empty() == rows[0].text("knn_top1").is_empty(), "measured where kNN is");
    }
    let [alignment, uniformity, rank] = measured.map(|column| rows[1].number(column));
    // Features of 16 numbers.
    assert!((0.0..4.0).contains(&alignment) && (-8.0..0.0).contains(&uniformity) && (1.0..=16.0).contains(&rank));
    let line = |text: &[u8]| {
        let text = String::from_utf8(text.to_vec()).unwrap();
        text.lines().find(|line| line.starts_with("time")).map(str::to_owned).unwrap_or_else(|| panic!("{text}"))
    };
    let times = line(&output.stdout);
    for part in ["training", "waiting for data", "kNN", "probe", "representation", "saving"] {
        assert!(times.contains(&format!("{part} ")), "{part}: {times}");
    }
    let shares = times.split(" %").filter_map(|part| part.rsplit(' ').next()?.parse::<f64>().ok());
    assert!((shares.sum::<f64>() - 100.0).abs() < 0.5, "{times}");
    assert!(!times.contains("resumed"), "{times}");

    run_well(folder, &format!("{TINY} --epochs 2 --stop-after 3 --out parts"));
    let times = line(&run_well(folder, "--resume --out parts").stdout);
    assert!(times.contains("since the run was resumed"), "{times}");
}

/// The views of test images whose features are compared are the same for the same weights.
#[test]
fn measures_depend_on_the_weights_alone() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    run_well(folder, &format!("{TINY} --epochs 3 --warmup-epochs 3 --knn-every 1 --lr 0 --out here"));
    let rows = metrics(&folder.join("here"));
    for column in ["alignment", "uniformity", "effective_rank"] {
        assert_eq!(rows[0].text(column), rows[2].text(column), "{column}");
    }
}

/// A clipped norm scales all gradients alike, which Adam hardly minds: what shows is that the run is another one, and
/// that the norm is the one from before.
#[test]
fn the_norm_is_reported_as_it_was_before_clipping() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    for (out, option) in [("plain", ""), ("high", "--clip-gradient-norm 1e6"), ("low", "--clip-gradient-norm 0.01")] {
        run_well(folder, &format!("{TINY} --epochs 2 {option} --out {out}"));
    }
    assert_same_end(&folder.join("plain"), &folder.join("high"));
    let [plain, low] = ["plain", "low"].map(|out| metrics(&folder.join(out)));
    assert!(low.iter().all(|row| row.number("gradient_norm") > 0.01), "{low:?}");
    assert_ne!(learned(&folder.join("plain")), learned(&folder.join("low")));
    // Rates are 0 in the first step, so the second one has the same weights.
    assert!((low[0].number("gradient_norm") / plain[0].number("gradient_norm") - 1.0).abs() < 0.5);
}

#[test]
fn the_temperature_has_a_column_where_it_varies() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let options = "--temperature-start 0.5 --temperature-warmup-epochs 2";
    run_well(folder, &format!("{TINY} --epochs 3 {options} --out warm"));
    let temperatures: Vec<f64> = metrics(&folder.join("warm")).iter().map(|row| row.number("temperature")).collect();
    // Of the last of 4 steps: the fourth of 8, the eighth, and one beyond.
    let expected = [0.5 - 0.3 * 3.0 / 7.0, 0.2, 0.2];
    assert!(temperatures.iter().zip(expected).all(|(one, other)| (one - other).abs() < 1e-12), "{temperatures:?}");
    run_well(folder, &format!("{TINY} --epochs 3 --out constant"));
    assert!(!read_metrics(&folder.join("constant")).0.contains(&"temperature".to_owned()));
    assert_ne!(learned(&folder.join("warm")), learned(&folder.join("constant")));
}

/// 4 steps an epoch, stopped in the first, at the end of the second and in the third.
#[test]
fn a_run_with_every_option_goes_on_exactly() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let options = format!("{TINY} --epochs 3 --knn-every 2 {EVERYTHING}");
    run_well(folder, &format!("{options} --out straight"));
    for steps in [2, 8, 9] {
        let out = format!("stopped-{steps}");
        run_well(folder, &format!("{options} --stop-after {steps} --out {out}"));
        run_well(folder, &format!("--resume --out {out}"));
        assert_same_end(&folder.join("straight"), &folder.join(out));
    }
}

#[test]
fn options_that_say_nothing_are_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    for (options, named) in [
        ("--momentum-end 1", "--momentum-encoder"),
        ("--temperature-start 0.1", "--temperature-warmup-epochs"),
        ("--jitter-probability 0 --jitter-strength 1", "--jitter-strength"),
        ("--blur-probability 1,0,0", "--blur-probability"),
    ] {
        assert_refused(options, &run(folder.path(), &format!("{TINY} --epochs 2 {options}")), &[named]);
    }
}
