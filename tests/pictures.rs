//! The program that draws, as its user meets it: a picture of each kind from a tiny run, and what it says to wrong input.
#![allow(clippy::unwrap_used, clippy::expect_used)] // a test may panic, helpers included

#[path = "common/program.rs"]
mod program;
#[path = "common/tiny_run.rs"]
mod tiny_run;

use std::fs;
use std::path::PathBuf;
use std::process::Output;
use std::sync::LazyLock;

use program::{build_example, command_in};
use tiny_run::tiny_run;

static PROGRAM: LazyLock<PathBuf> = LazyLock::new(|| build_example("pictures"));

/// Where the programs run: a pre-training is in the folder `run`.
static FOLDER: LazyLock<PathBuf> = LazyLock::new(|| tiny_run("pictures"));

fn pictures(options: &str) -> Output {
    command_in(&FOLDER, &PROGRAM, options).output().unwrap()
}

/// Draws a picture, and returns its width and height and what is said of it.
#[track_caller]
fn drawn(options: &str, name: &str) -> ((u32, u32), String) {
    let output = pictures(&format!("{options} --out {name}"));
    assert!(output.status.success(), "{options}: {}", String::from_utf8_lossy(&output.stderr));
    (image::open(FOLDER.join(name)).unwrap().into_rgb8().dimensions(), String::from_utf8(output.stdout).unwrap())
}

#[test]
fn similar_images_have_a_row_for_each_test_image() {
    let ((width, height), said) = drawn("similar --checkpoint run --queries 3 --neighbours 7", "three.png");
    assert!(said.contains("epoch 1") && said.contains("of 21 neighbours"), "{said}");
    let (more, _) = drawn("similar --checkpoint run --queries 4 --neighbours 9", "four.png");
    assert!(more.0 > width && more.1 > height);
    // There are no more neighbours than training images.
    let (_, said) = drawn("similar --checkpoint run --queries 1 --neighbours 50 --limit 40", "all.png");
    assert!(said.contains("of 40 neighbours"), "{said}");
}

#[test]
fn a_map_shows_the_images_that_are_asked_for() {
    let (_, said) = drawn("map --checkpoint run --images 40", "map.png");
    assert!(said.contains("40 test images") && said.contains("% of the variance"), "{said}");
    let (_, said) =
        drawn("map --checkpoint run/checkpoints/best.safetensors --images 0 --pooling patch-mean", "whole.png");
    assert!(said.contains("1000 test images"), "{said}");
}

#[test]
fn attention_has_a_column_for_each_head_and_a_row_for_each_image() {
    let ((_, one), _) = drawn("attention --checkpoint run --images 1", "one.png");
    let ((_, five), said) = drawn("attention --checkpoint run --images 5 --block 0", "five.png");
    assert!(five > one && said.contains("to itself"), "{said}");
}

#[test]
fn curves_show_one_run_or_several() {
    let (one, said) = drawn("curves run", "curves.png");
    assert!(said.contains("epochs 1"), "{said}");
    let original = image::open(FOLDER.join("run/curves.png")).unwrap().into_rgb8();
    assert_eq!(image::open(FOLDER.join("curves.png")).unwrap().into_rgb8(), original);
    let (several, said) = drawn("curves run run run", "several.png");
    assert!(several.1 > one.1 && said.contains("epochs 1, 1, 1"), "{said}");
}

#[test]
fn the_method_is_explained_by_an_animation_and_its_key_frames() {
    let output = pictures("explain --groups 3 --patches-per-side 2 --out how.png");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let read = |name: &str| {
        let file = std::io::BufReader::new(fs::File::open(FOLDER.join(name)).unwrap());
        png::Decoder::new(file).read_info().unwrap()
    };
    let control = read("how.png").info().animation_control.expect("an animation");
    assert!(control.num_frames > 40 && control.num_plays == 0, "{control:?}");
    assert!(read("how-steps.png").info().animation_control.is_none());
}

#[test]
fn wrong_input_gets_one_line_that_says_what_to_do() {
    fs::create_dir_all(FOLDER.join("empty")).unwrap();
    fs::create_dir_all(FOLDER.join("older")).unwrap();
    fs::write(FOLDER.join("older/metrics.csv"), "epoch,step,lr\n1,4,0.001\n").unwrap();
    let cases = [
        ("similar --checkpoint nothing", "nothing"),
        ("similar --checkpoint empty", "name the folder of a run"),
        ("similar --checkpoint run --queries 0", "1000 images"),
        ("similar --checkpoint run --neighbours 0", "--neighbours"),
        ("similar --checkpoint run --dataset cifar10 --data empty", "--data names the folder"),
        ("map --checkpoint run --images -1", "--images"),
        ("map --checkpoint run --images 1", "--images 1"),
        ("map --checkpoint run --device cuda:77", "--device"),
        ("attention --checkpoint run --block 2", "--block 2"),
        ("attention --checkpoint run --images 2000", "1000 images"),
        ("attention --checkpoint run --weights momentum", "had none"),
        ("curves empty", "name the folder of a run"),
        ("curves older", "if another version wrote it"),
        ("explain --groups 5", "5 distinct images"),
        ("explain --patches-per-side 5", "--patches-per-side 5"),
        ("explain --dataset cifar100 --data empty", "--data names the folder"),
    ];
    for (options, expected) in cases {
        let output = pictures(options);
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success() && said.contains(expected), "{options}: {said}");
        // What the command line itself refuses, clap says in lines of its own.
        let lines = said.trim_end().lines().count();
        assert!(lines == 1 || said.contains("--help"), "{options}: {said}");
    }
    let output = pictures("curves run --out nowhere/curves.png");
    assert!(!output.status.success() && String::from_utf8_lossy(&output.stderr).contains("nowhere"));
}
