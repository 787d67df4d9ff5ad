//! Variants of the method: weights of the losses, other mixes, the symmetric and the negative-free form, MoCo v3.

use std::path::Path;

use super::bad_input::blank_cifar;
use super::resume::assert_same_end;
use super::{TINY, run, run_well};
use crate::support::{assert_refused, content, error_text, metrics, program, python, read_json, run_script};

/// Every variant at once, with local views, micro-batches and a momentum encoder.
pub(super) const VARIANTS: &str = "--loss-weights mix-to-origin=0,mix-to-mix=0.8,local-to-origin=0.25 --symmetric \
                                   --mix-patch-size 4 --mix-plans per-image --mix-blocks contiguous --local-crops 2 \
                                   --local-size 16 --local-max-scale 0.5 --accumulate 3 --momentum-encoder 0.9";

#[test]
fn the_defaults_said_aloud_change_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    run_well(folder, &format!("{TINY} --epochs 2 --out usual"));
    let aloud = "--loss-weights origin-to-origin=1,mix-to-origin=0.5,mix-to-mix=0.5 --mix-patch-size 8 --mix-plans \
                 per-view --mix-blocks random --symmetric=false --negatives yes";
    run_well(folder, &format!("{TINY} --epochs 2 {aloud} --out aloud"));
    assert_same_end(&folder.join("usual"), &folder.join("aloud"));
}

#[test]
fn a_run_of_all_variants_resumes_to_the_same_bits_and_measures_the_terms_it_has() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    for (name, options) in [("contrast", VARIANTS.to_owned()), ("distance", format!("{VARIANTS} --negatives no"))] {
        let options = format!("{TINY} {options} --epochs 3");
        let text = error_text(&run_well(folder, &format!("{options} --out {name}")));
        assert!(text.contains("in bands of blocks of 4 px, one plan per image"), "{text}");
        assert_eq!(text.contains(", no negatives"), name == "distance", "{text}");
        run_well(folder, &format!("{options} --stop-after 6 --out parts"));
        run_well(folder, "--resume --out parts");
        assert_same_end(&folder.join(name), &folder.join("parts"));
        std::fs::remove_dir_all(folder.join("parts")).unwrap();
        for row in metrics(&folder.join(name)) {
            let [origin, mix, local, local_mix] =
                ["origin_to_origin", "mix_to_mix", "local_to_origin", "local_mix_to_origin"]
                    .map(|name| row.number(name));
            assert_eq!(row.text("mix_to_origin"), "", "it has no weight");
            let total = origin + 0.8 * mix + 0.25 * local + local_mix;
            assert!((row.number("loss") - total).abs() < 1e-4, "{row:?}");
        }
        // The line of an epoch says the same sum: `7.8 = 3.8 + 0.8 4.0 + 4.0/4 + 4.0`.
        let line = text.lines().find(|line| line.starts_with("epoch 3/3")).unwrap();
        assert!(line.contains(" + 0.8 ") && line.contains("/4 + "), "{line}");
    }
}

/// Another seed of a mix that a run does not have changes nothing of what it learns.
#[test]
fn a_run_without_mixed_terms_does_not_depend_on_the_mix() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let tiny = TINY.replace("--groups 2,3", "").replace("--mix-probability 0.8", "");
    let plain = format!("{tiny} --epochs 1 --loss-weights mix-to-origin=0,mix-to-mix=0");
    let text = error_text(&run_well(folder, &format!("{plain} --out two")));
    assert!(text.contains("no mixed images"), "{text}");
    let config = folder.join("two/config.json");
    let mut settings = read_json(&config);
    settings["groups"] = vec![1].into();
    settings["mix_plans"] = "per-image".into();
    std::fs::write(folder.join("one.json"), settings.to_string()).unwrap();
    run_well(folder, "--config one.json --out one");
    assert_eq!(metrics(&folder.join("two")), metrics(&folder.join("one")));
}

#[test]
fn moco_v3_is_a_recipe() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let tiny = TINY.replace("--recipe quick", "--recipe moco-v3 --arch custom").replace("--groups 2,3", "");
    let tiny = tiny.replace("--mix-probability 0.8", "").replace("--drop-path 0.2", "");
    let text = error_text(&run_well(folder, &format!("{tiny} --epochs 1 --out here")));
    assert!(text.contains("no mixed images, 2 views of 32 px, momentum encoder, symmetric"), "{text}");
    let row = &metrics(&folder.join("here"))[0];
    let (loss, term) = (row.number("loss"), row.number("origin_to_origin"));
    assert!((loss - 0.8 * term).abs() < 1e-6 && row.text("mix_to_mix").is_empty(), "{row:?}");
    assert_refused(
        "--recipe moco-v3 --mix-plans per-image",
        &run(folder, "--recipe moco-v3 --mix-plans per-image"),
        &["--mix-plans", "no mixed term has a weight"],
    );
}

/// The rows are trained once: the second call reads them, also one that was interrupted before its end.
#[test]
fn the_script_makes_a_table_and_goes_on_where_it_stopped() {
    let Some(mut python) = python("json") else { return };
    let folder = tempfile::tempdir().unwrap();
    let (folder, out) = (folder.path(), folder.path().join("ablation"));
    blank_cifar(folder);
    let tiny = "--width 16 --depth 2 --heads 2 --patch-size 8 --hidden 16 --out-dim 8 --batch-size 16 --knn-images 32 \
                --threads 1 --device cpu --precision f32";
    let script = |epochs: u64, more: &str| {
        format!(
            "--program {} --data {} --out {} --limit 64 --rows patchmix,moco-v3 --epochs {epochs} -- {tiny} {more}",
            program("pretrain_cifar").display(),
            folder.display(),
            out.display()
        )
    };
    let lines = [
        script(2, ""),
        script(3, ""),
        script(2, "").replace("patchmix,moco-v3", "patchmix,none"),
        script(2, "--lr 1e-3"),
        script(2, "").replace("--rows patchmix,moco-v3", "--rows groups-4 --program no-program"),
    ];
    let results = run_script(&mut python, "scripts/ablate.py", &lines);
    assert!(results[0].0, "{}", results[0].1);
    let lines_of_table: Vec<&str> = results[0].1.lines().filter(|line| line.starts_with("| ")).collect();
    assert_eq!(lines_of_table.len(), 3, "{}", results[0].1);
    assert!(lines_of_table[1].starts_with("| patchmix | the quick recipe | "));
    assert!(lines_of_table[2].contains("`--symmetric --origin-smoothing 0"), "{}", lines_of_table[2]);
    assert_eq!(metrics(&out.join("moco-v3-seed-0")).len(), 2);
    assert!(results[0].1.contains("--limit 64 --epochs 2") && results[0].1.contains("--out-dim 8"), "{}", results[0].1);
    for (result, other) in [(&results[1], "--epochs 3"), (&results[3], "--lr 1e-3; choose another --out")] {
        let (is_done, text) = result;
        assert!(!is_done && text.contains("was begun with --recipe quick") && text.contains(other), "{text}");
    }
    assert!(!results[4].0 && results[4].1.contains("`cargo build --release --example"), "{}", results[4].1);
    assert!(!results[2].0 && results[2].1.contains("there is no row none"), "{}", results[2].1);

    // As if the second row had been interrupted, and the first had rows without a speed.
    std::fs::remove_file(out.join("moco-v3-seed-0/summary.json")).unwrap();
    without_speed(&out.join("patchmix-seed-0/metrics.csv"));
    let before = content(&out.join("patchmix-seed-0"));
    let results = run_script(&mut python, "scripts/ablate.py", &[script(2, "")]);
    assert!(results[0].0 && results[0].1.contains("| moco-v3 | "), "{}", results[0].1);
    assert!(results[0].1.contains("|  |\n| moco-v3"), "{}", results[0].1);
    assert_eq!(content(&out.join("patchmix-seed-0")), before, "a finished row is only read");
}

/// Makes the speeds of a file of two epochs those of one that was stopped at its last batch, and of a recovered one.
fn without_speed(path: &Path) {
    let text = std::fs::read_to_string(path).unwrap();
    let column = text.lines().next().unwrap().split(',').position(|name| name == "images_per_second").unwrap();
    let lines = text.lines().enumerate().map(|(row, line)| {
        let mut cells: Vec<&str> = line.split(',').collect();
        match row {
            0 => {}
            1 => cells[column] = "0",
            _ => cells[column] = "",
        }
        cells.join(",") + "\n"
    });
    std::fs::write(path, lines.collect::<String>()).unwrap();
}
